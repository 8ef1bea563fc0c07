// A batch on its way into the model.

import { overwrite } from "../engine/record.ts";
import * as tf from "../engine/tf.ts";
import { languageModelLoss, type LossInput, type Model, type Predictions } from "../models/decoder.ts";
import type { Batch } from "../protocol/data.ts";

/** What is asked of the multi-token prediction layers. */
export interface Mtp {
  /** How many there are. */
  depths: number;
  /** Lambda: the weight of the mean of their losses beside the main one (DeepSeek-V3, eq. 25). */
  weight: number;
}

/** What to ask of this model's layers; nothing at weight 0. */
export function mtpOf(model: Model, weight: number): Mtp | undefined {
  if (weight === 0) return undefined;
  if (model.mtp.length === 0) {
    throw new Error(
      "The model has no multi-token prediction layer (num_nextn_predict_layers is 0). Train it without mtpWeight.",
    );
  }
  return { depths: model.mtp.length, weight };
}

/** The batch as tensors. The caller disposes of them (or calls inside tf.tidy). */
export function lossInput(batch: Batch, mtp?: Mtp): LossInput {
  const { rows, length, packed } = batch;
  const perToken = (values: Int32Array): tf.Tensor => tf.tensor2d(values, [rows, length], "int32");
  const taken = (own: Taken) => ({
    positions: tf.tensor1d(own.positions, "int32"),
    places: tf.tensor1d(placesOf(own, rows * length), "int32"),
    weights: tf.tensor1d(own.weights, "float32"),
  });
  const ahead = mtp && lookAhead(batch, mtp).map(({ ids, ...own }) => ({ ids: perToken(ids), ...taken(own) }));
  return {
    ids: perToken(batch.ids),
    targets: tf.tensor1d(batch.targets, "int32"),
    ...taken(batch),
    ...(packed && { packed: { positionIds: perToken(packed.positionIds), starts: perToken(packed.starts) } }),
    ...(ahead && { ahead }),
  };
}

/** Put another batch of the same shape in its place. */
export function overwriteInput(input: LossInput, batch: Batch, mtp?: Mtp): void {
  overwrite(input.ids, batch.ids);
  overwrite(input.targets, batch.targets);
  overwriteTaken(input, batch);
  if (input.packed && batch.packed) {
    overwrite(input.packed.positionIds, batch.packed.positionIds);
    overwrite(input.packed.starts, batch.packed.starts);
  }
  if (!input.ahead || !mtp) return;
  for (const [k, { ids, ...own }] of lookAhead(batch, mtp).entries()) {
    overwrite(input.ahead[k].ids, ids);
    overwriteTaken(input.ahead[k], own);
  }
}

/** The rows that predict, and with what weight. */
type Taken = Pick<Batch, "positions" | "weights">;

function overwriteTaken(input: Omit<Predictions, "targets">, own: Taken): void {
  overwrite(input.positions, own.positions);
  overwrite(input.places, placesOf(own, input.places.size));
  overwrite(input.weights, own.weights);
}

/** For each of so many rows its place among those that predict, or -1. */
function placesOf({ positions, weights }: Taken, rows: number): Int32Array {
  const places = new Int32Array(rows).fill(-1);
  positions.forEach((row, m) => {
    if (weights[m] !== 0) places[row] = m;
  });
  return places;
}

/**
 * For each depth k = 1, 2, ...: every target is predicted from k tokens further back, where its sequence reaches back that far
 * (DeepSeek-V3, eq. 24). Weights are the main loss's times lambda / depths, so the sum of all is eq. 25.
 */
function lookAhead(batch: Batch, { depths, weight: lambda }: Mtp): (Taken & Pick<Batch, "ids">)[] {
  const { ids, length, positions, weights, packed } = batch;
  const beginOf = (at: number): number => at - (at % length) + (packed ? packed.starts[at] : 0);
  return Array.from({ length: depths }, (_, i) => {
    const k = i + 1;
    return {
      // Past the end of a sequence stands what follows it: no token that carries weight sees that.
      ids: ids.map((__, at) => ids[Math.min(at + k, ids.length - 1)]),
      positions: positions.map((at) => Math.max(0, at - k)),
      weights: weights.map((own, m) => (positions[m] - k >= beginOf(positions[m]) ? (own * lambda) / depths : 0)),
    };
  });
}

/** Mean loss of a batch in nats, without training. */
export async function batchLoss(model: Model, batch: Batch): Promise<number> {
  const loss = tf.tidy(() => languageModelLoss(model, lossInput(batch)));
  const [value] = await loss.data();
  loss.dispose();
  return value;
}
