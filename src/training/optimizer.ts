// AdamW over a named set of parameters, updated in place.

import { type AdamWSettings, type AdamWState, adamWState, disposeAdamWState } from "../engine/ops/adamW.ts";
import type { NamedTensor } from "../models/weights.ts";

/** Weight decay is on matrices only: vectors (norms, biases) are not decayed. */
export type OptimizerSettings = AdamWSettings;

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
  state: AdamWState;
  /** Updates done. */
  step: number;
}

export function createOptimizer(parameters: NamedTensor[], settings: OptimizerSettings): Optimizer {
  const tensors = parameters.map(({ tensor }) => tensor);
  const decays = tensors.map(({ rank }) => rank >= 2);
  return { settings, parameters, state: adamWState(tensors, decays), step: 0 };
}

export function disposeOptimizer(optimizer: Optimizer): void {
  disposeAdamWState(optimizer.state);
}
