// Matrix product C (+)= op(A)·op(B), in every transpose layout at one speed: both operands are first packed into panels
// that the innermost loop reads from front to back (Goto & van de Geijn, 2008).

import { at } from "./math";

const ROWS = 4; // The tile of C that is held in registers: 8 vectors, with 2 of B and 1 of A beside them.
const COLUMNS = 8;
const BLOCK_M = 128; // A's packed block (128 KB) and
const BLOCK_N = 512; // B's (512 KB) stay in the second cache;
const BLOCK_K = 256; // one panel of each (4 and 8 KB) in the first.

let packedA: usize = 0;
let packedB: usize = 0;
let edge: usize = 0; // One tile, for where C ends inside it.

/** Bytes of memory that `bindGemm` wants. */
export function gemmBytes(): i32 {
  return ((BLOCK_M + BLOCK_N) * BLOCK_K + ROWS * COLUMNS) << 2;
}

/** Give the product its memory for packing, 16-byte aligned. */
export function bindGemm(memory: usize): void {
  packedA = memory;
  packedB = at(packedA, BLOCK_M * BLOCK_K);
  edge = at(packedB, BLOCK_N * BLOCK_K);
}

/**
 * C[m, n] = op(A)·op(B), added to what C holds if `accumulate`.
 *
 * A is [m, k], or [k, m] if transposeA; B is [k, n], or [n, k] if transposeB. `lda`, `ldb`, `ldc`: elements from one
 * stored row to the next. Each element of C is summed in the order of k, whatever the sizes of the blocks around it.
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
  if (k == 0 && !accumulate) {
    for (let i = 0; i < m; i++) memory.fill(at(c, i * ldc), 0, (<usize>n) << 2);
  }
  for (let n0 = 0; n0 < n; n0 += BLOCK_N) {
    const columns = min(BLOCK_N, n - n0);
    for (let k0 = 0; k0 < k; k0 += BLOCK_K) {
      const depth = min(BLOCK_K, k - k0);
      if (transposeB) packAcross(at(b, n0 * ldb + k0), ldb, columns, depth, packedB, COLUMNS);
      else packAlong(at(b, k0 * ldb + n0), ldb, columns, depth, packedB, COLUMNS);
      for (let m0 = 0; m0 < m; m0 += BLOCK_M) {
        const rows = min(BLOCK_M, m - m0);
        if (transposeA) packAlong(at(a, k0 * lda + m0), lda, rows, depth, packedA, ROWS);
        else packAcross(at(a, m0 * lda + k0), lda, rows, depth, packedA, ROWS);
        multiplyBlock(rows, columns, depth, at(c, m0 * ldc + n0), ldc, accumulate || k0 > 0);
      }
    }
  }
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
    c00 = f32x4.add(c00, f32x4.mul(x, b0));
    c01 = f32x4.add(c01, f32x4.mul(x, b1));
    x = v128.load32_splat(a, 4);
    c10 = f32x4.add(c10, f32x4.mul(x, b0));
    c11 = f32x4.add(c11, f32x4.mul(x, b1));
    x = v128.load32_splat(a, 8);
    c20 = f32x4.add(c20, f32x4.mul(x, b0));
    c21 = f32x4.add(c21, f32x4.mul(x, b1));
    x = v128.load32_splat(a, 12);
    c30 = f32x4.add(c30, f32x4.mul(x, b0));
    c31 = f32x4.add(c31, f32x4.mul(x, b1));
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

/**
 * Panels of `panel` (4 or 8) rows of a stored [count, depth] matrix: element (i, p) of a panel goes to p * panel + i.
 * The last panel is filled up with zeros.
 */
function packAcross(from: usize, ld: i32, count: i32, depth: i32, to: usize, panel: i32): void {
  const step = (<usize>panel) << 2;
  const filled = (count + panel - 1) & ~(panel - 1);
  for (let i = 0; i < filled; i += 4) {
    const start = at(to, (i & ~(panel - 1)) * depth + (i & (panel - 1)));
    if (i + 4 <= count) transpose4(at(from, i * ld), ld, depth, start, step);
    else packRest(at(from, i * ld), ld, count - i, depth, start, step);
  }
}

/** 4 rows of `depth` elements -> `depth` groups of 4, `step` bytes apart. */
function transpose4(from: usize, ld: i32, depth: i32, to: usize, step: usize): void {
  let r0 = from;
  let r1 = at(r0, ld);
  let r2 = at(r1, ld);
  let r3 = at(r2, ld);
  let p = 0;
  for (; p + 4 <= depth; p += 4) {
    const x0 = v128.load(r0);
    const x1 = v128.load(r1);
    const x2 = v128.load(r2);
    const x3 = v128.load(r3);
    const low01 = v128.shuffle<f32>(x0, x1, 0, 4, 1, 5);
    const high01 = v128.shuffle<f32>(x0, x1, 2, 6, 3, 7);
    const low23 = v128.shuffle<f32>(x2, x3, 0, 4, 1, 5);
    const high23 = v128.shuffle<f32>(x2, x3, 2, 6, 3, 7);
    v128.store(to, v128.shuffle<f32>(low01, low23, 0, 1, 4, 5));
    v128.store(to + step, v128.shuffle<f32>(low01, low23, 2, 3, 6, 7));
    v128.store(to + 2 * step, v128.shuffle<f32>(high01, high23, 0, 1, 4, 5));
    v128.store(to + 3 * step, v128.shuffle<f32>(high01, high23, 2, 3, 6, 7));
    r0 += 16;
    r1 += 16;
    r2 += 16;
    r3 += 16;
    to += 4 * step;
  }
  for (; p < depth; p++) {
    store<f32>(to, load<f32>(r0));
    store<f32>(to, load<f32>(r1), 4);
    store<f32>(to, load<f32>(r2), 8);
    store<f32>(to, load<f32>(r3), 12);
    r0 += 4;
    r1 += 4;
    r2 += 4;
    r3 += 4;
    to += step;
  }
}

/** The same for the last rows, with zeros in place of those that are not there. */
function packRest(from: usize, ld: i32, rows: i32, depth: i32, to: usize, step: usize): void {
  for (let p = 0; p < depth; p++) {
    for (let i = 0; i < 4; i++) store<f32>(at(to, i), i < rows ? load<f32>(at(from, i * ld + p)) : <f32>0);
    to += step;
  }
}

/** Panels of `panel` (4 or 8) columns of a stored [depth, count] matrix, the last one filled up with zeros. */
function packAlong(from: usize, ld: i32, count: i32, depth: i32, to: usize, panel: i32): void {
  const step = (<usize>panel) << 2;
  for (let i = 0; i < count; i += panel) {
    const width = min(panel, count - i);
    let source = at(from, i);
    for (let p = 0; p < depth; p++) {
      if (width == panel) {
        v128.store(to, v128.load(source));
        if (panel == 8) v128.store(to, v128.load(source, 16), 16);
      } else {
        for (let j = 0; j < panel; j++) store<f32>(at(to, j), j < width ? load<f32>(at(source, j)) : <f32>0);
      }
      source = at(source, ld);
      to += step;
    }
  }
}
