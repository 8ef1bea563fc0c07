// The optimizer: AdamW in place, and the squared norm it clips by.

import { at } from "./math";
import { ADAMW, evenly, give, given, LANES, share, SQUARES } from "./threads";

// Nanoseconds for an element.
const SQUARE_TAKES = 0.25;
const UPDATE_TAKES = 0.9;

const BLOCK = 1 << 14; // Elements that are added up by themselves; then block is added to block.

function blocksOf(n: i32): i32 {
  return (n + BLOCK - 1) / BLOCK;
}

/** Bytes of working memory for `squaredSum`. */
export function squaredSumBytes(n: i32): i32 {
  return blocksOf(n) << 3;
}

/** The sum of x squared, in double precision. */
export function squaredSum(x: usize, y: usize, n: i32, work: usize): void {
  const blocks = blocksOf(n);
  give<usize>(0, x);
  give<i32>(1, n);
  give<usize>(2, work);
  share(SQUARES, blocks, evenly(blocks, 1), <f64>n * SQUARE_TAKES, true);
  let sum: f64 = 0;
  for (let block = 0; block < blocks; block++) sum += load<f64>(work + ((<usize>block) << 3));
  store<f32>(y, <f32>sum);
}

/** Blocks `first` to `last`. */
export function squaresPiece(first: i32, last: i32): void {
  const x = given<usize>(0);
  const n = given<i32>(1);
  const work = given<usize>(2);
  for (let block = first; block < last; block++) {
    const start = block * BLOCK;
    store<f64>(work + ((<usize>block) << 3), sumOfSquares(at(x, start), min(BLOCK, n - start)));
  }
}

function sumOfSquares(x: usize, n: i32): f64 {
  let low = f64x2.splat(0);
  let high = f64x2.splat(0);
  let i = 0;
  for (; i + 4 <= n; i += 4) {
    const v = v128.load(at(x, i));
    const a = f64x2.promote_low_f32x4(v);
    const b = f64x2.promote_low_f32x4(v128.shuffle<f32>(v, v, 2, 3, 2, 3));
    low = f64x2.add(low, f64x2.mul(a, a));
    high = f64x2.add(high, f64x2.mul(b, b));
  }
  const sums = f64x2.add(low, high);
  let sum = f64x2.extract_lane(sums, 0) + f64x2.extract_lane(sums, 1);
  for (; i < n; i++) {
    const v = <f64>load<f32>(at(x, i));
    sum += v * v;
  }
  return sum;
}

/**
 * parameter, m, v in place from gradient, n elements each. The gradient is scaled to `clipNorm` where the square root
 * of `squaredNorm` (an address) is above it and clipNorm is not 0.
 *
 * Where the norm is no number, nothing is changed. `rates` is the address of: learningRate / (1 - beta1^step), 1 / (1 - beta2^step), 1 - learningRate * weightDecay.
 */
export function adamW(
  parameter: usize,
  gradient: usize,
  m: usize,
  v: usize,
  squaredNorm: usize,
  rates: usize,
  n: i32,
  clipNorm: f32,
  beta1: f32,
  beta2: f32,
  rest1: f32,
  rest2: f32,
  eps: f32,
  decays: boolean,
): void {
  give<usize>(0, parameter);
  give<usize>(1, gradient);
  give<usize>(2, m);
  give<usize>(3, v);
  give<usize>(4, squaredNorm);
  give<usize>(5, rates);
  give<f32>(6, clipNorm);
  give<f32>(7, beta1);
  give<f32>(8, beta2);
  give<f32>(9, rest1);
  give<f32>(10, rest2);
  give<f32>(11, eps);
  give<boolean>(12, decays);
  share(ADAMW, n, evenly(n, LANES), <f64>n * UPDATE_TAKES, false);
}

export function adamWPiece(first: i32, last: i32): void {
  const parameter = given<usize>(0);
  const gradient = given<usize>(1);
  const m = given<usize>(2);
  const v = given<usize>(3);
  const squaredNorm = given<usize>(4);
  const rates = given<usize>(5);
  const clipNorm = given<f32>(6);
  const beta1 = given<f32>(7);
  const beta2 = given<f32>(8);
  const rest1 = given<f32>(9);
  const rest2 = given<f32>(10);
  const eps = given<f32>(11);
  const decays = given<boolean>(12);
  const stepSize = load<f32>(rates);
  const scale = load<f32>(rates, 4);
  const keep: f32 = decays ? load<f32>(rates, 8) : 1;
  const norm = sqrt(load<f32>(squaredNorm));
  if (!isFinite(norm)) return;
  const clip: f32 = clipNorm > 0 && norm > clipNorm ? clipNorm / norm : 1;
  const clips = f32x4.splat(clip);
  let i = first;
  for (; i + 4 <= last; i += 4) {
    const g = f32x4.mul(v128.load(at(gradient, i)), clips);
    const moment = f32x4.add(f32x4.mul(f32x4.splat(beta1), v128.load(at(m, i))), f32x4.mul(f32x4.splat(rest1), g));
    const second = f32x4.add(
      f32x4.mul(f32x4.splat(beta2), v128.load(at(v, i))),
      f32x4.mul(f32x4.mul(f32x4.splat(rest2), g), g),
    );
    const denominator = f32x4.add(f32x4.sqrt(f32x4.mul(second, f32x4.splat(scale))), f32x4.splat(eps));
    const decayed = f32x4.mul(v128.load(at(parameter, i)), f32x4.splat(keep));
    const move = f32x4.div(f32x4.mul(f32x4.splat(stepSize), moment), denominator);
    v128.store(at(m, i), moment);
    v128.store(at(v, i), second);
    v128.store(at(parameter, i), f32x4.sub(decayed, move));
  }
  for (; i < last; i++) {
    const g = load<f32>(at(gradient, i)) * clip;
    const moment = beta1 * load<f32>(at(m, i)) + rest1 * g;
    const second = beta2 * load<f32>(at(v, i)) + rest2 * g * g;
    store<f32>(at(m, i), moment);
    store<f32>(at(v, i), second);
    const move = (stepSize * moment) / (sqrt(second * scale) + eps);
    store<f32>(at(parameter, i), load<f32>(at(parameter, i)) * keep - move);
  }
}
