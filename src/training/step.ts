// One training step: loss and gradients of a batch, one update.

import { valueAndGradients } from "../engine/gradients.ts";
import * as tf from "../engine/tf.ts";
import { type ForwardOptions, languageModelLoss, type LossInput, type Model } from "../models/decoder.ts";
import type { Batch } from "../protocol/data.ts";
import { applyGradients, type Optimizer } from "./optimizer.ts";

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

/**
 * Update the optimizer's parameters by the gradient of this batch's loss. Returns the loss before the update, in nats.
 *
 * Throws if the loss is not a number: the update has then been done, and a caller who wants the weights back
 * takes them from the last checkpoint.
 */
export async function trainStep(
  model: Model,
  optimizer: Optimizer,
  batch: Batch,
  learningRate: number,
  options: ForwardOptions = {},
): Promise<number> {
  const loss = tf.tidy(() => {
    const input = lossInput(batch);
    const leaves = optimizer.parameters.map(({ tensor }) => tensor);
    const { value, gradients } = valueAndGradients(() => languageModelLoss(model, input, options), leaves);
    applyGradients(optimizer, gradients, learningRate);
    return value;
  });
  const [value] = await loss.data();
  loss.dispose();
  if (!Number.isFinite(value)) {
    throw new Error(
      `The loss became ${value} at step ${optimizer.step}. Lower the learning rate; the last checkpoint is unharmed.`,
    );
  }
  return value;
}
