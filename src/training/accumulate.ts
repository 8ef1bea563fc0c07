// Loss and gradients of a step, from one batch or from several that stand for one.

import { detached, valueAndGradients } from "../engine/gradients.ts";
import { add } from "../engine/ops/add.ts";
import { addInto } from "../engine/ops/addInto.ts";
import { zeros } from "../engine/ops/zeros.ts";
import * as tf from "../engine/tf.ts";
import { finalNorm, type ForwardOptions, lastStates, type LossInput, lossOf, type Model } from "../models/decoder.ts";
import { mtpLoss } from "../models/mtp.ts";

export type LossAndGradients = {
  /** Of the next token, in nats: the sum over the batches. What is asked of tokens further on moves only the gradients. */
  value: tf.Scalar;
  /** One for each leaf. */
  gradients: tf.Tensor[];
};

/**
 * What training minimises: the loss of the next token and, where the input asks for them, those of the tokens after it
 * (DeepSeek-V3, section 2.2). `onMain` sees the former alone.
 */
export function trainingLoss(
  model: Model,
  input: LossInput,
  options: ForwardOptions = {},
  onMain: (loss: tf.Scalar) => void = () => {},
): tf.Scalar {
  const x = lastStates(model, input, options);
  const main = lossOf(model, model.norm, x, input);
  onMain(main);
  const { ahead } = input;
  if (!ahead) return main;
  return add(main, mtpLoss(model, finalNorm(model, x), { ...input, ahead }, options)) as tf.Scalar;
}

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
  const of = (input: LossInput) => one(model, input, leaves, options);
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

function one(model: Model, input: LossInput, leaves: tf.Tensor[], options: ForwardOptions): LossAndGradients {
  if (!input.ahead) return valueAndGradients(() => trainingLoss(model, input, options), leaves);
  const mains: tf.Scalar[] = [];
  const keep = (loss: tf.Scalar) => void mains.push(tf.keep(detached(loss) as tf.Scalar));
  try {
    const { value, gradients } = valueAndGradients(() => trainingLoss(model, input, options, keep), leaves);
    value.dispose();
    return { value: mains[0].clone(), gradients };
  } finally {
    tf.dispose(mains);
  }
}
