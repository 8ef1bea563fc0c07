// AdamW over a named set of parameters, updated in place.

import { adamW, type Moments, squaredNorm } from "../engine/ops/adamW.ts";
import * as tf from "../engine/tf.ts";
import type { NamedTensor } from "../models/weights.ts";

export interface OptimizerSettings {
  beta1: number;
  beta2: number;
  eps: number;
  /** On matrices only: vectors (norms, biases) are not decayed. */
  weightDecay: number;
  /** Gradients are scaled down to this norm over all parameters; 0 leaves them alone. */
  clipNorm: number;
}

export const DEFAULT_OPTIMIZER: OptimizerSettings = {
  beta1: 0.9,
  beta2: 0.95,
  eps: 1e-8,
  weightDecay: 0.01,
  clipNorm: 1,
};

/** Parameters with their moments. The moments are the optimizer's; the parameters stay the model's. */
export interface Optimizer {
  settings: OptimizerSettings;
  parameters: NamedTensor[];
  moments: Moments[];
  /** Updates done. */
  step: number;
}

export function createOptimizer(parameters: NamedTensor[], settings: OptimizerSettings): Optimizer {
  const moments = parameters.map(({ tensor }) => ({ m: tf.zeros(tensor.shape), v: tf.zeros(tensor.shape) }));
  return { settings, parameters, moments, step: 0 };
}

/** One update. `gradients` are in the order of the parameters; a null leaves its parameter and moments alone. */
export function applyGradients(optimizer: Optimizer, gradients: (tf.Tensor | null)[], learningRate: number): void {
  optimizer.step += 1;
  const { settings, parameters, moments, step } = optimizer;
  tf.tidy(() => {
    const norm = squaredNorm(gradients.filter((gradient) => gradient !== null));
    parameters.forEach(({ tensor }, i) => {
      const gradient = gradients[i];
      if (gradient === null) return;
      const weightDecay = tensor.rank >= 2 ? settings.weightDecay : 0;
      adamW(tensor, gradient, moments[i], norm, { ...settings, weightDecay, learningRate, step });
    });
  });
}

export function disposeOptimizer(optimizer: Optimizer): void {
  tf.dispose(optimizer.moments.flatMap(({ m, v }) => [m, v]));
}
