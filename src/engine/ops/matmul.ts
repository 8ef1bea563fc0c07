// Matrix product in the layouts that training needs: x·Wᵀ forward, dY·W and dYᵀ·x backward.

import { defineOp, hasKernel, runOp } from "../op.ts";
import * as tf from "../tf.ts";
import { at, cpu, make } from "../wasm/heap.ts";

/**
 * a: [M, K] ([K, M] if transposeA), b: [K, N] ([N, K] if transposeB) -> [M, N].
 *
 * Two dimensions only: fold leading axes into M first.
 */
export function matmul(a: tf.Tensor, b: tf.Tensor, transposeA = false, transposeB = false): tf.Tensor {
  const inner = a.shape[transposeA ? 0 : 1];
  if (a.rank !== 2 || b.rank !== 2 || inner !== b.shape[transposeB ? 1 : 0]) {
    throw new Error(`matmul: a is [${a.shape}]${transposeA ? "ᵀ" : ""}, b is [${b.shape}]${transposeB ? "ᵀ" : ""}`);
  }
  if (!hasKernel("Matmul")) return matmulReference(a, b, transposeA, transposeB);
  return runOp("Matmul", { a, b }, { transposeA, transposeB });
}

/** The definition in plain operations. */
export function matmulReference(a: tf.Tensor, b: tf.Tensor, transposeA: boolean, transposeB: boolean): tf.Tensor {
  return tf.matMul(a as tf.Tensor2D, b as tf.Tensor2D, transposeA, transposeB);
}

interface Attributes {
  transposeA: boolean;
  transposeB: boolean;
}

defineOp<Attributes>({
  name: "Matmul",
  saves: ["a", "b"],
  wasm: ({ a, b }, { transposeA: tA, transposeB: tB }) => {
    const [m, k] = tA ? [a.shape[1], a.shape[0]] : a.shape;
    const n = b.shape[tB ? 0 : 1];
    const c = make([m, n]);
    cpu().gemm(tA, tB, m, n, k, at(a), a.shape[1], at(b), b.shape[1], at(c), n, false);
    return c;
  },
  gradient: ([dy], [a, b], { transposeA: tA, transposeB: tB }) => ({
    a: () => (tA ? matmul(b, dy, tB, true) : matmul(dy, b, false, !tB)),
    b: () => (tB ? matmul(dy, a, true, tA) : matmul(a, dy, !tA, false)),
  }),
});
