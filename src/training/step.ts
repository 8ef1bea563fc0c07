// One step of training: loss, gradients and update, recorded once for each shape of batch and replayed from there.

import { watchingErrors } from "../engine/device.ts";
import { adamW, adamWRates } from "../engine/ops/adamW.ts";
import { overwrite, type Recording, record } from "../engine/record.ts";
import * as tf from "../engine/tf.ts";
import type { ForwardOptions, LossInput, Model } from "../models/decoder.ts";
import type { Batch } from "../protocol/data.ts";
import { lossAndGradients } from "./accumulate.ts";
import { balanceLoads } from "./balance.ts";
import { lossInput, mtpOf, overwriteInput } from "./loss.ts";
import type { Optimizer } from "./optimizer.ts";

export interface StepperOptions {
  /** Compute layers again on the way back instead of remembering them: less memory, a third more work. */
  recompute?: boolean;
  /** Move the routers' biases towards an even load of the experts after each step (DeepSeek-V3, section 2.1.2). */
  balance?: boolean;
  /** Weight of the multi-token prediction layers' mean loss beside the main one (DeepSeek-V3: 0.3, later 0.1). Default 0. */
  mtpWeight?: number;
}

export interface StepSettings {
  learningRate: number;
  /** Which of the optimizer's parameters are trained; all, if not given. */
  active?: boolean[];
  /** By how much a router's bias moves. */
  balanceSpeed?: number;
}

export interface StepResult {
  /** Before the update, of the next token: nats, the mean over the trained tokens. */
  loss: number;
  /** The load of the busiest expert over the mean load, in the layer where that is most; with `balance` only. */
  worstLoad: number | null;
}

export interface Stepper {
  /**
   * Update the active parameters by the gradient of these batches' loss. Several stand for one that memory has no room
   * for: their weights add up to 1 over all of them (makeBatch's totalWeight).
   *
   * Where it throws, the step has not been done: a loss that is no number moves nothing, and what the GPU refuses or
   * cannot hold it refuses as a whole.
   */
  step: (batches: Batch[], settings: StepSettings) => Promise<StepResult>;
  dispose: () => void;
}

interface RecordedStep {
  inputs: LossInput[];
  rates: tf.Tensor;
  speed: tf.Tensor;
  recording: Recording<{ loss: tf.Tensor; loads: tf.Tensor[] }>;
}

const MOST_RECORDINGS = 8; // Shapes come back; of too many the one that was used least lately is let go.

/** Steps of this model and optimizer. Whoever changes the tree or the parameters' tensors makes a new stepper. */
export function createStepper(model: Model, optimizer: Optimizer, options: StepperOptions = {}): Stepper {
  const recorded = new Map<string, RecordedStep>();
  const all = optimizer.parameters.map(() => true);
  const mtp = mtpOf(model, options.mtpWeight ?? 0);

  async function step(
    batches: Batch[],
    { learningRate, active = all, balanceSpeed = 0 }: StepSettings,
  ): Promise<StepResult> {
    const own = await recordingOf(batches, active);
    own.inputs.forEach((input, i) => overwriteInput(input, batches[i], mtp));
    overwrite(own.rates, adamWRates(learningRate, optimizer.step + 1, optimizer.settings));
    overwrite(own.speed, Float32Array.of(balanceSpeed));
    const next = optimizer.step + 1;
    const [[loss], ...loads] = await watchingErrors(
      () => {
        const outputs = own.recording.replay();
        return Promise.all([outputs.loss.data(), ...outputs.loads.map((load) => load.data())]);
      },
      (latest) => `The GPU refused step ${next}, and nothing of it was done (${latest}). Go on on the CPU.`,
    );
    if (!Number.isFinite(loss)) {
      throw new Error(
        `The loss became ${loss} at step ${next}, which was not done. Lower the learning rate and resume.`,
      );
    }
    optimizer.step = next;
    return { loss, worstLoad: options.balance ? Math.max(1, ...loads.map(([load]) => load)) : null };
  }

  async function recordingOf(batches: Batch[], active: boolean[]): Promise<RecordedStep> {
    const key = `${batches.map(shapeOf).join()} ${active.map(Number).join("")}`;
    const own = recorded.get(key) ?? (await recordStep(model, optimizer, batches, active, options));
    recorded.delete(key);
    recorded.set(key, own); // Last in order: used latest.
    if (recorded.size > MOST_RECORDINGS) {
      const [oldest, old] = recorded.entries().next().value!;
      recorded.delete(oldest);
      disposeStep(old);
    }
    return own;
  }

  function dispose(): void {
    recorded.forEach(disposeStep);
    recorded.clear();
  }

  return { step, dispose };
}

/** What a recording of a batch's step can be used for again: batches alike in this. */
export function shapeOf({ rows, length, positions, packed }: Batch): string {
  return `${rows} ${length} ${positions.length}${packed ? " packed" : ""}`;
}

async function recordStep(
  model: Model,
  optimizer: Optimizer,
  batches: Batch[],
  active: boolean[],
  { recompute = false, balance = false, mtpWeight = 0 }: StepperOptions,
): Promise<RecordedStep> {
  const inputs = batches.map((batch) => lossInput(batch, mtpOf(model, mtpWeight)));
  const [rates, speed] = [tf.zeros([3]), tf.zeros([1])];
  const leaves = optimizer.parameters.filter((_, i) => active[i]).map(({ tensor }) => tensor);
  try {
    const recording = await record(() => {
      const balancing = balance ? balanceLoads(model) : null;
      const options: ForwardOptions = { recompute, onRoute: balancing?.onRoute };
      const { value, gradients } = lossAndGradients(model, inputs, leaves, options);
      let next = 0;
      const perParameter = active.map((on) => (on ? gradients[next++] : null));
      adamW(optimizer.state, perParameter, rates, optimizer.settings);
      return { loss: value as tf.Tensor, loads: balancing?.apply(speed) ?? [] };
    });
    return { inputs, rates, speed, recording };
  } catch (error) {
    tf.dispose([inputs as unknown as tf.TensorContainer[], rates, speed]);
    throw error;
  }
}

function disposeStep({ inputs, rates, speed, recording }: RecordedStep): void {
  recording.dispose();
  tf.dispose([inputs as unknown as tf.TensorContainer[], rates, speed]);
}
