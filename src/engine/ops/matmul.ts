// Matrix product in the layouts that training needs: x·Wᵀ forward, dY·W and dYᵀ·x backward.

import { allocate, launch } from "../launch.ts";
import { defineOp, hasKernel, runOp } from "../op.ts";
import * as tf from "../tf.ts";
import { at, cpu, make } from "../wasm/heap.ts";
import { lines } from "../wgsl.ts";

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
  return tf.matMul(a, b, transposeA, transposeB);
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
  webgpu: ({ a, b }, { transposeA, transposeB }) => {
    const [M, K] = transposeA ? [a.shape[1], a.shape[0]] : a.shape;
    const N = b.shape[transposeB ? 0 : 1];
    const c = allocate([M, N]);
    multiply({ a, b, c, M, N, K, transposeA, transposeB });
    return c;
  },
  gradient: ([dy], [a, b], { transposeA: tA, transposeB: tB }) => ({
    a: () => (tA ? matmul(b, dy, tB, true) : matmul(dy, b, false, !tB)),
    b: () => (tB ? matmul(dy, a, true, tA) : matmul(a, dy, !tA, false)),
  }),
});

export interface Product extends Attributes {
  a: tf.TensorInfo;
  b: tf.TensorInfo;
  c: tf.TensorInfo;
  M: number;
  N: number;
  K: number;
  /** Elements of `a`, `b` and `c` to skip: a product of some rows of larger tensors. */
  aStart?: number;
  bStart?: number;
  cStart?: number;
  /** Add to what `c` holds. */
  accumulate?: boolean;
}

const [ACROSS, DOWN] = [8, 8]; // Threads of a workgroup.
const COLUMNS = 4; // Of c, per thread.

/** On the GPU: c (+)= a·b, with the transposes asked for. */
export function multiply(product: Product): void {
  const { a, b, c, M, N, K, transposeA, transposeB, aStart = 0, bStart = 0, cStart = 0, accumulate = false } = product;
  const rows = M >= 64 ? 8 : M >= 16 ? 4 : M > 1 ? 2 : 1;
  const tilesAcross = Math.ceil(N / (ACROSS * COLUMNS));
  launch({
    name: "matmul",
    source: tiles(rows, transposeA, transposeB, accumulate),
    reads: { a, b },
    writes: { c },
    sizes: { M, N, K, aStart, bStart, cStart, tilesAcross },
    workgroups: tilesAcross * Math.ceil(M / (DOWN * rows)),
    threads: ACROSS * DOWN,
  });
}

/**
 * Each thread computes `rows` x COLUMNS of c in registers, straight from memory: no barrier, which software GPUs are
 * slow at. Rows and columns past the edge are computed from the last ones and not stored.
 */
function tiles(rows: number, transposeA: boolean, transposeB: boolean, accumulate: boolean): string {
  return /* wgsl */ `
    fn main(group: u32, thread: u32) {
      let row = (group / u.tilesAcross) * ${DOWN * rows}u + (thread / ${ACROSS}u) * ${rows}u;
      let column = (group % u.tilesAcross) * ${ACROSS * COLUMNS}u + (thread % ${ACROSS}u) * ${COLUMNS}u;
      if (row >= u.M || column >= u.N) { return; }
      ${lines(rows, (i) => `var a${i} = u.aStart + min(row + ${i}u, u.M - 1u)${transposeA ? "" : " * u.K"};`)}
      ${lines(COLUMNS, (j) => `var b${j} = u.bStart + min(column + ${j}u, u.N - 1u)${transposeB ? " * u.K" : ""};`)}
      ${lines(rows, (i) => `var c${i} = vec4<f32>();`)}
      for (var k = 0u; k < u.K; k++) {
        let y = vec4(b[b0], b[b1], b[b2], b[b3]);
        ${lines(rows, (i) => `c${i} += a[a${i}] * y; a${i} += ${transposeA ? "u.M" : "1u"};`)}
        ${lines(COLUMNS, (j) => `b${j} += ${transposeB ? "1u" : "u.N"};`)}
      }
      ${lines(rows, (i) => `store(row + ${i}u, column, c${i});`)}
    }
    fn store(row: u32, column: u32, values: vec4<f32>) {
      if (row >= u.M) { return; }
      let start = u.cStart + row * u.N + column;
      for (var j = 0u; j < min(${COLUMNS}u, u.N - column); j++) { c[start + j] ${accumulate ? "+=" : "="} values[j]; }
    }
  `;
}
