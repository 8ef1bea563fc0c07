// The head and its cross-entropy, a block of tokens by a block of the vocabulary at a time: no more than one block of
// logits is ever held, whatever the vocabulary. With the gradients at once, where whole rows of logits fit into a block:
// that saves computing the logits again.

import { gemm } from "./gemm";
import { at, clear, exp1, exp4, log1, sum4 } from "./math";

const TOKENS = 256;
const WORDS = 256;
const WHOLE_ROWS = 1 << 18; // Elements of a block of whole rows (1 MB),
const FEWEST_TOKENS = 32; // of at least so many tokens: fewer make slow products.

/** Bytes of working memory that the functions here want. */
export function headLossBytes(): i32 {
  return (WHOLE_ROWS + 3 * TOKENS) << 2;
}

/** The largest vocabulary for `headLossAndGradient`. */
export function headLossWidestRow(): i32 {
  return WHOLE_ROWS / FEWEST_TOKENS;
}

/** The first row whose target is no word though its weight is not 0, or -1. */
export function firstWrongTarget(targets: usize, weights: usize, m: i32, v: i32): i32 {
  for (let row = 0; row < m; row++) {
    if (load<u32>(at(targets, row)) >= <u32>v && load<f32>(at(weights, row)) != 0) return row;
  }
  return -1;
}

/** h: [m, d], weight: [v, d], targets: int32 [m], weights: [m] -> loss: [], logsumexp: [m]. */
export function headLoss(
  h: usize,
  weight: usize,
  targets: usize,
  weights: usize,
  loss: usize,
  logsumexp: usize,
  m: i32,
  d: i32,
  v: i32,
  work: usize,
): void {
  const logits = work;
  const largest = at(work, TOKENS * WORDS);
  const sums = at(largest, TOKENS);
  const own = at(sums, TOKENS);
  let total: f64 = 0;
  for (let m0 = 0; m0 < m; m0 += TOKENS) {
    const tokens = min(TOKENS, m - m0);
    for (let i = 0; i < tokens; i++) store<f32>(at(largest, i), -Infinity);
    clear(sums, tokens);
    clear(own, tokens);
    for (let v0 = 0; v0 < v; v0 += WORDS) {
      const words = min(WORDS, v - v0);
      gemm(false, true, tokens, words, d, at(h, m0 * d), d, at(weight, v0 * d), d, logits, WORDS, false);
      for (let i = 0; i < tokens; i++) {
        const row = at(logits, i * WORDS);
        const target = load<i32>(at(targets, m0 + i)) - v0;
        if (<u32>target < <u32>words) store<f32>(at(own, i), load<f32>(at(row, target)));
        addExponentials(row, words, at(largest, i), at(sums, i));
      }
    }
    for (let i = 0; i < tokens; i++) {
      const value = load<f32>(at(largest, i)) + <f32>log1(load<f32>(at(sums, i)));
      store<f32>(at(logsumexp, m0 + i), value);
      const w = load<f32>(at(weights, m0 + i));
      if (w != 0) total += <f64>w * (<f64>value - <f64>load<f32>(at(own, i)));
    }
  }
  store<f32>(loss, <f32>total);
}

/** Take a row of n logits into the running maximum and the running sum of e^(logit - maximum). */
function addExponentials(row: usize, n: i32, largest: usize, sum: usize): void {
  const before = load<f32>(largest);
  let most4 = f32x4.splat(before);
  let i = 0;
  for (; i + 4 <= n; i += 4) most4 = f32x4.pmax(most4, v128.load(at(row, i)));
  let most = max(
    max(f32x4.extract_lane(most4, 0), f32x4.extract_lane(most4, 1)),
    max(f32x4.extract_lane(most4, 2), f32x4.extract_lane(most4, 3)),
  );
  for (; i < n; i++) most = max(most, load<f32>(at(row, i)));
  const shift = f32x4.splat(most);
  let sums = f32x4.splat(0);
  let rest: f32 = 0;
  for (i = 0; i + 4 <= n; i += 4) sums = f32x4.add(sums, exp4(f32x4.sub(v128.load(at(row, i)), shift)));
  for (; i < n; i++) rest += exp1(load<f32>(at(row, i)) - most);
  store<f32>(sum, load<f32>(sum) * exp1(before - most) + (sum4(sums) + rest));
  store<f32>(largest, most);
}

/**
 * The same, and its gradients at dy = 1: dh: [m, d], and dweight: [v, d] unless its address is 0. `v` is at most
 * `headLossWidestRow()`.
 */
export function headLossAndGradient(
  h: usize,
  weight: usize,
  targets: usize,
  weights: usize,
  loss: usize,
  logsumexp: usize,
  dh: usize,
  dweight: usize,
  m: i32,
  d: i32,
  v: i32,
  work: usize,
): void {
  const most = min(TOKENS, WHOLE_ROWS / v);
  const largest = at(work, WHOLE_ROWS);
  const sum = at(largest, 1);
  let total: f64 = 0;
  if (dweight && m == 0) clear(dweight, v * d);
  for (let m0 = 0; m0 < m; m0 += most) {
    const tokens = min(most, m - m0);
    const rows = at(h, m0 * d);
    gemm(false, true, tokens, v, d, rows, d, weight, d, work, v, false);
    for (let i = 0; i < tokens; i++) {
      const row = at(work, i * v);
      const w = load<f32>(at(weights, m0 + i));
      const target = load<i32>(at(targets, m0 + i));
      store<f32>(largest, -Infinity);
      store<f32>(sum, 0);
      addExponentials(row, v, largest, sum);
      const normalizer = load<f32>(largest) + <f32>log1(load<f32>(sum));
      store<f32>(at(logsumexp, m0 + i), normalizer);
      if (w != 0) total += <f64>w * (<f64>normalizer - <f64>load<f32>(at(row, target)));
      scaleProbabilities(row, v, normalizer, w);
      if (<u32>target < <u32>v) store<f32>(at(row, target), load<f32>(at(row, target)) - w);
    }
    gemm(false, false, tokens, d, v, work, v, weight, d, at(dh, m0 * d), d, false);
    if (dweight) gemm(true, false, v, d, tokens, work, v, rows, d, dweight, d, m0 > 0);
  }
  store<f32>(loss, <f32>total);
}

/**
 * dy: [] and what `headLoss` saved -> dh: [m, d], and dweight: [v, d] unless its address is 0.
 *
 * dlogits[i, j] = dy * weights[i] * (e^(logits[i, j] - logsumexp[i]) - [j = targets[i]]), computed block by block.
 */
export function headLossGradient(
  dy: usize,
  h: usize,
  weight: usize,
  targets: usize,
  weights: usize,
  logsumexp: usize,
  dh: usize,
  dweight: usize,
  m: i32,
  d: i32,
  v: i32,
  work: usize,
): void {
  const outer = load<f32>(dy);
  if (dweight && m == 0) clear(dweight, v * d);
  for (let m0 = 0; m0 < m; m0 += TOKENS) {
    const tokens = min(TOKENS, m - m0);
    const rows = at(h, m0 * d);
    for (let v0 = 0; v0 < v; v0 += WORDS) {
      const words = min(WORDS, v - v0);
      const table = at(weight, v0 * d);
      gemm(false, true, tokens, words, d, rows, d, table, d, work, WORDS, false);
      for (let i = 0; i < tokens; i++) {
        const row = at(work, i * WORDS);
        const factor = outer * load<f32>(at(weights, m0 + i));
        const target = load<i32>(at(targets, m0 + i)) - v0;
        scaleProbabilities(row, words, load<f32>(at(logsumexp, m0 + i)), factor);
        if (<u32>target < <u32>words) store<f32>(at(row, target), load<f32>(at(row, target)) - factor);
      }
      gemm(false, false, tokens, d, words, work, WORDS, table, d, at(dh, m0 * d), d, v0 > 0);
      if (dweight) gemm(true, false, words, d, tokens, work, WORDS, rows, d, at(dweight, v0 * d), d, m0 > 0);
    }
  }
}

/** logits -> factor * e^(logits - logsumexp), in place. */
function scaleProbabilities(row: usize, n: i32, logsumexp: f32, factor: f32): void {
  const shift = f32x4.splat(logsumexp);
  const factors = f32x4.splat(factor);
  let i = 0;
  for (; i + 4 <= n; i += 4) {
    v128.store(at(row, i), f32x4.mul(exp4(f32x4.sub(v128.load(at(row, i)), shift)), factors));
  }
  for (; i < n; i++) store<f32>(at(row, i), exp1(load<f32>(at(row, i)) - logsumexp) * factor);
}
