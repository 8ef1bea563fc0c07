// Value and gradients with respect to a list of leaves; operations can ask which leaves those are.

import * as tf from "./tf.ts";

let leaves: Set<number> | null = null;

/**
 * Whether the gradient of `weight` is wanted in the differentiation under way (true outside of one).
 *
 * The tape skips what is frozen by itself; an operation that computes all its gradients in one pass asks here.
 */
export function wantsGradient(weight: tf.Tensor): boolean {
  return leaves === null || leaves.has(weight.id);
}

/** f: () -> scalar. Returns its value and the gradient for each of `xs`, zero where f does not depend on it. */
export function valueAndGradients(f: () => tf.Scalar, xs: tf.Tensor[]): { value: tf.Scalar; gradients: tf.Tensor[] } {
  const outer = leaves;
  leaves = new Set(xs.map((x) => x.id));
  try {
    const { value, grads } = tf.engine().gradients(f, xs, undefined, true);
    const gradients = grads.map((gradient, i) => gradient ?? tf.zerosLike(xs[i]));
    return { value: value, gradients };
  } finally {
    leaves = outer;
  }
}

/** The same content off the tape: no gradient passes. Shares memory with `x`; the two are disposed of independently. */
export function detached(x: tf.Tensor): tf.Tensor {
  tf.backend().incRef(x.dataId);
  return tf.engine().makeTensorFromTensorInfo({ dataId: x.dataId, shape: x.shape, dtype: x.dtype });
}
