// The language-model head and its cross-entropy in one operation, over chunks of tokens: the logits of a whole batch
// are never held (Wijmans et al., 2024, "Cut your losses", section 4).

// M tokens that carry loss, D hidden size, V vocabulary.

import { wantsGradient } from "../gradients.ts";
import { defineOp, hasKernel, runOps } from "../op.ts";
import * as tf from "../tf.ts";
import { at, cpu, make, view, workspace } from "../wasm/heap.ts";

/**
 * h: [M, D], weight: [V, D], targets: int32 [M], weights: [M] -> scalar, nats:
 * the sum over m of weights[m] * (logsumexp(weight·h[m]) - (weight·h[m])[targets[m]]).
 *
 * For a mean over tokens the weights add up to 1. Rows of weight 0 are padding. Weights have no gradient.
 */
export function headLoss(h: tf.Tensor, weight: tf.Tensor, targets: tf.Tensor, weights: tf.Tensor): tf.Scalar {
  if (h.shape[1]! !== weight.shape[1]! || targets.size !== h.shape[0]! || weights.size !== h.shape[0]!) {
    throw new Error(
      `headLoss: h is [${h.shape}], weight is [${weight.shape}], targets [${targets.shape}], weights [${weights.shape}]`,
    );
  }
  if (!hasKernel("HeadLoss")) return headLossReference(h, weight, targets, weights);
  const weightGradient = wantsGradient(weight);
  const [loss, logsumexp] = runOps("HeadLoss", { h, weight, targets, weights }, { weightGradient });
  logsumexp.dispose(); // The tape has a clone where it needs one.
  return loss as tf.Scalar;
}

/** The definition in plain operations. */
export function headLossReference(h: tf.Tensor, weight: tf.Tensor, targets: tf.Tensor, weights: tf.Tensor): tf.Scalar {
  const logits = tf.matMul(h as tf.Tensor2D, weight as tf.Tensor2D, false, true); // [M, V]
  const own = tf
    .oneHot(targets as tf.Tensor1D, weight.shape[0]!)
    .mul(logits)
    .sum(-1);
  return tf.logSumExp(logits, -1).sub(own).mul(weights).sum() as tf.Scalar;
}

interface Attributes {
  /** False where the head is frozen. */
  weightGradient: boolean;
}

/** Outputs: loss [], logsumexp of each row [M] (kept for the gradient). */
defineOp<Attributes>({
  name: "HeadLoss",
  saves: ["h", "weight", "targets", "weights"],
  savesOutputs: [false, true],
  wasm: ({ h, weight, targets, weights }) => {
    const [M, D] = h.shape;
    const V = weight.shape[0];
    const [loss, logsumexp] = [make([]), make([M])];
    const addresses = [at(h), at(weight), at(targets), at(weights), at(loss), at(logsumexp)] as const;
    const wrong = cpu().headLoss(...addresses, M, D, V, workspace(cpu().headLossBytes()));
    if (wrong >= 0) throw new Error(`headLoss: target ${view(targets)[wrong]} is not in the vocabulary of ${V}`);
    return [loss, logsumexp];
  },
  gradient: ([dy], [h, weight, targets, weights, logsumexp], { weightGradient }) => {
    const inputs = { dy, h, weight, targets, weights, logsumexp };
    const [dh, dweight] = runOps("HeadLossGradient", inputs, { weightGradient });
    // A weight that is computed from a leaf is none itself, but its gradient is wanted all the same.
    const late = () => runOps("HeadLossGradient", inputs, { weightGradient: true })[1];
    return {
      h: () => dh,
      weight: () => dweight ?? late(),
      weights: () => tf.zerosLike(weights),
    };
  },
});

/** dy: [], h, weight, targets, weights, logsumexp: [M] -> [dh], or [dh, dweight] with weightGradient. */
defineOp<Attributes>({
  name: "HeadLossGradient",
  wasm: ({ dy, h, weight, targets, weights, logsumexp }, { weightGradient }) => {
    const [M, D] = h.shape;
    const outputs = weightGradient ? [make(h.shape), make(weight.shape)] : [make(h.shape)];
    const [dh, dweight] = [at(outputs[0]), weightGradient ? at(outputs[1]) : 0];
    const addresses = [at(dy), at(h), at(weight), at(targets), at(weights), at(logsumexp), dh, dweight] as const;
    cpu().headLossGradient(...addresses, M, D, weight.shape[0], workspace(cpu().headLossBytes()));
    return outputs;
  },
});
