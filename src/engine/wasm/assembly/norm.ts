// RMSNorm: y = weight * x / rms(x), row by row, and its gradient.

import { addScaled, at, clear, dot, sum4 } from "./math";
import { evenly, give, given, NORM, NORM_GRADIENT, share } from "./threads";

// Nanoseconds for an element, forward and backward.
const TAKES = 0.4;
const GRADIENT_TAKES = 0.8;

function inverseRms(x: usize, width: i32, eps: f32): f32 {
  return 1 / sqrt(dot(x, x, width) / <f32>width + eps);
}

/** x, weight, y: [width] */
export function normalizeRow(x: usize, weight: usize, y: usize, width: i32, eps: f32): void {
  const r = inverseRms(x, width, eps);
  const r4 = f32x4.splat(r);
  let i = 0;
  for (; i + 4 <= width; i += 4) {
    v128.store(at(y, i), f32x4.mul(f32x4.mul(v128.load(at(x, i)), r4), v128.load(at(weight, i))));
  }
  for (; i < width; i++) store<f32>(at(y, i), load<f32>(at(x, i)) * r * load<f32>(at(weight, i)));
}

/**
 * x: rows of [width], `ldx` elements apart, weight: [width] -> y: [rows, width], of the rows at `positions`: int32 [rows], or
 * of all where the address of these is 0.
 */
export function rmsNorm(
  x: usize,
  ldx: i32,
  positions: usize,
  weight: usize,
  y: usize,
  rows: i32,
  width: i32,
  eps: f32,
): void {
  give<usize>(0, x);
  give<i32>(1, ldx);
  give<usize>(2, weight);
  give<usize>(3, y);
  give<i32>(4, width);
  give<f32>(5, eps);
  give<usize>(6, positions);
  share(NORM, rows, evenly(rows, 1), <f64>rows * <f64>width * TAKES, true);
}

export function normPiece(first: i32, last: i32): void {
  const x = given<usize>(0);
  const ldx = given<i32>(1);
  const weight = given<usize>(2);
  const y = given<usize>(3);
  const width = given<i32>(4);
  const eps = given<f32>(5);
  const positions = given<usize>(6);
  for (let row = first; row < last; row++) {
    const position = positions == 0 ? row : load<i32>(at(positions, row));
    normalizeRow(at(x, position * ldx), weight, at(y, row * width), width, eps);
  }
}

const BLOCK = 64; // Rows whose parts of the weight's gradient are added up in their order; then block is added to block.

function blocksOf(rows: i32): i32 {
  return (rows + BLOCK - 1) / BLOCK;
}

/** Bytes of working memory for `rmsNormGradient` with the weight's. */
export function rmsNormGradientBytes(rows: i32, width: i32): i32 {
  return (blocksOf(rows) * width) << 2;
}

/**
 * dy: [taken, width], passed: [rows, width], x and dx: the same, `ldx` elements apart, weight: [width] -> dx, dweight: [width].
 * `places`: int32 [rows], the row of dy that belongs to each of x; dx is zero where that is none. 0: they are the same rows.
 *
 * With r = 1 / rms(x) and g = dy * weight: dx = passed + r * (g - x * mean(g * x) * r^2), dweight = the sum over rows of
 * dy * x * r. `passed` 0: zeros. `dweight` 0: not wanted.
 */
export function rmsNormGradient(
  dy: usize,
  places: usize,
  taken: i32,
  x: usize,
  ldx: i32,
  weight: usize,
  passed: usize,
  dx: usize,
  dweight: usize,
  rows: i32,
  width: i32,
  eps: f32,
  work: usize,
): void {
  const blocks = blocksOf(rows);
  const parts = dweight == 0 ? <usize>0 : work; // [blocks, width]
  give<usize>(0, dy);
  give<usize>(1, x);
  give<i32>(2, ldx);
  give<usize>(3, weight);
  give<usize>(4, passed);
  give<usize>(5, dx);
  give<usize>(6, parts);
  give<i32>(7, rows);
  give<i32>(8, width);
  give<f32>(9, eps);
  give<usize>(10, places);
  give<i32>(11, taken);
  share(NORM_GRADIENT, blocks, evenly(blocks, 1), <f64>rows * <f64>width * GRADIENT_TAKES, true);
  if (dweight == 0) return;
  clear(dweight, width);
  for (let block = 0; block < blocks; block++) addScaled(dweight, at(parts, block * width), 1, width);
}

/** Blocks `first` to `last`. */
export function normGradientPiece(first: i32, last: i32): void {
  const dy = given<usize>(0);
  const x = given<usize>(1);
  const ldx = given<i32>(2);
  const weight = given<usize>(3);
  const passed = given<usize>(4);
  const dx = given<usize>(5);
  const parts = given<usize>(6);
  const rows = given<i32>(7);
  const width = given<i32>(8);
  const eps = given<f32>(9);
  const places = given<usize>(10);
  const taken = given<i32>(11);
  for (let block = first; block < last; block++) {
    const part = parts == 0 ? <usize>0 : at(parts, block * width);
    if (part != 0) clear(part, width);
    for (let row = block * BLOCK; row < min(rows, (block + 1) * BLOCK); row++) {
      const place = places == 0 ? row : load<i32>(at(places, row));
      if (<u32>place >= <u32>taken) {
        clear(at(dx, row * ldx), width);
        continue;
      }
      const further = passed == 0 ? <usize>0 : at(passed, row * width);
      rowGradient(at(dy, place * width), at(x, row * ldx), weight, further, at(dx, row * ldx), part, width, eps);
    }
  }
}

/** One row; its part of the weight's gradient is added to dweight, unless that is 0. */
function rowGradient(
  dy: usize,
  x: usize,
  weight: usize,
  passed: usize,
  dx: usize,
  dweight: usize,
  width: i32,
  eps: f32,
): void {
  const r = inverseRms(x, width, eps);
  if (dweight != 0) addRowTo(dweight, dy, x, r, width);
  const along = (weightedDot(dy, x, weight, width) / <f32>width) * r * r;
  const r4 = f32x4.splat(r);
  const along4 = f32x4.splat(along);
  let i = 0;
  for (; i + 4 <= width; i += 4) {
    const g = f32x4.mul(v128.load(at(dy, i)), v128.load(at(weight, i)));
    const own = f32x4.mul(f32x4.sub(g, f32x4.mul(v128.load(at(x, i)), along4)), r4);
    v128.store(at(dx, i), passed == 0 ? own : f32x4.add(own, v128.load(at(passed, i))));
  }
  for (; i < width; i++) {
    const g = load<f32>(at(dy, i)) * load<f32>(at(weight, i));
    const own = (g - load<f32>(at(x, i)) * along) * r;
    store<f32>(at(dx, i), passed == 0 ? own : own + load<f32>(at(passed, i)));
  }
}

/** dweight += dy * x * r */
function addRowTo(dweight: usize, dy: usize, x: usize, r: f32, width: i32): void {
  const r4 = f32x4.splat(r);
  let i = 0;
  for (; i + 4 <= width; i += 4) {
    const dyx = f32x4.mul(v128.load(at(dy, i)), v128.load(at(x, i)));
    v128.store(at(dweight, i), f32x4.add(v128.load(at(dweight, i)), f32x4.mul(dyx, r4)));
  }
  for (; i < width; i++) {
    const dyx = load<f32>(at(dy, i)) * load<f32>(at(x, i));
    store<f32>(at(dweight, i), load<f32>(at(dweight, i)) + dyx * r);
  }
}

/** The sum of dy * x * weight. */
function weightedDot(dy: usize, x: usize, weight: usize, width: i32): f32 {
  let sum = f32x4.splat(0);
  let rest: f32 = 0;
  let i = 0;
  for (; i + 4 <= width; i += 4) {
    const dyx = f32x4.mul(v128.load(at(dy, i)), v128.load(at(x, i)));
    sum = f32x4.add(sum, f32x4.mul(dyx, v128.load(at(weight, i))));
  }
  for (; i < width; i++) rest += load<f32>(at(dy, i)) * load<f32>(at(x, i)) * load<f32>(at(weight, i));
  return sum4(sum) + rest;
}
