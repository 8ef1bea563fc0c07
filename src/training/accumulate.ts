// Loss and gradients of a step, from one batch or from several that stand for one.

import { valueAndGradients } from "../engine/gradients.ts";
import { addInto } from "../engine/ops/addInto.ts";
import { zeros } from "../engine/ops/zeros.ts";
import * as tf from "../engine/tf.ts";
import { type ForwardOptions, languageModelLoss, type LossInput, type Model } from "../models/decoder.ts";

export type LossAndGradients = {
  /** Nats: the sum over the batches. */
  value: tf.Scalar;
  /** One for each leaf. */
  gradients: tf.Tensor[];
};

/**
 * The batches one after the other, in the memory of one. Their loss weights add up to 1 over all of them (makeBatch's
 * totalWeight): the result is then that of one batch of all their rows, however the trained tokens are spread.
 */
export function lossAndGradients(
  model: Model,
  inputs: LossInput[],
  leaves: tf.Tensor[],
  options: ForwardOptions = {},
): LossAndGradients {
  const of = (input: LossInput) => valueAndGradients(() => languageModelLoss(model, input, options), leaves);
  if (inputs.length === 1) return of(inputs[0]);
  const sums = { value: zeros([]) as tf.Scalar, gradients: leaves.map(({ shape }) => zeros(shape)) };
  for (const input of inputs) {
    const { value, gradients } = of(input);
    addInto(sums.value, value);
    gradients.forEach((gradient, i) => addInto(sums.gradients[i], gradient));
    tf.dispose([value, ...gradients]);
  }
  return sums;
}
