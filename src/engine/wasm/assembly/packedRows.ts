// One row times rows stored small, as decoding has them: a block of weights is decoded in registers, where it is used, and
// what it gives is scaled once.

import { at, madd, sum4 } from "./math";
import { BLOCK_BITS, F16, floats, INT8 } from "./packed";

/** c: [n], the dot products of x: [k] with n rows from `row` on, `ld` values apart, added to what it holds if `accumulate`. */
export function dotsOfRow(
  format: i32,
  x: usize,
  words: usize,
  scales: usize,
  ld: i32,
  row: i32,
  n: i32,
  k: i32,
  c: usize,
  accumulate: bool,
): void {
  for (let i = 0; i < n; i++) {
    const sum = dotOf(format, x, words, scales, (row + i) * ld, k);
    store<f32>(at(c, i), accumulate ? load<f32>(at(c, i)) + sum : sum);
  }
}

/** The dot product of x with whole blocks (f16: pairs) of a row, of which the first value is the matrix's `first`. */
function dotOf(format: i32, x: usize, words: usize, scales: usize, first: i32, k: i32): f32 {
  const i = <usize>first;
  if (format == F16) return dotHalves(x, words + (i << 1), k);
  const own = at(scales, first >> BLOCK_BITS);
  return format == INT8 ? dotBytes(x, words + i, own, k) : dotNibbles(x, words + (i >> 1), own, k);
}

function dotHalves(x: usize, from: usize, k: i32): f32 {
  const end = at(x, k);
  let low = f32x4.splat(0);
  let high = f32x4.splat(0);
  for (; x + 64 <= end; x += 64) {
    const a = v128.load(from);
    const b = v128.load(from, 16);
    low = madd(v128.load(x), floats(i32x4.extend_low_i16x8_s(a)), low);
    high = madd(v128.load(x, 16), floats(i32x4.extend_high_i16x8_s(a)), high);
    low = madd(v128.load(x, 32), floats(i32x4.extend_low_i16x8_s(b)), low);
    high = madd(v128.load(x, 48), floats(i32x4.extend_high_i16x8_s(b)), high);
    from += 32;
  }
  for (; x < end; x += 8) {
    const pair = floats(i32x4.extend_low_i16x8_s(v128.load32_zero(from)));
    low = madd(v128.load64_zero(x), pair, low);
    from += 4;
  }
  return sum4(f32x4.add(low, high));
}

function dotBytes(x: usize, from: usize, scales: usize, k: i32): f32 {
  const end = at(x, k);
  let sum = f32x4.splat(0);
  while (x < end) {
    const low = dot16(x, v128.load(from));
    const high = dot16(x + 64, v128.load(from, 16));
    sum = madd(f32x4.add(low, high), v128.load32_splat(scales), sum);
    x += 128;
    from += 32;
    scales += 4;
  }
  return sum4(sum);
}

function dotNibbles(x: usize, from: usize, scales: usize, k: i32): f32 {
  const end = at(x, k);
  const eight = i8x16.splat(8);
  const fifteen = i8x16.splat(15);
  let sum = f32x4.splat(0);
  while (x < end) {
    const pairs = v128.load(from);
    const even = i8x16.sub(v128.and(pairs, fifteen), eight);
    const odd = i8x16.sub(v128.and(i16x8.shr_u(pairs, 4), fifteen), eight);
    const low = dot16(x, v128.shuffle<i8>(even, odd, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23));
    const high = dot16(
      x + 64,
      v128.shuffle<i8>(even, odd, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31),
    );
    sum = madd(f32x4.add(low, high), v128.load32_splat(scales), sum);
    x += 128;
    from += 16;
    scales += 4;
  }
  return sum4(sum);
}

/** 16 elements of x times 16 signed bytes, in four sums. */
function dot16(x: usize, bytes: v128): v128 {
  const low = i16x8.extend_low_i8x16_s(bytes);
  const high = i16x8.extend_high_i8x16_s(bytes);
  let sum = f32x4.mul(v128.load(x), f32x4.convert_i32x4_s(i32x4.extend_low_i16x8_s(low)));
  sum = madd(v128.load(x, 16), f32x4.convert_i32x4_s(i32x4.extend_high_i16x8_s(low)), sum);
  sum = madd(v128.load(x, 32), f32x4.convert_i32x4_s(i32x4.extend_low_i16x8_s(high)), sum);
  return madd(v128.load(x, 48), f32x4.convert_i32x4_s(i32x4.extend_high_i16x8_s(high)), sum);
}
