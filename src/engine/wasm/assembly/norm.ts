// RMSNorm: y = weight * x / rms(x), row by row, and its gradient.

import { at, clear, dot, sum4 } from "./math";

function inverseRms(x: usize, width: i32, eps: f32): f32 {
  return 1 / sqrt(dot(x, x, width) / <f32>width + eps);
}

/** x: [rows, width], weight: [width] -> y: [rows, width] */
export function rmsNorm(x: usize, weight: usize, y: usize, rows: i32, width: i32, eps: f32): void {
  for (let row = 0; row < rows; row++) {
    const r = inverseRms(x, width, eps);
    const r4 = f32x4.splat(r);
    let i = 0;
    for (; i + 4 <= width; i += 4) {
      v128.store(at(y, i), f32x4.mul(f32x4.mul(v128.load(at(x, i)), r4), v128.load(at(weight, i))));
    }
    for (; i < width; i++) store<f32>(at(y, i), load<f32>(at(x, i)) * r * load<f32>(at(weight, i)));
    x = at(x, width);
    y = at(y, width);
  }
}

/**
 * dy, x: [rows, width], weight: [width] -> dx: [rows, width], dweight: [width].
 *
 * With r = 1 / rms(x) and g = dy * weight: dx = r * (g - x * mean(g * x) * r^2), dweight = the sum over rows of dy * x * r.
 */
export function rmsNormGradient(
  dy: usize,
  x: usize,
  weight: usize,
  dx: usize,
  dweight: usize,
  rows: i32,
  width: i32,
  eps: f32,
): void {
  clear(dweight, width);
  for (let row = 0; row < rows; row++) {
    const r = inverseRms(x, width, eps);
    const r4 = f32x4.splat(r);
    let sum = f32x4.splat(0);
    let rest: f32 = 0;
    let i = 0;
    for (; i + 4 <= width; i += 4) {
      const dyx = f32x4.mul(v128.load(at(dy, i)), v128.load(at(x, i)));
      sum = f32x4.add(sum, f32x4.mul(dyx, v128.load(at(weight, i))));
      v128.store(at(dweight, i), f32x4.add(v128.load(at(dweight, i)), f32x4.mul(dyx, r4)));
    }
    for (; i < width; i++) {
      const dyx = load<f32>(at(dy, i)) * load<f32>(at(x, i));
      rest += dyx * load<f32>(at(weight, i));
      store<f32>(at(dweight, i), load<f32>(at(dweight, i)) + dyx * r);
    }
    const along = ((sum4(sum) + rest) / <f32>width) * r * r;
    const along4 = f32x4.splat(along);
    for (i = 0; i + 4 <= width; i += 4) {
      const g = f32x4.mul(v128.load(at(dy, i)), v128.load(at(weight, i)));
      v128.store(at(dx, i), f32x4.mul(f32x4.sub(g, f32x4.mul(v128.load(at(x, i)), along4)), r4));
    }
    for (; i < width; i++) {
      const g = load<f32>(at(dy, i)) * load<f32>(at(weight, i));
      store<f32>(at(dx, i), (g - load<f32>(at(x, i)) * along) * r);
    }
    dy = at(dy, width);
    x = at(x, width);
    dx = at(dx, width);
  }
}
