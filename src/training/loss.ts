// A batch on its way into the model.

import * as tf from "../engine/tf.ts";
import { languageModelLoss, type LossInput, type Model } from "../models/decoder.ts";
import type { Batch } from "../protocol/data.ts";

/** The batch as tensors. The caller disposes of them (or calls inside tf.tidy). */
export function lossInput(batch: Batch): LossInput {
  return {
    ids: tf.tensor2d(batch.ids, [batch.rows, batch.length], "int32"),
    positions: tf.tensor1d(batch.positions, "int32"),
    targets: tf.tensor1d(batch.targets, "int32"),
    weights: tf.tensor1d(batch.weights, "float32"),
  };
}

/** Mean loss of a batch in nats, without training. */
export async function batchLoss(model: Model, batch: Batch): Promise<number> {
  const loss = tf.tidy(() => languageModelLoss(model, lossInput(batch)));
  const [value] = await loss.data();
  loss.dispose();
  return value;
}
