// Matrices that may be stored small. A kernel is told of one by three words: its format (F32, or one of packed.ts), where its
// values begin, and where its scales.

import { F32, multiply } from "./gemm";
import { at } from "./math";
import { BLOCK_BITS, F16, INT8 } from "./packed";

/** Places, in words, of the matrices of a gated MLP in a table of such. */
export const GATE = 0;
export const UP = 3;
export const DOWN = 6;

/**
 * c[m, n] = a·b or a·bᵀ, added to what c holds if `accumulate`; a: [m, k].
 *
 * b is the part of the matrix that begins at its element `first`; rows of the matrix are `ld` long. Where it is packed, b's
 * rows are whole blocks.
 */
export function multiplyByPart(
  matrix: usize,
  first: i32,
  ld: i32,
  transposeB: bool,
  m: i32,
  n: i32,
  k: i32,
  a: usize,
  lda: i32,
  c: usize,
  ldc: i32,
  accumulate: bool,
): void {
  const format = load<i32>(matrix);
  const start = <usize>first;
  const bytes = format == F32 ? start << 2 : format == F16 ? start << 1 : format == INT8 ? start : start >> 1;
  const values = load<usize>(at(matrix, 1)) + bytes;
  const scales = at(load<usize>(at(matrix, 2)), first >> BLOCK_BITS);
  multiply(format, false, transposeB, m, n, k, a, lda, values, scales, ld, c, ldc, accumulate);
}
