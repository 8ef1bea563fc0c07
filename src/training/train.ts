// The training loop: steps over batches that are a function of the step, so that a resumed run sees what it would have seen.

import { nextTask } from "../engine/idle.ts";
import type { Model } from "../models/decoder.ts";
import type { Batch } from "../protocol/data.ts";
import type { Optimizer } from "./optimizer.ts";
import { createStepper, type StepperOptions } from "./step.ts";

export interface TrainOptions extends StepperOptions {
  /** Steps that are done already. */
  from: number;
  steps: number;
  /** The step's batch; in several parts where memory has no room for the whole. */
  batchAt: (step: number) => Batch[];
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
  /** Tokens that were read, without padding. */
  tokens: number;
  seconds: number;
}

/** Train until the last step or until stopped. Returns the steps done. */
export async function train(model: Model, optimizer: Optimizer, options: TrainOptions): Promise<number> {
  const { from, steps, batchAt, learningRateAt, trains = () => true, onStep, stopping } = options;
  const stepper = createStepper(model, optimizer, options);
  try {
    for (let step = from; step < steps; step++) {
      const startedMs = performance.now();
      const batches = batchAt(step);
      const active = optimizer.parameters.map(({ name }) => trains(name, step));
      const { loss } = await stepper.step(batches, { learningRate: learningRateAt(step), active });
      const tokens = batches.reduce((sum, batch) => sum + batch.tokens, 0);
      await onStep({ step: step + 1, loss, tokens, seconds: (performance.now() - startedMs) / 1000 });
      await nextTask(); // Lets messages in, a stop among them.
      if (stopping()) return step + 1;
    }
    return steps;
  } finally {
    stepper.dispose();
  }
}
