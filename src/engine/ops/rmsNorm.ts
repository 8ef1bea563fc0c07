// RMSNorm (Zhang & Sennrich, 2019, eq. 4): y = weight * x / rms(x).

import { defineOp, hasKernel, runOp, runOps } from "../op.ts";
import * as tf from "../tf.ts";
import { at, cpu, make } from "../wasm/heap.ts";

/**
 * Scale each row of the last axis to unit root mean square, then by `weight`.
 *
 * x: [..., D], weight: [D] -> [..., D]. `eps` is added to the mean square.
 */
export function rmsNorm(x: tf.Tensor, weight: tf.Tensor, eps: number): tf.Tensor {
  if (x.shape.at(-1) !== weight.size) {
    throw new Error(`rmsNorm: x is [${x.shape}], weight is [${weight.shape}]`);
  }
  if (!hasKernel("RmsNorm")) return rmsNormReference(x, weight, eps);
  return runOp("RmsNorm", { x, weight }, { eps });
}

/** The definition in plain operations. The kernels are tested against it. */
export function rmsNormReference(x: tf.Tensor, weight: tf.Tensor, eps: number): tf.Tensor {
  return x.mul(x.square().mean(-1, true).add(eps).rsqrt()).mul(weight);
}

interface Attributes {
  eps: number;
}

/** All axes but the last, folded. */
function rowsOf(x: tf.TensorInfo): number {
  return tf.util.sizeFromShape(x.shape.slice(0, -1));
}

defineOp<Attributes>({
  name: "RmsNorm",
  saves: ["x", "weight"],
  wasm: ({ x, weight }, { eps }) => {
    const y = make(x.shape);
    cpu().rmsNorm(at(x), at(weight), at(y), rowsOf(x), x.shape.at(-1)!, eps);
    return y;
  },
  gradient: ([dy], [x, weight], { eps }) => {
    const [dx, dweight] = runOps("RmsNormGradient", { dy, x, weight }, { eps });
    return { x: () => dx, weight: () => dweight };
  },
});

/** dy, x, weight -> [dx, dweight], shaped like x and weight. */
defineOp<Attributes>({
  name: "RmsNormGradient",
  wasm: ({ dy, x, weight }, { eps }) => {
    const [dx, dweight] = [make(x.shape), make(weight.shape)];
    cpu().rmsNormGradient(at(dy), at(x), at(weight), at(dx), at(dweight), rowsOf(x), x.shape.at(-1)!, eps);
    return [dx, dweight];
  },
});
