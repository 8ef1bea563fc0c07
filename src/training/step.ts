// One step of training: loss, gradients and update, recorded once for each shape of batch and replayed from there.

import { watchingErrors } from "../engine/device.ts";
import { valueAndGradients } from "../engine/gradients.ts";
import { adamW, adamWRates } from "../engine/ops/adamW.ts";
import { overwrite, type Recording, record } from "../engine/record.ts";
import * as tf from "../engine/tf.ts";
import { languageModelLoss, type LossInput, type Model } from "../models/decoder.ts";
import type { Batch } from "../protocol/data.ts";
import { lossInput } from "./loss.ts";
import type { Optimizer } from "./optimizer.ts";

export interface StepperOptions {
  /** Compute layers again on the way back instead of remembering them: less memory, a third more work. */
  recompute?: boolean;
}

export interface Stepper {
  /**
   * Update the active parameters (all, if not given) by the gradient of this batch's loss. Returns the loss before the
   * update, in nats.
   *
   * Where it throws, the step has not been done: a loss that is no number moves nothing, and what the GPU refuses or
   * cannot hold it refuses as a whole.
   */
  step: (batch: Batch, learningRate: number, active?: boolean[]) => Promise<number>;
  dispose: () => void;
}

interface RecordedStep {
  input: LossInput;
  rates: tf.Tensor;
  recording: Recording<tf.Scalar>;
}

const MOST_RECORDINGS = 8; // Shapes come back; of too many the one that was used least lately is let go.

/** Steps of this model and optimizer. Whoever changes the tree or the parameters' tensors makes a new stepper. */
export function createStepper(model: Model, optimizer: Optimizer, options: StepperOptions = {}): Stepper {
  const recorded = new Map<string, RecordedStep>();
  const all = optimizer.parameters.map(() => true);

  async function step(batch: Batch, learningRate: number, active: boolean[] = all): Promise<number> {
    const key = `${batch.rows} ${batch.length} ${batch.positions.length} ${active.map(Number).join("")}`;
    const own = recorded.get(key) ?? (await recordStep(model, optimizer, batch, active, options));
    recorded.delete(key);
    recorded.set(key, own); // Last in order: used latest.
    if (recorded.size > MOST_RECORDINGS) {
      const [oldest, { input, rates, recording }] = recorded.entries().next().value!;
      recorded.delete(oldest);
      disposeStep({ input, rates, recording });
    }
    overwrite(own.input.ids, batch.ids);
    overwrite(own.input.positions, batch.positions);
    overwrite(own.input.targets, batch.targets);
    overwrite(own.input.weights, batch.weights);
    overwrite(own.rates, adamWRates(learningRate, optimizer.step + 1, optimizer.settings));
    const next = optimizer.step + 1;
    const [loss] = await watchingErrors(
      () => own.recording.replay().data(),
      (latest) => `The GPU refused step ${next}, and nothing of it was done (${latest}). Go on on the CPU.`,
    );
    if (!Number.isFinite(loss)) {
      throw new Error(`The loss became ${loss} at step ${next}, which was not done. Lower the learning rate and resume.`);
    }
    optimizer.step = next;
    return loss;
  }

  function dispose(): void {
    recorded.forEach(disposeStep);
    recorded.clear();
  }

  return { step, dispose };
}

async function recordStep(
  model: Model,
  optimizer: Optimizer,
  batch: Batch,
  active: boolean[],
  { recompute = false }: StepperOptions,
): Promise<RecordedStep> {
  const input = lossInput(batch);
  const rates = tf.zeros([3]);
  const leaves = optimizer.parameters.filter((_, i) => active[i]).map(({ tensor }) => tensor);
  try {
    const recording = await record(() => {
      const { value, gradients } = valueAndGradients(() => languageModelLoss(model, input, { recompute }), leaves);
      let next = 0;
      const perParameter = active.map((on) => (on ? gradients[next++] : null));
      adamW(optimizer.state, perParameter, rates, optimizer.settings);
      return value;
    });
    return { input, rates, recording };
  } catch (error) {
    tf.dispose([...Object.values(input), rates]);
    throw error;
  }
}

function disposeStep({ input, rates, recording }: RecordedStep): void {
  recording.dispose();
  tf.dispose([...Object.values(input), rates]);
}
