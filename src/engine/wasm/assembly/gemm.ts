// Matrix product C (+)= op(A)·op(B), in every transpose layout at one speed: both operands are first packed into panels
// that the innermost loop reads from front to back (Goto & van de Geijn, 2008). A B stored small is decoded into its panels.

import { dots, sums } from "./fewRows";
import { at, clear, madd } from "./math";
import { packAcross, packAcrossDecoded, packAlong, packAlongDecoded } from "./panels";
import { decode, scalesOf } from "./packed";
import { dotsOfRow } from "./packedRows";
import { evenly, give, given, PRODUCT, share } from "./threads";

const ROWS = 4; // The tile of C that is held in registers: 8 vectors, with 2 of B and 1 of A beside them.
const COLUMNS = 8;
const BLOCK_M = 128; // A's packed block (128 KB) and
const BLOCK_N = 512; // B's (512 KB) stay in the second cache;
const BLOCK_K = 256; // one panel of each (4 and 8 KB) in the first.
const FEW = 4; // Rows of C that are computed without packing,
const FEW_DOTS = 16; // and where rows of A meet rows of B.

export const F32 = -1; // The format of a B that is not stored small.

let packedA: usize = 0;
let packedB: usize = 0;
let edge: usize = 0; // One tile, for where C ends inside it.
let decoded: usize = 0; // Rows of B on their way into panels.

/** Bytes of memory that `bindGemm` wants. */
export function gemmBytes(): i32 {
  return ((BLOCK_M + BLOCK_N) * BLOCK_K + ROWS * COLUMNS + COLUMNS * BLOCK_K) << 2;
}

/** Give the product its memory for packing, 16-byte aligned. */
export function bindGemm(memory: usize): void {
  packedA = memory;
  packedB = at(packedA, BLOCK_M * BLOCK_K);
  edge = at(packedB, BLOCK_N * BLOCK_K);
  decoded = at(edge, ROWS * COLUMNS);
}

/**
 * C[m, n] = op(A)·op(B), added to what C holds if `accumulate`.
 *
 * A is [m, k], or [k, m] if transposeA; B is [k, n], or [n, k] if transposeB. `lda`, `ldb`, `ldc`: elements from one
 * stored row to the next. More than 16 rows: each element of C is summed in the order of k, whatever m and n are.
 */
export function gemm(
  transposeA: bool,
  transposeB: bool,
  m: i32,
  n: i32,
  k: i32,
  a: usize,
  lda: i32,
  b: usize,
  ldb: i32,
  c: usize,
  ldc: i32,
  accumulate: bool,
): void {
  multiply(F32, transposeA, transposeB, m, n, k, a, lda, b, 0, ldb, c, ldc, accumulate);
}

/**
 * B: [rows, columns] stored small. C[m, rows] = A[m, columns]·Bᵀ if transposeB, else C[m, columns] = A[m, rows]·B, added to
 * what C holds if `accumulate`. m, n, k: as for `gemm`.
 */
export function gemmPacked(
  format: i32,
  transposeB: bool,
  m: i32,
  n: i32,
  k: i32,
  a: usize,
  lda: i32,
  words: usize,
  rows: i32,
  columns: i32,
  c: usize,
  ldc: i32,
  accumulate: bool,
): void {
  const scales = scalesOf(format, words, rows, columns);
  multiply(format, false, transposeB, m, n, k, a, lda, words, scales, columns, c, ldc, accumulate);
}

// Nanoseconds: to read an element of B for few rows, for each of their multiplications, and for one where B is packed.
const READ_TAKES = 0.1;
const FEW_TAKE = 0.06;
const MANY_TAKE = 0.04;
const FINEST = 64; // Columns or rows of a piece, at least: each packs the other operand anew.
const STEP = 32; // Pieces begin at multiples of this: tiles, strips and blocks of B are cut nowhere.

/**
 * The product on as many threads as are free: pieces of C's rows or columns, whichever are more. B is stored as `format`
 * says; of a part of a matrix, b and scales are where that begins.
 */
export function multiply(
  format: i32,
  transposeA: bool,
  transposeB: bool,
  m: i32,
  n: i32,
  k: i32,
  a: usize,
  lda: i32,
  b: usize,
  scales: usize,
  ldb: i32,
  c: usize,
  ldc: i32,
  accumulate: bool,
): void {
  const few = m <= (transposeB ? FEW_DOTS : FEW) && !transposeA;
  const byRows = !few && m > n;
  const count = byRows ? m : n;
  const flags = (few ? 1 : 0) | (byRows ? 2 : 0) | (transposeA ? 4 : 0) | (transposeB ? 8 : 0) | (accumulate ? 16 : 0);
  give<i32>(0, flags);
  give<i32>(1, format);
  give<i32>(2, m);
  give<i32>(3, n);
  give<i32>(4, k);
  give<usize>(5, a);
  give<i32>(6, lda);
  give<usize>(7, b);
  give<usize>(8, scales);
  give<i32>(9, ldb);
  give<usize>(10, c);
  give<i32>(11, ldc);
  const nanoseconds = <f64>n * <f64>k * (few ? READ_TAKES + FEW_TAKE * <f64>m : MANY_TAKE * <f64>m);
  share(PRODUCT, count, max(FINEST, evenly(count, STEP)), nanoseconds, !accumulate);
}

/** Rows or columns `first` to `last`. */
export function productPiece(first: i32, last: i32): void {
  const flags = given<i32>(0);
  const byRows = (flags & 2) != 0;
  multiplyPart(
    (flags & 1) != 0,
    given<i32>(1),
    (flags & 4) != 0,
    (flags & 8) != 0,
    byRows ? first : 0,
    byRows ? last : given<i32>(2),
    byRows ? 0 : first,
    byRows ? given<i32>(3) : last,
    given<i32>(4),
    given<usize>(5),
    given<i32>(6),
    given<usize>(7),
    given<usize>(8),
    given<i32>(9),
    given<usize>(10),
    given<i32>(11),
    (flags & 16) != 0,
  );
}

/** Rows m0 to m1 and columns n0 to n1 of C. `few`: all of C's rows, which are few. */
function multiplyPart(
  few: bool,
  format: i32,
  transposeA: bool,
  transposeB: bool,
  m0: i32,
  m1: i32,
  n0: i32,
  n1: i32,
  k: i32,
  a: usize,
  lda: i32,
  b: usize,
  scales: usize,
  ldb: i32,
  c: usize,
  ldc: i32,
  accumulate: bool,
): void {
  if (!few) product(format, transposeA, transposeB, m0, m1, n0, n1, k, a, lda, b, scales, ldb, c, ldc, accumulate);
  else if (format == F32 && transposeB) {
    dots(m1, n1 - n0, k, a, lda, at(b, n0 * ldb), ldb, at(c, n0), ldc, accumulate);
  } else if (format == F32) sums(m1, n1 - n0, k, a, lda, at(b, n0), ldb, at(c, n0), ldc, accumulate);
  else if (transposeB) dotsPacked(format, m1, n0, n1, k, a, lda, b, scales, ldb, c, ldc, accumulate);
  else sumsPacked(format, m1, n0, n1, k, a, lda, b, scales, ldb, c, ldc, accumulate);
}

const STRIP = 4; // Rows of B that are decoded for few rows of A,
const CHUNK = 2048; // so many columns at a time (32 KB, which stay in the first cache).

/** Columns n0 to n1 of a few rows of C = A·Bᵀ; B: [.., k] stored small. */
function dotsPacked(
  format: i32,
  m: i32,
  n0: i32,
  n1: i32,
  k: i32,
  a: usize,
  lda: i32,
  words: usize,
  scales: usize,
  ldb: i32,
  c: usize,
  ldc: i32,
  accumulate: bool,
): void {
  if (m == 1) return dotsOfRow(format, a, words, scales, ldb, n0, n1 - n0, k, at(c, n0), accumulate);
  for (let j = n0; j < n1; j += STRIP) {
    const rows = min(STRIP, n1 - j);
    for (let p = 0; p < k; p += CHUNK) {
      const depth = min(CHUNK, k - p);
      for (let r = 0; r < rows; r++) decode(format, words, scales, (j + r) * ldb + p, depth, at(packedB, r * depth));
      dots(m, rows, depth, at(a, p), lda, packedB, depth, at(c, j), ldc, accumulate || p > 0);
    }
  }
}

/** Columns n0 to n1 of a few rows of C = A·B; B: [k, columns] stored small. */
function sumsPacked(
  format: i32,
  m: i32,
  n0: i32,
  n1: i32,
  k: i32,
  a: usize,
  lda: i32,
  words: usize,
  scales: usize,
  columns: i32,
  c: usize,
  ldc: i32,
  accumulate: bool,
): void {
  if (!accumulate) for (let i = 0; i < m; i++) clear(at(c, i * ldc + n0), n1 - n0);
  for (let j = n0; j < n1; j += CHUNK) {
    const width = min(CHUNK, n1 - j);
    for (let p = 0; p < k; p += STRIP) {
      const rows = min(STRIP, k - p);
      for (let r = 0; r < rows; r++)
        decode(format, words, scales, (p + r) * columns + j, width, at(packedB, r * width));
      sums(m, width, rows, at(a, p), lda, packedB, width, at(c, j), ldc, true);
    }
  }
}

/** Rows m0 to m1 and columns n0 to n1 of C, through packed panels. */
function product(
  format: i32,
  transposeA: bool,
  transposeB: bool,
  m0: i32,
  m1: i32,
  n0: i32,
  n1: i32,
  k: i32,
  a: usize,
  lda: i32,
  b: usize,
  scales: usize,
  ldb: i32,
  c: usize,
  ldc: i32,
  accumulate: bool,
): void {
  if (k == 0 && !accumulate) {
    for (let i = m0; i < m1; i++) clear(at(c, i * ldc + n0), n1 - n0);
  }
  for (let j = n0; j < n1; j += BLOCK_N) {
    const columns = min(BLOCK_N, n1 - j);
    for (let p = 0; p < k; p += BLOCK_K) {
      const depth = min(BLOCK_K, k - p);
      packB(format, transposeB, b, scales, ldb, j, columns, p, depth);
      for (let i = m0; i < m1; i += BLOCK_M) {
        const rows = min(BLOCK_M, m1 - i);
        if (transposeA) packAlong(at(a, p * lda + i), lda, rows, depth, packedA, ROWS);
        else packAcross(at(a, i * lda + p), lda, rows, depth, packedA, ROWS);
        multiplyBlock(rows, columns, depth, at(c, i * ldc + j), ldc, accumulate || p > 0);
      }
    }
  }
}

/** Columns from j on and depth from p on of B, into panels. */
function packB(
  format: i32,
  transposeB: bool,
  b: usize,
  scales: usize,
  ldb: i32,
  j: i32,
  columns: i32,
  p: i32,
  depth: i32,
): void {
  const first = transposeB ? j * ldb + p : p * ldb + j;
  if (format == F32) {
    if (transposeB) packAcross(at(b, first), ldb, columns, depth, packedB, COLUMNS);
    else packAlong(at(b, first), ldb, columns, depth, packedB, COLUMNS);
  } else if (transposeB) packAcrossDecoded(format, b, scales, ldb, first, columns, depth, packedB, decoded);
  else packAlongDecoded(format, b, scales, ldb, first, columns, depth, packedB, decoded);
}

/** C's block from the packed blocks, tile by tile. */
function multiplyBlock(rows: i32, columns: i32, depth: i32, c: usize, ldc: i32, accumulate: bool): void {
  const stride = (<usize>ldc) << 2;
  for (let j = 0; j < columns; j += COLUMNS) {
    const panelB = at(packedB, j * depth);
    const width = min(COLUMNS, columns - j);
    for (let i = 0; i < rows; i += ROWS) {
      const panelA = at(packedA, i * depth);
      const height = min(ROWS, rows - i);
      const target = at(c, i * ldc + j);
      if (width == COLUMNS && height == ROWS) {
        multiplyTile(depth, panelA, panelB, target, stride, accumulate);
      } else {
        multiplyTile(depth, panelA, panelB, edge, COLUMNS << 2, false);
        storePart(height, width, target, ldc, accumulate);
      }
    }
  }
}

/** The part of the edge tile that lies inside C. */
function storePart(height: i32, width: i32, c: usize, ldc: i32, accumulate: bool): void {
  for (let i = 0; i < height; i++) {
    for (let j = 0; j < width; j++) {
      const to = at(c, i * ldc + j);
      const value = load<f32>(at(edge, i * COLUMNS + j));
      store<f32>(to, accumulate ? load<f32>(to) + value : value);
    }
  }
}

/**
 * One tile of C: 4 rows of A's panel times 8 columns of B's, summed over `depth`, which is not 0.
 *
 * Unrolling this loop makes V8 spill registers: 30 instead of 38 GFLOP/s.
 */
function multiplyTile(depth: i32, a: usize, b: usize, c: usize, stride: usize, accumulate: bool): void {
  let c00 = f32x4.splat(0);
  let c01 = f32x4.splat(0);
  let c10 = f32x4.splat(0);
  let c11 = f32x4.splat(0);
  let c20 = f32x4.splat(0);
  let c21 = f32x4.splat(0);
  let c30 = f32x4.splat(0);
  let c31 = f32x4.splat(0);
  const end = b + <usize>depth * (COLUMNS << 2);
  do {
    const b0 = v128.load(b);
    const b1 = v128.load(b, 16);
    let x = v128.load32_splat(a);
    c00 = madd(x, b0, c00);
    c01 = madd(x, b1, c01);
    x = v128.load32_splat(a, 4);
    c10 = madd(x, b0, c10);
    c11 = madd(x, b1, c11);
    x = v128.load32_splat(a, 8);
    c20 = madd(x, b0, c20);
    c21 = madd(x, b1, c21);
    x = v128.load32_splat(a, 12);
    c30 = madd(x, b0, c30);
    c31 = madd(x, b1, c31);
    a += ROWS << 2;
    b += COLUMNS << 2;
  } while (b < end);
  storeRow(c, c00, c01, accumulate);
  storeRow(c + stride, c10, c11, accumulate);
  storeRow(c + 2 * stride, c20, c21, accumulate);
  storeRow(c + 3 * stride, c30, c31, accumulate);
}

function storeRow(c: usize, left: v128, right: v128, accumulate: bool): void {
  if (accumulate) {
    left = f32x4.add(v128.load(c), left);
    right = f32x4.add(v128.load(c, 16), right);
  }
  v128.store(c, left);
  v128.store(c, right, 16);
}
