// Packed matrices as tensors.

import { type PackedFormat, type PackedMatrix, wordCount } from "./packed.ts";
import { packRows } from "./packWords.ts";
import * as tf from "./tf.ts";

/** The nearest that the format has to these values: [rows, columns]. The caller disposes of `words`. */
export function pack(values: Float32Array, shape: [number, number], format: PackedFormat): PackedMatrix {
  const words = new Int32Array(wordCount(format, shape));
  packRows(values, 0, words, shape, format);
  return packedFrom(words, shape, format);
}

/** A matrix of words at hand, as packRows has filled them. */
export function packedFrom(words: Int32Array, shape: [number, number], format: PackedFormat): PackedMatrix {
  return { format, shape, words: tf.tensor1d(words, "int32") };
}
