// The head and a loss on its rows, with the gradients, a block of tokens at a time: no more than a block of logits is ever
// held, and none is computed twice.

import { distilRow } from "./distilLoss";
import { gemm, gemmPacked } from "./gemm";
import { at, clear, exp1, exp4, log1, sum4 } from "./math";
import { evenly, forEachThread, give, given, LOSS, ownPart, share } from "./threads";

const TOKENS = 256; // Of a block, at most,
const BLOCK = 1 << 18; // or fewer where their logits would take more elements than this (1 MB),
const FEWEST_TOKENS = 32; // but not fewer than this: they make slow products.

const TAKES = 1.5; // Nanoseconds for a logit's part of the loss and its gradient.

/** Tokens whose logits are computed together. */
export function blockTokens(v: i32): i32 {
  return max(FEWEST_TOKENS, min(TOKENS, BLOCK / v));
}

/** Bytes of working memory that `headLoss` wants; k: of `distilRow`. */
export function headLossBytes(v: i32, k: i32): i32 {
  return ((blockTokens(v) * (v + 2)) << 2) + forEachThread(k << 2);
}

/** The first row whose target is no word though its weight is not 0, or -1. targets: k for each row. */
export function firstWrongTarget(targets: usize, weights: usize, m: i32, k: i32, v: i32): i32 {
  for (let i = 0; i < m * k; i++) {
    if (load<u32>(at(targets, i)) >= <u32>v && load<f32>(at(weights, i / k)) != 0) return i;
  }
  return -1;
}

/**
 * Cross-entropy (k = 0): targets: int32 [m]. Distillation (k > 0): targets: int32 [m, k], with their logProbabilities.
 *
 * h: [m, d], weights: [m] -> loss: []; and unless their addresses are 0, the gradients dh: [m, d], dweight: [v, d] (of a head
 * of one part).
 *
 * The head is in `parts` parts, by rows of the vocabulary; `head` is a table of their formats (-1: float32),
 * addresses and numbers of rows.
 */
export function headLoss(
  h: usize,
  head: usize,
  parts: i32,
  targets: usize,
  logProbabilities: usize,
  weights: usize,
  loss: usize,
  dh: usize,
  dweight: usize,
  m: i32,
  d: i32,
  v: i32,
  k: i32,
  temperature: f32,
  work: usize,
): void {
  const most = blockTokens(v);
  const logits = work;
  const losses = at(logits, most * v); // float64 [most]
  const scratch = at(losses, 2 * most);
  let total: f64 = 0;
  if (dweight && m == 0) clear(dweight, v * d);
  for (let m0 = 0; m0 < m; m0 += most) {
    const tokens = min(most, m - m0);
    const x = at(h, m0 * d);
    toLogits(x, head, parts, tokens, d, v, logits);
    const known = m0 * max(1, k);
    give<usize>(0, logits);
    give<usize>(1, at(targets, known));
    give<usize>(2, at(logProbabilities, known));
    give<usize>(3, at(weights, m0));
    give<usize>(4, losses);
    give<i32>(5, v);
    give<i32>(6, k);
    give<f32>(7, temperature);
    give<bool>(8, dh != 0);
    give<usize>(9, scratch);
    share(LOSS, tokens, evenly(tokens, 1), <f64>tokens * <f64>v * TAKES, false);
    for (let i = 0; i < tokens; i++) total += load<f64>(losses + ((<usize>i) << 3));
    if (!dh) continue;
    toHidden(logits, head, parts, tokens, d, v, at(dh, m0 * d));
    if (dweight) gemm(true, false, v, d, tokens, logits, v, x, d, dweight, d, m0 > 0);
  }
  store<f32>(loss, <f32>total);
}

/** Rows `first` to `last` of a block: logits -> gradients by them, in place, and the rows' losses. */
export function lossPiece(first: i32, last: i32): void {
  const logits = given<usize>(0);
  const targets = given<usize>(1);
  const logProbabilities = given<usize>(2);
  const weights = given<usize>(3);
  const losses = given<usize>(4);
  const v = given<i32>(5);
  const k = given<i32>(6);
  const temperature = given<f32>(7);
  const gradient = given<bool>(8);
  const scratch = ownPart(given<usize>(9), k << 2);
  for (let i = first; i < last; i++) {
    const row = at(logits, i * v);
    const w = load<f32>(at(weights, i));
    const known = i * k;
    let loss: f64 = 0;
    if (w == 0) clear(row, v);
    else if (k == 0) loss = crossEntropyRow(row, v, load<i32>(at(targets, i)), w, gradient);
    else loss = distilRow(row, v, at(targets, known), at(logProbabilities, known), k, temperature, w, scratch);
    store<f64>(losses + ((<usize>i) << 3), loss);
  }
}

/** x: [tokens, d] -> logits: [tokens, v]. */
export function toLogits(x: usize, head: usize, parts: i32, tokens: i32, d: i32, v: i32, logits: usize): void {
  let v0 = 0;
  for (let part = 0; part < parts; part++) {
    const words = load<i32>(at(head, 3 * part + 2));
    partProduct(head, part, true, tokens, words, d, x, d, at(logits, v0), v, false);
    v0 += words;
  }
}

/** dlogits: [tokens, v] -> dx: [tokens, d]. */
function toHidden(dlogits: usize, head: usize, parts: i32, tokens: i32, d: i32, v: i32, dx: usize): void {
  let v0 = 0;
  for (let part = 0; part < parts; part++) {
    const words = load<i32>(at(head, 3 * part + 2));
    partProduct(head, part, false, tokens, d, words, at(dlogits, v0), v, dx, d, part > 0);
    v0 += words;
  }
}

/** A product with a part of the head (its transpose, if `transpose`), stored plain or small. */
function partProduct(
  head: usize,
  part: i32,
  transpose: bool,
  m: i32,
  n: i32,
  k: i32,
  a: usize,
  lda: i32,
  c: usize,
  ldc: i32,
  accumulate: bool,
): void {
  const format = load<i32>(at(head, 3 * part));
  const b = <usize>load<u32>(at(head, 3 * part + 1));
  const d = transpose ? k : n;
  if (format < 0) gemm(false, transpose, m, n, k, a, lda, b, d, c, ldc, accumulate);
  else gemmPacked(format, transpose, m, n, k, a, lda, b, transpose ? n : k, d, c, ldc, accumulate);
}

/** Returns the weighted loss of a row of v logits, each of which becomes the loss's gradient by it if that is asked for. */
function crossEntropyRow(row: usize, v: i32, target: i32, w: f32, gradient: bool): f64 {
  const normalizer = logSumExp(row, v);
  const loss = <f64>w * (<f64>normalizer - <f64>load<f32>(at(row, target)));
  if (!gradient) return loss;
  const shift = f32x4.splat(normalizer);
  const factors = f32x4.splat(w);
  let i = 0;
  for (; i + 4 <= v; i += 4) {
    v128.store(at(row, i), f32x4.mul(exp4(f32x4.sub(v128.load(at(row, i)), shift)), factors));
  }
  for (; i < v; i++) store<f32>(at(row, i), exp1(load<f32>(at(row, i)) - normalizer) * w);
  store<f32>(at(row, target), load<f32>(at(row, target)) - w);
  return loss;
}

/** The logarithm of the sum of e^x over n elements. */
export function logSumExp(x: usize, n: i32): f32 {
  let most4 = f32x4.splat(-Infinity);
  let i = 0;
  for (; i + 4 <= n; i += 4) most4 = f32x4.pmax(most4, v128.load(at(x, i)));
  let most = max(
    max(f32x4.extract_lane(most4, 0), f32x4.extract_lane(most4, 1)),
    max(f32x4.extract_lane(most4, 2), f32x4.extract_lane(most4, 3)),
  );
  for (; i < n; i++) most = max(most, load<f32>(at(x, i)));
  const shift = f32x4.splat(most);
  let sums = f32x4.splat(0);
  let rest: f32 = 0;
  for (i = 0; i + 4 <= n; i += 4) sums = f32x4.add(sums, exp4(f32x4.sub(v128.load(at(x, i)), shift)));
  for (; i < n; i++) rest += exp1(load<f32>(at(x, i)) - most);
  return most + <f32>log1(sum4(sums) + rest);
}
