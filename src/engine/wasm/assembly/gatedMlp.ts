// The gated MLP y = down(silu(gate(x)) * up(x)) and its gradient, some rows at a time so that they stay in the cache.

// n rows, d hidden size, f channels.

import { gemm } from "./gemm";
import { at } from "./math";
import { DOWN, GATE, multiplyByPart, UP } from "./stored";
import { swiGlu, swiGluGradient } from "./swiGlu";

const ROWS = 256;

/** Bytes of working memory for `gatedMlp`. */
export function gatedMlpBytes(f: i32): i32 {
  return (ROWS * f) << 2;
}

/**
 * x: [n, d], matrices: gate, up: [f, d], down: [d, f] -> y: [n, d], added to what it holds if `accumulate`; hidden: [2, n, f], the
 * products with gate and with up.
 */
export function gatedMlp(
  x: usize,
  matrices: usize,
  y: usize,
  hidden: usize,
  n: i32,
  d: i32,
  f: i32,
  accumulate: bool,
  work: usize,
): void {
  const act = work; // [ROWS, f]
  for (let row = 0; row < n; row += ROWS) {
    const count = min(ROWS, n - row);
    const rows = at(x, row * d);
    const gates = at(hidden, row * f);
    const ups = at(hidden, (n + row) * f);
    multiplyByPart(at(matrices, GATE), 0, d, true, count, f, d, rows, d, gates, f, false);
    multiplyByPart(at(matrices, UP), 0, d, true, count, f, d, rows, d, ups, f, false);
    swiGlu(gates, ups, act, count * f);
    multiplyByPart(at(matrices, DOWN), 0, f, true, count, d, f, act, f, at(y, row * d), d, accumulate);
  }
}

/** Bytes of working memory for `gatedMlpGradient`. */
export function gatedMlpGradientBytes(f: i32): i32 {
  return (2 * ROWS * f) << 2;
}

/**
 * dy: [n, d] and what the forward saw and gave -> dx: [n, d], added to what it holds if `accumulate`; and dgate, dup,
 * ddown, shaped like the weights, unless dgate is 0.
 */
export function gatedMlpGradient(
  dy: usize,
  x: usize,
  matrices: usize,
  hidden: usize,
  dx: usize,
  dgate: usize,
  dup: usize,
  ddown: usize,
  n: i32,
  d: i32,
  f: i32,
  accumulate: bool,
  work: usize,
): void {
  const dact = work; // [ROWS, f], then the gradient by the gate's product.
  const act = at(dact, ROWS * f); // [ROWS, f], then the gradient by the up product.
  for (let row = 0; row < n; row += ROWS) {
    const count = min(ROWS, n - row);
    const more = row > 0;
    const rows = at(x, row * d);
    const outputs = at(dy, row * d);
    const gates = at(hidden, row * f);
    const ups = at(hidden, (n + row) * f);
    multiplyByPart(at(matrices, DOWN), 0, f, false, count, f, d, outputs, d, dact, f, false);
    if (dgate) {
      swiGlu(gates, ups, act, count * f);
      gemm(true, false, d, f, count, outputs, d, act, f, ddown, f, more);
    }
    swiGluGradient(dact, gates, ups, dact, act, count * f);
    if (dgate) {
      gemm(true, false, f, d, count, dact, f, rows, d, dgate, d, more);
      gemm(true, false, f, d, count, act, f, rows, d, dup, d, more);
    }
    multiplyByPart(at(matrices, GATE), 0, d, false, count, d, f, dact, f, at(dx, row * d), d, accumulate);
    multiplyByPart(at(matrices, UP), 0, d, false, count, d, f, act, f, at(dx, row * d), d, true);
  }
}
