// RMSNorm: y = weight * x / rms(x), row by row, and its gradient.

import { at, clear, dot, sum4 } from "./math";

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

/** x: [rows, width], `ldx` elements apart, weight: [width] -> y: [rows, width] */
export function rmsNorm(x: usize, ldx: i32, weight: usize, y: usize, rows: i32, width: i32, eps: f32): void {
  for (let row = 0; row < rows; row++) normalizeRow(at(x, row * ldx), weight, at(y, row * width), width, eps);
}

/**
 * dy, passed: [rows, width], x and dx: the same, `ldx` elements apart, weight: [width] -> dx, dweight: [width].
 *
 * With r = 1 / rms(x) and g = dy * weight: dx = passed + r * (g - x * mean(g * x) * r^2), dweight = the sum over rows of
 * dy * x * r. `passed` 0: zeros. `dweight` 0: not wanted.
 */
export function rmsNormGradient(
  dy: usize,
  x: usize,
  ldx: i32,
  weight: usize,
  passed: usize,
  dx: usize,
  dweight: usize,
  rows: i32,
  width: i32,
  eps: f32,
): void {
  if (dweight != 0) clear(dweight, width);
  for (let row = 0; row < rows; row++) {
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
    dy = at(dy, width);
    x = at(x, ldx);
    dx = at(dx, ldx);
    if (passed != 0) passed = at(passed, width);
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
