// Frozen matrices stored small (decision 5 of the architecture): float16, or blocks of 32 integers with a scale, as
// GGUF's Q8_0 and Q4_0 have them. They are decoded inside the products; nothing holds them in float32.

import type * as tf from "./tf.ts";

export type PackedFormat = "f16" | "int8" | "int4";

/**
 * A matrix in one int32 tensor of words: first the values row by row, then (int8, int4) the scales, as float32 bits, one
 * for each 32 columns of a row, row by row.
 *
 * f16: two values a word, the first in the low half. int8: four a word, the first in the lowest byte, signed;
 * value = scale * q. int4: eight a word, the first in the lowest four bits; value = scale * (q - 8).
 */
export interface PackedMatrix {
  format: PackedFormat;
  /** [rows, columns]; columns are a multiple of 32 (f16: of 2). */
  shape: [number, number];
  words: tf.Tensor; // int32 [wordCount(format, shape)]
}

/** What a linear map or an embedding may be stored as. */
export type Matrix = tf.Tensor | PackedMatrix;

export const BLOCK = 32;

export function isPacked(matrix: Matrix): matrix is PackedMatrix {
  return "format" in matrix;
}

/** Words that the values take, without the scales. */
export function valueWords(format: PackedFormat, [rows, columns]: [number, number]): number {
  return (rows * columns) / { f16: 2, int8: 4, int4: 8 }[format];
}

/** Words in all. */
export function wordCount(format: PackedFormat, shape: [number, number]): number {
  return valueWords(format, shape) + (format === "f16" ? 0 : (shape[0] * shape[1]) / BLOCK);
}
