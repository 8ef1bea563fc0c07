// Float32 values <-> the words of a packed matrix, on the processor. packed.ts has the layout. Nothing of TensorFlow.js.

import { BLOCK, type PackedFormat, valueWords, wordCount } from "./packed.ts";

/** Whether a matrix of this many columns can be stored so: rows are whole blocks. */
export function fitsBlocks(format: PackedFormat, columns: number): boolean {
  return columns % (format === "f16" ? 2 : BLOCK) === 0;
}

/** Fill in rows `first` and following of a matrix of this shape: as many as `values` holds. */
export function packRows(
  values: Float32Array,
  first: number,
  words: Int32Array,
  shape: [number, number],
  format: PackedFormat,
): void {
  const [, columns] = shape;
  checkRows(values, columns, format);
  packAt(values, first * columns, words, shape, format);
}

/**
 * Rows by themselves, as files keep them and as parts of a matrix come: each row's values, then its scales.
 * values: [rows, columns] -> [rows, wordCount(format, [1, columns])].
 */
export function packedRows(values: Float32Array, columns: number, format: PackedFormat): Int32Array {
  checkRows(values, columns, format);
  const [rows, width] = [values.length / columns, wordCount(format, [1, columns])];
  const words = new Int32Array(rows * width);
  for (let row = 0; row < rows; row++) {
    const own = words.subarray(row * width, (row + 1) * width);
    packAt(values.subarray(row * columns, (row + 1) * columns), 0, own, [1, columns], format);
  }
  return words;
}

/**
 * Put rows as packedRows has them into a matrix of this shape, their first value at `row`, `column`: as many rows as there
 * are, of `columns` columns.
 */
export function placeRows(
  rows: Int32Array,
  columns: number,
  words: Int32Array,
  shape: [number, number],
  format: PackedFormat,
  [row, column]: [number, number],
): void {
  const width = wordCount(format, [1, columns]);
  const values = valueWords(format, [1, columns]);
  const scales = valueWords(format, shape);
  for (let from = 0; from < rows.length; from += width) {
    const first = (row + from / width) * shape[1] + column;
    words.set(rows.subarray(from, from + values), valueWords(format, [1, first]));
    if (width > values) words.set(rows.subarray(from + values, from + width), scales + first / BLOCK);
  }
}

function checkRows(values: Float32Array, columns: number, format: PackedFormat): void {
  if (fitsBlocks(format, columns) && values.length % columns === 0) return;
  throw new Error(
    `pack: ${values.length} values for rows of ${columns}; ${format} wants whole rows of a multiple of ${format === "f16" ? 2 : BLOCK}`,
  );
}

/** Fill in whole blocks from element `first` on. */
function packAt(
  values: Float32Array,
  first: number,
  words: Int32Array,
  shape: [number, number],
  format: PackedFormat,
): void {
  if (format === "f16") return packHalves(values, words.subarray(first / 2));
  const scales = new Float32Array(words.buffer, words.byteOffset + 4 * (valueWords(format, shape) + first / BLOCK));
  if (format === "int8") packBytes(values, words.subarray(first / 4), scales);
  else packNibbles(values, words.subarray(first / 8), scales);
}

/** The values of a packed matrix: [rows * columns]. */
export function unpackWords(words: Int32Array, shape: [number, number], format: PackedFormat): Float32Array {
  const values = new Float32Array(shape[0] * shape[1]);
  if (format === "f16") {
    for (let i = 0; i < values.length; i++) values[i] = fromHalf((words[i >> 1] >>> (16 * (i & 1))) & 0xffff);
    return values;
  }
  const scales = new Float32Array(words.buffer, words.byteOffset + 4 * valueWords(format, shape));
  for (let i = 0; i < values.length; i++) {
    const q =
      format === "int8" ? (words[i >> 2] << (24 - 8 * (i & 3))) >> 24 : ((words[i >> 3] >>> (4 * (i & 7))) & 15) - 8;
    values[i] = scales[(i / BLOCK) | 0] * q;
  }
  return values;
}

function packHalves(values: Float32Array, words: Int32Array): void {
  for (let i = 0; i < values.length; i += 2) words[i >> 1] = toHalf(values[i]) | (toHalf(values[i + 1]) << 16);
}

/** Q8_0: the largest magnitude of a block becomes 127. */
function packBytes(values: Float32Array, words: Int32Array, scales: Float32Array): void {
  for (let block = 0; block * BLOCK < values.length; block++) {
    const from = block * BLOCK;
    let most = 0;
    for (let i = from; i < from + BLOCK; i++) most = Math.max(most, Math.abs(values[i]));
    scales[block] = most / 127;
    const inverse = most > 0 ? 127 / most : 0;
    for (let i = from; i < from + BLOCK; i += 4) {
      let word = 0;
      for (let j = 0; j < 4; j++) word |= (Math.round(values[i + j] * inverse) & 0xff) << (8 * j);
      words[i >> 2] = word;
    }
  }
}

/** Q4_0: of a block's values the one of largest magnitude becomes -8, whatever its sign. */
function packNibbles(values: Float32Array, words: Int32Array, scales: Float32Array): void {
  for (let block = 0; block * BLOCK < values.length; block++) {
    const from = block * BLOCK;
    let most = 0;
    for (let i = from; i < from + BLOCK; i++) if (Math.abs(values[i]) > Math.abs(most)) most = values[i];
    scales[block] = most === 0 ? 0 : most / -8;
    const inverse = most === 0 ? 0 : -8 / most;
    for (let i = from; i < from + BLOCK; i += 8) {
      let word = 0;
      for (let j = 0; j < 8; j++) word |= Math.min(15, Math.floor(values[i + j] * inverse + 8.5)) << (4 * j);
      words[i >> 3] = word;
    }
  }
}

const float = new Float32Array(1);
const floatBits = new Int32Array(float.buffer);

/** The nearest half, ties to even; what is too large becomes the largest half. */
function toHalf(value: number): number {
  float[0] = Math.max(-65_504, Math.min(65_504, value));
  const bits = floatBits[0];
  const sign = (bits >>> 16) & 0x8000;
  const exponent = ((bits >>> 23) & 0xff) - 112; // As a half counts it.
  if (exponent < -10) return sign;
  const mantissa = (bits & 0x7fffff) | 0x800000;
  const shift = exponent > 0 ? 13 : 14 - exponent; // Below, halves get coarser steps no more.
  const rest = mantissa & ((1 << shift) - 1);
  const half = 1 << (shift - 1);
  let kept = mantissa >>> shift;
  if (rest > half || (rest === half && (kept & 1) === 1)) kept += 1;
  return sign | (exponent > 0 ? ((exponent - 1) << 10) + kept : kept);
}

function fromHalf(half: number): number {
  const sign = half & 0x8000 ? -1 : 1;
  const exponent = (half >> 10) & 31;
  const mantissa = half & 0x3ff;
  return sign * (exponent === 0 ? mantissa * 2 ** -24 : (1 + mantissa / 1024) * 2 ** (exponent - 15));
}
