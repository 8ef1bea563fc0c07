// Four lanes at a time: exponential, sigmoid, sums. No table in memory: the heap belongs to TensorFlow.js.

/** Address of element `i` of the 4-byte array at `base`. */
export function at(base: usize, i: i32): usize {
  return base + ((<usize>i) << 2);
}

/**
 * e^x to a relative error of about 1e-7, for x in [-87, 88]; outside, the value at the nearer end.
 *
 * e^x = 2^n e^r with n the integer nearest to x / ln 2; e^r by the polynomial of Cephes' expf (Moshier, 1989).
 */
export function exp4(x: v128): v128 {
  const rounding = f32x4.splat(12582912.0); // 1.5 * 2^23: adding it leaves n in the low bits of the sum.
  x = f32x4.pmin(f32x4.pmax(x, f32x4.splat(-87.0)), f32x4.splat(88.0));
  const shifted = f32x4.add(f32x4.mul(x, f32x4.splat(1.44269504088896341)), rounding);
  const n = f32x4.sub(shifted, rounding);
  // ln 2 in two parts, the first exact when multiplied by n.
  let r = f32x4.sub(x, f32x4.mul(n, f32x4.splat(0.693359375)));
  r = f32x4.sub(r, f32x4.mul(n, f32x4.splat(-2.1219444e-4)));
  let y = f32x4.add(f32x4.mul(f32x4.splat(1.98756915e-4), r), f32x4.splat(1.3981999507e-3));
  y = f32x4.add(f32x4.mul(y, r), f32x4.splat(8.3334519073e-3));
  y = f32x4.add(f32x4.mul(y, r), f32x4.splat(4.1665795894e-2));
  y = f32x4.add(f32x4.mul(y, r), f32x4.splat(1.6666665459e-1));
  y = f32x4.add(f32x4.mul(y, r), f32x4.splat(5.0000001201e-1));
  y = f32x4.add(f32x4.add(f32x4.mul(y, f32x4.mul(r, r)), r), f32x4.splat(1));
  return i32x4.add(y, i32x4.shl(shifted, 23)); // Times 2^n.
}

/** One number through `exp4`, so that a row's last elements get the same value as its others would. */
export function exp1(x: f32): f32 {
  return f32x4.extract_lane(exp4(f32x4.splat(x)), 0);
}

export function sigmoid4(x: v128): v128 {
  return f32x4.div(f32x4.splat(1), f32x4.add(f32x4.splat(1), exp4(f32x4.neg(x))));
}

export function sigmoid1(x: f32): f32 {
  return 1 / (1 + exp1(-x));
}

/** The natural logarithm of a normal x > 0: of the exponent, and of the mantissa by the series of artanh. */
export function log1(x: f64): f64 {
  const bits = reinterpret<u64>(x);
  let exponent = <i32>(bits >> 52) - 1023;
  let mantissa = reinterpret<f64>((bits & 0x000fffffffffffff) | 0x3ff0000000000000); // [1, 2)
  if (mantissa > 1.4142135623730951) {
    mantissa *= 0.5;
    exponent++;
  }
  const s = (mantissa - 1) / (mantissa + 1); // |s| <= 0.172
  const s2 = s * s;
  let sum: f64 = 0;
  for (let k = 17; k >= 1; k -= 2) sum = sum * s2 + 1 / <f64>k;
  return <f64>exponent * 0.6931471805599453 + 2 * s * sum;
}

/** x * y + z, in one rounding where the processor and the build (relaxed SIMD) have that. */
export function madd(x: v128, y: v128, z: v128): v128 {
  return ASC_FEATURE_RELAXED_SIMD ? f32x4.relaxed_madd(x, y, z) : f32x4.add(z, f32x4.mul(x, y));
}

/** The sum of the four lanes. */
export function sum4(x: v128): f32 {
  return f32x4.extract_lane(x, 0) + f32x4.extract_lane(x, 1) + (f32x4.extract_lane(x, 2) + f32x4.extract_lane(x, 3));
}

/** The dot product of two rows. */
export function dot(x: usize, y: usize, n: i32): f32 {
  let sum = f32x4.splat(0);
  let i = 0;
  for (; i + 4 <= n; i += 4) sum = madd(v128.load(at(x, i)), v128.load(at(y, i)), sum);
  let rest: f32 = 0;
  for (; i < n; i++) rest += load<f32>(at(x, i)) * load<f32>(at(y, i));
  return sum4(sum) + rest;
}

/** y += factor * x */
export function addScaled(y: usize, x: usize, factor: f32, n: i32): void {
  const factors = f32x4.splat(factor);
  let i = 0;
  for (; i + 4 <= n; i += 4) {
    v128.store(at(y, i), madd(factors, v128.load(at(x, i)), v128.load(at(y, i))));
  }
  for (; i < n; i++) store<f32>(at(y, i), load<f32>(at(y, i)) + factor * load<f32>(at(x, i)));
}

/** y = 0, for n elements. */
export function clear(y: usize, n: i32): void {
  memory.fill(y, 0, (<usize>n) << 2);
}

/** y = x, for n elements. */
export function copy(y: usize, x: usize, n: i32): void {
  memory.copy(y, x, (<usize>n) << 2);
}
