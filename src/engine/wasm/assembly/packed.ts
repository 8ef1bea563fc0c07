// Matrices stored small (engine/packed.ts has the layout), decoded to float32: exactly, four lanes at a time.

import { at } from "./math";

export const F16 = 0;
export const INT8 = 1;
export const INT4 = 2;

export const BLOCK_BITS = 5; // A scale belongs to 2^5 columns.

/** Address of the scales behind the values of a [rows, columns] matrix. */
export function scalesOf(format: i32, words: usize, rows: i32, columns: i32): usize {
  const values = <usize>rows * <usize>columns;
  return words + (format == F16 ? values << 1 : format == INT8 ? values : values >> 1);
}

/** Decode `count` rows from `firstRow` on. words: of a packed [rows, columns] -> y: [count, columns] */
export function unpackRows(
  format: i32,
  words: usize,
  rows: i32,
  columns: i32,
  firstRow: i32,
  count: i32,
  y: usize,
): void {
  const scales = scalesOf(format, words, rows, columns);
  for (let i = 0; i < count; i++) {
    decode(format, words, scales, (firstRow + i) * columns, columns, at(y, i * columns));
  }
}

/** Decode `count` values, whole blocks (f16: pairs) of one row, of which the first is the matrix's `first`. */
export function decode(format: i32, words: usize, scales: usize, first: i32, count: i32, y: usize): void {
  const i = <usize>first;
  if (format == F16) decodeHalves(words + (i << 1), count, y);
  else if (format == INT8) decodeBytes(words + i, at(scales, first >> BLOCK_BITS), count, y);
  else decodeNibbles(words + (i >> 1), at(scales, first >> BLOCK_BITS), count, y);
}

function decodeHalves(from: usize, count: i32, y: usize): void {
  const end = at(y, count);
  for (; y + 32 <= end; y += 32) {
    const halves = v128.load(from);
    v128.store(y, floats(i32x4.extend_low_i16x8_s(halves)));
    v128.store(y, floats(i32x4.extend_high_i16x8_s(halves)), 16);
    from += 16;
  }
  for (; y < end; y += 8) {
    v128.store64_lane(y, floats(i32x4.extend_low_i16x8_s(v128.load32_zero(from))), 0);
    from += 4;
  }
}

/**
 * Half floats, sign-extended to 32 bits -> floats, for finite numbers.
 *
 * With the mantissa moved to its place only the exponent's bias is wrong, which a factor of 2^(127 - 15) mends, for
 * subnormal numbers, too.
 */
export function floats(halves: v128): v128 {
  const moved = v128.and(i32x4.shl(halves, 13), i32x4.splat(0x8fffe000));
  return f32x4.mul(moved, f32x4.splat(5.192296858534828e33));
}

function decodeBytes(from: usize, scales: usize, count: i32, y: usize): void {
  const end = at(y, count);
  while (y < end) {
    const scale = v128.load32_splat(scales);
    storeScaled(v128.load(from), scale, y);
    storeScaled(v128.load(from, 16), scale, y + 64);
    from += 32;
    scales += 4;
    y += 128;
  }
}

function decodeNibbles(from: usize, scales: usize, count: i32, y: usize): void {
  const end = at(y, count);
  while (y < end) {
    const scale = v128.load32_splat(scales);
    const pairs = v128.load(from);
    const low = i8x16.sub(v128.and(pairs, i8x16.splat(15)), i8x16.splat(8));
    const high = i8x16.sub(i8x16.shr_u(pairs, 4), i8x16.splat(8));
    storeScaled(v128.shuffle<i8>(low, high, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23), scale, y);
    storeScaled(
      v128.shuffle<i8>(low, high, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31),
      scale,
      y + 64,
    );
    from += 16;
    scales += 4;
    y += 128;
  }
}

/** 16 signed bytes -> 16 floats, times `scale`. */
function storeScaled(bytes: v128, scale: v128, y: usize): void {
  const low = i16x8.extend_low_i8x16_s(bytes);
  const high = i16x8.extend_high_i8x16_s(bytes);
  v128.store(y, f32x4.mul(f32x4.convert_i32x4_s(i32x4.extend_low_i16x8_s(low)), scale));
  v128.store(y, f32x4.mul(f32x4.convert_i32x4_s(i32x4.extend_high_i16x8_s(low)), scale), 16);
  v128.store(y, f32x4.mul(f32x4.convert_i32x4_s(i32x4.extend_low_i16x8_s(high)), scale), 32);
  v128.store(y, f32x4.mul(f32x4.convert_i32x4_s(i32x4.extend_high_i16x8_s(high)), scale), 48);
}
