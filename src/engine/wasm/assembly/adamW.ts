// The optimizer: AdamW in place, and the squared norm it clips by.

import { at } from "./math";

/** The sum of x squared, in double precision. */
export function squaredSum(x: usize, y: usize, n: i32): void {
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
  store<f32>(y, <f32>sum);
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
  const stepSize = load<f32>(rates);
  const scale = load<f32>(rates, 4);
  const keep: f32 = decays ? load<f32>(rates, 8) : 1;
  const norm = sqrt(load<f32>(squaredNorm));
  if (!isFinite(norm)) return;
  const clip: f32 = clipNorm > 0 && norm > clipNorm ? clipNorm / norm : 1;
  const clips = f32x4.splat(clip);
  let i = 0;
  for (; i + 4 <= n; i += 4) {
    const g = f32x4.mul(v128.load(at(gradient, i)), clips);
    const first = f32x4.add(f32x4.mul(f32x4.splat(beta1), v128.load(at(m, i))), f32x4.mul(f32x4.splat(rest1), g));
    const second = f32x4.add(
      f32x4.mul(f32x4.splat(beta2), v128.load(at(v, i))),
      f32x4.mul(f32x4.mul(f32x4.splat(rest2), g), g),
    );
    const denominator = f32x4.add(f32x4.sqrt(f32x4.mul(second, f32x4.splat(scale))), f32x4.splat(eps));
    const decayed = f32x4.mul(v128.load(at(parameter, i)), f32x4.splat(keep));
    const move = f32x4.div(f32x4.mul(f32x4.splat(stepSize), first), denominator);
    v128.store(at(m, i), first);
    v128.store(at(v, i), second);
    v128.store(at(parameter, i), f32x4.sub(decayed, move));
  }
  for (; i < n; i++) {
    const g = load<f32>(at(gradient, i)) * clip;
    const first = beta1 * load<f32>(at(m, i)) + rest1 * g;
    const second = beta2 * load<f32>(at(v, i)) + rest2 * g * g;
    store<f32>(at(m, i), first);
    store<f32>(at(v, i), second);
    const move = (stepSize * first) / (sqrt(second * scale) + eps);
    store<f32>(at(parameter, i), load<f32>(at(parameter, i)) * keep - move);
  }
}
