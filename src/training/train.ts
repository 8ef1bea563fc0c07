// The training loop: steps over batches that are a function of the step, so that a resumed run sees what it would have seen.

import { gpuErrors } from "../engine/device.ts";
import { nextTask } from "../engine/idle.ts";
import { valueAndGradients } from "../engine/gradients.ts";
import * as tf from "../engine/tf.ts";
import { languageModelLoss, type Model } from "../models/decoder.ts";
import type { Batch } from "../protocol/data.ts";
import { applyGradients, type Optimizer } from "./optimizer.ts";
import { lossInput } from "./loss.ts";

export interface TrainOptions {
  /** Steps that are done already. */
  from: number;
  steps: number;
  batchAt: (step: number) => Batch;
  learningRateAt: (step: number) => number;
  /** Whether this parameter is trained at this step; all are if not given. */
  trains?: (name: string, step: number) => boolean;
  /** After each step. Awaited: a checkpoint written here is of a whole number of steps. */
  onStep: (done: StepDone) => Promise<void>;
  /** Asked after each step; the loop then ends. */
  stopping: () => boolean;
}

export interface StepDone {
  /** Steps done by now. */
  step: number;
  /** Mean nats per trained token, before the update. */
  loss: number;
  batch: Batch;
  seconds: number;
}

/** Train until the last step or until stopped. Returns the steps done. */
export async function train(model: Model, optimizer: Optimizer, options: TrainOptions): Promise<number> {
  const { from, steps, batchAt, learningRateAt, trains = () => true, onStep, stopping } = options;
  for (let step = from; step < steps; step++) {
    const startedMs = performance.now();
    const batch = batchAt(step);
    const active = optimizer.parameters.map(({ name }) => trains(name, step));
    const loss = await trainStep(model, optimizer, batch, learningRateAt(step), active);
    await onStep({ step: step + 1, loss, batch, seconds: (performance.now() - startedMs) / 1000 });
    await nextTask(); // Lets messages in, a stop among them.
    if (stopping()) return step + 1;
  }
  return steps;
}

/**
 * Update the optimizer's active parameters by the gradient of this batch's loss. Returns the loss before the update.
 *
 * Throws if the loss is not a number, or if the GPU reported an error: WebGPU drops failed work silently. The update has then been done: take the weights from the last checkpoint.
 */
export async function trainStep(
  model: Model,
  optimizer: Optimizer,
  batch: Batch,
  learningRate: number,
  active: boolean[] = optimizer.parameters.map(() => true),
  onRoute?: (layer: number, chosen: tf.Tensor) => void,
): Promise<number> {
  const errorsBefore = gpuErrors().count;
  const loss = tf.tidy(() => {
    const input = lossInput(batch);
    const leaves = optimizer.parameters.filter((_, i) => active[i]).map(({ tensor }) => tensor);
    const { value, gradients } = valueAndGradients(() => languageModelLoss(model, input, { onRoute }), leaves);
    let next = 0;
    const perParameter = active.map((on) => (on ? gradients[next++] : null));
    applyGradients(optimizer, perParameter, learningRate);
    return value;
  });
  const [value] = await loss.data();
  loss.dispose();
  const { count, latest } = gpuErrors();
  if (count > errorsBefore) {
    throw new Error(
      `The GPU refused work in step ${optimizer.step}, so its result cannot be trusted (${latest}). ` +
        "The last checkpoint is unharmed: resume from it, or run on the CPU.",
    );
  }
  if (!Number.isFinite(value)) {
    throw new Error(
      `The loss became ${value} at step ${optimizer.step}. Lower the learning rate; the last checkpoint is unharmed.`,
    );
  }
  return value;
}
