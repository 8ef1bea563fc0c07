// A batch on its way into the model.

import { overwrite } from "../engine/record.ts";
import * as tf from "../engine/tf.ts";
import { languageModelLoss, type LossInput, type Model } from "../models/decoder.ts";
import type { Batch } from "../protocol/data.ts";

/** The batch as tensors. The caller disposes of them (or calls inside tf.tidy). */
export function lossInput(batch: Batch): LossInput {
  const { rows, length, ids, positions, targets, weights, packed } = batch;
  const perToken = (values: Int32Array): tf.Tensor => tf.tensor2d(values, [rows, length], "int32");
  return {
    ids: perToken(ids),
    positions: tf.tensor1d(positions, "int32"),
    targets: tf.tensor1d(targets, "int32"),
    weights: tf.tensor1d(weights, "float32"),
    ...(packed && { packed: { positionIds: perToken(packed.positionIds), starts: perToken(packed.starts) } }),
  };
}

/** Put another batch of the same shape in its place. */
export function overwriteInput(input: LossInput, batch: Batch): void {
  overwrite(input.ids, batch.ids);
  overwrite(input.positions, batch.positions);
  overwrite(input.targets, batch.targets);
  overwrite(input.weights, batch.weights);
  if (input.packed && batch.packed) {
    overwrite(input.packed.positionIds, batch.packed.positionIds);
    overwrite(input.packed.starts, batch.packed.starts);
  }
}

/** Mean loss of a batch in nats, without training. */
export async function batchLoss(model: Model, batch: Batch): Promise<number> {
  const loss = tf.tidy(() => languageModelLoss(model, lossInput(batch)));
  const [value] = await loss.data();
  loss.dispose();
  return value;
}
