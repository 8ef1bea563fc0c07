// Distillation against a teacher's largest log-probabilities: the row that the head's loop calls, and the choice of them.

import { at, exp1, exp4, log1 } from "./math";
import { blockTokens, logSumExp, toLogits } from "./headLoss";
import { evenly, give, given, share, TOP } from "./threads";

/** A logit that takes no part; an infinity would give infinity - infinity where no other is left. */
const NONE: f32 = -1e30;

/**
 * Returns the weighted loss of a row of v logits, each of which becomes the loss's gradient by it.
 *
 * With q = softmax(logits / T) and p the teacher's probabilities of the words `ids`, both with the rest in one bucket:
 * w T^2 KL(p || q); its gradient by a logit is w T (sum(p) q - p), where a word of the rest has its share
 * q / q(rest) of p(rest). `own`: k elements of working memory.
 */
export function distilRow(
  row: usize,
  v: i32,
  ids: usize,
  logProbabilities: usize,
  k: i32,
  temperature: f32,
  w: f32,
  own: usize,
): f64 {
  const inverse: f32 = 1 / temperature;
  for (let i = 0; i < v; i++) store<f32>(at(row, i), load<f32>(at(row, i)) * inverse);
  for (let i = 0; i < k; i++) {
    const word = at(row, load<i32>(at(ids, i)));
    store<f32>(at(own, i), load<f32>(word));
    store<f32>(word, NONE);
  }
  const logRest = logSumExp(row, v);
  const logKnown = logSumExp(own, k);
  const larger = max(logRest, logKnown);
  const logAll = larger + <f32>log1(exp1(logRest - larger) + exp1(logKnown - larger));

  let known: f64 = 0;
  let loss: f64 = 0;
  for (let i = 0; i < k; i++) {
    const logP = load<f32>(at(logProbabilities, i));
    const p = <f64>exp1(logP);
    known += p;
    loss += p * (<f64>logP - (<f64>load<f32>(at(own, i)) - <f64>logAll));
  }
  const rest = k < v ? max(1 - known, 0) : 0;
  if (rest > 0) loss += rest * (log1(rest) - (<f64>logRest - <f64>logAll));

  const factor = temperature * w;
  const whole = <f32>(known + rest) * factor;
  scaleRest(row, v, logAll, whole, logRest, <f32>rest * factor);
  for (let i = 0; i < k; i++) {
    const p = exp1(load<f32>(at(logProbabilities, i)));
    store<f32>(at(row, load<i32>(at(ids, i))), whole * exp1(load<f32>(at(own, i)) - logAll) - factor * p);
  }
  return <f64>w * <f64>temperature * <f64>temperature * loss;
}

/** x -> whole * e^(x - logAll) - rest * e^(x - logRest), in place. */
function scaleRest(row: usize, v: i32, logAll: f32, whole: f32, logRest: f32, rest: f32): void {
  let i = 0;
  for (; i + 4 <= v; i += 4) {
    const x = v128.load(at(row, i));
    const q = f32x4.mul(f32x4.splat(whole), exp4(f32x4.sub(x, f32x4.splat(logAll))));
    const p = f32x4.mul(f32x4.splat(rest), exp4(f32x4.sub(x, f32x4.splat(logRest))));
    v128.store(at(row, i), f32x4.sub(q, p));
  }
  for (; i < v; i++) {
    const x = load<f32>(at(row, i));
    store<f32>(at(row, i), whole * exp1(x - logAll) - rest * exp1(x - logRest));
  }
}

/** Bytes of working memory that `topLogProbabilities` wants. */
export function topLogProbabilitiesBytes(v: i32): i32 {
  return (blockTokens(v) * v) << 2;
}

const TAKES = 3; // Nanoseconds for a logit's part of the choice.

/**
 * h: [m, d] -> the k largest of each row's log-softmax of logits / temperature, largest first, the lower word first of
 * equals: ids: int32 [m, k], logProbabilities: [m, k].
 */
export function topLogProbabilities(
  h: usize,
  head: usize,
  parts: i32,
  ids: usize,
  logProbabilities: usize,
  m: i32,
  d: i32,
  v: i32,
  k: i32,
  temperature: f32,
  work: usize,
): void {
  const most = blockTokens(v);
  for (let m0 = 0; m0 < m; m0 += most) {
    const tokens = min(most, m - m0);
    toLogits(at(h, m0 * d), head, parts, tokens, d, v, work);
    give<usize>(0, work);
    give<usize>(1, at(ids, m0 * k));
    give<usize>(2, at(logProbabilities, m0 * k));
    give<i32>(3, v);
    give<i32>(4, k);
    give<f32>(5, 1 / temperature);
    share(TOP, tokens, evenly(tokens, 1), <f64>tokens * <f64>v * TAKES, false);
  }
}

/** Rows `first` to `last` of a block. */
export function topPiece(first: i32, last: i32): void {
  const logits = given<usize>(0);
  const ids = given<usize>(1);
  const logProbabilities = given<usize>(2);
  const v = given<i32>(3);
  const k = given<i32>(4);
  const inverse = given<f32>(5);
  for (let row = first; row < last; row++) {
    const own = at(logits, row * v);
    for (let i = 0; i < v; i++) store<f32>(at(own, i), load<f32>(at(own, i)) * inverse);
    const logAll = logSumExp(own, v);
    largest(own, v, at(ids, row * k), at(logProbabilities, row * k), k);
    for (let i = 0; i < k; i++) {
      const value = at(logProbabilities, row * k + i);
      store<f32>(value, load<f32>(value) - logAll);
    }
  }
}

/** The k largest of v elements in order, by insertion into the list of those found so far. */
function largest(x: usize, v: i32, ids: usize, values: usize, k: i32): void {
  let found = 0;
  for (let i = 0; i < v; i++) {
    const value = load<f32>(at(x, i));
    if (found == k && !(value > load<f32>(at(values, k - 1)))) continue;
    let place = found < k ? found++ : k - 1;
    for (; place > 0 && value > load<f32>(at(values, place - 1)); place--) {
      store<f32>(at(values, place), load<f32>(at(values, place - 1)));
      store<i32>(at(ids, place), load<i32>(at(ids, place - 1)));
    }
    store<f32>(at(values, place), value);
    store<i32>(at(ids, place), i);
  }
}
