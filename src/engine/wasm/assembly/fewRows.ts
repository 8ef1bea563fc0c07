// Products with few rows of A, as decoding has them: B is read once, where it lies.

import { addScaled, at, clear, dot, madd, sum4 } from "./math";

const STRIP = 4; // Rows of B that are read side by side.
const CHUNK = 1024; // Columns of B after which the next row of A is served, from the first cache.

/** c[m, n] = a·bᵀ, added to what C holds if `accumulate`. a: [m, k], b: [n, k] */
export function dots(
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
  let j = 0;
  for (; j + STRIP <= n; j += STRIP) {
    let i = 0;
    for (; i + 2 <= m; i += 2) {
      dots2x4(at(a, i * lda), lda, at(b, j * ldb), ldb, k, at(c, i * ldc + j), ldc, accumulate);
    }
    if (i < m) storeSums(at(c, i * ldc + j), dots4(at(a, i * lda), at(b, j * ldb), ldb, k), accumulate);
  }
  for (; j < n; j++) {
    for (let i = 0; i < m; i++) {
      const to = at(c, i * ldc + j);
      const sum = dot(at(a, i * lda), at(b, j * ldb), k);
      store<f32>(to, accumulate ? load<f32>(to) + sum : sum);
    }
  }
}

function storeSums(c: usize, sums: v128, accumulate: bool): void {
  v128.store(c, accumulate ? f32x4.add(v128.load(c), sums) : sums);
}

/** `dots4` of two rows `lda` apart, into two rows `ldc` apart: the elements of b are loaded once for both. */
function dots2x4(x: usize, lda: i32, b: usize, ldb: i32, k: i32, c: usize, ldc: i32, accumulate: bool): void {
  let y = at(x, lda);
  let r0 = b;
  let r1 = at(r0, ldb);
  let r2 = at(r1, ldb);
  let r3 = at(r2, ldb);
  let x0 = f32x4.splat(0);
  let x1 = f32x4.splat(0);
  let x2 = f32x4.splat(0);
  let x3 = f32x4.splat(0);
  let y0 = f32x4.splat(0);
  let y1 = f32x4.splat(0);
  let y2 = f32x4.splat(0);
  let y3 = f32x4.splat(0);
  const end = at(x, k & ~3);
  for (; x < end; x += 16) {
    const u = v128.load(x);
    const v = v128.load(y);
    let w = v128.load(r0);
    x0 = madd(u, w, x0);
    y0 = madd(v, w, y0);
    w = v128.load(r1);
    x1 = madd(u, w, x1);
    y1 = madd(v, w, y1);
    w = v128.load(r2);
    x2 = madd(u, w, x2);
    y2 = madd(v, w, y2);
    w = v128.load(r3);
    x3 = madd(u, w, x3);
    y3 = madd(v, w, y3);
    y += 16;
    r0 += 16;
    r1 += 16;
    r2 += 16;
    r3 += 16;
  }
  const rest = k & 3;
  storeSums(c, f32x4.add(sumsOf(x0, x1, x2, x3), restOf4(x, r0, r1, r2, r3, rest)), accumulate);
  storeSums(at(c, ldc), f32x4.add(sumsOf(y0, y1, y2, y3), restOf4(y, r0, r1, r2, r3, rest)), accumulate);
}

/** The dot products of `x` with 4 rows `ldb` apart: what `dot` gives for each. */
function dots4(x: usize, b: usize, ldb: i32, k: i32): v128 {
  let r0 = b;
  let r1 = at(r0, ldb);
  let r2 = at(r1, ldb);
  let r3 = at(r2, ldb);
  let s0 = f32x4.splat(0);
  let s1 = f32x4.splat(0);
  let s2 = f32x4.splat(0);
  let s3 = f32x4.splat(0);
  const end = at(x, k & ~3);
  for (; x < end; x += 16) {
    const v = v128.load(x);
    s0 = madd(v, v128.load(r0), s0);
    s1 = madd(v, v128.load(r1), s1);
    s2 = madd(v, v128.load(r2), s2);
    s3 = madd(v, v128.load(r3), s3);
    r0 += 16;
    r1 += 16;
    r2 += 16;
    r3 += 16;
  }
  return f32x4.add(sumsOf(s0, s1, s2, s3), restOf4(x, r0, r1, r2, r3, k & 3));
}

/** The sum of each one's lanes. */
function sumsOf(s0: v128, s1: v128, s2: v128, s3: v128): v128 {
  let sums = f32x4.splat(sum4(s0));
  sums = f32x4.replace_lane(sums, 1, sum4(s1));
  sums = f32x4.replace_lane(sums, 2, sum4(s2));
  return f32x4.replace_lane(sums, 3, sum4(s3));
}

/** The dot products of a row's last elements with those of 4 others. */
function restOf4(x: usize, r0: usize, r1: usize, r2: usize, r3: usize, n: i32): v128 {
  let rest = f32x4.splat(0);
  for (let i = 0; i < n; i++) {
    let column = f32x4.splat(load<f32>(at(r0, i)));
    column = f32x4.replace_lane(column, 1, load<f32>(at(r1, i)));
    column = f32x4.replace_lane(column, 2, load<f32>(at(r2, i)));
    column = f32x4.replace_lane(column, 3, load<f32>(at(r3, i)));
    rest = f32x4.add(rest, f32x4.mul(v128.load32_splat(at(x, i)), column));
  }
  return rest;
}

/** c[m, n] = a·b, added to what C holds if `accumulate`. a: [m, k], b: [k, n] */
export function sums(
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
  if (!accumulate) {
    for (let i = 0; i < m; i++) clear(at(c, i * ldc), n);
  }
  for (let j = 0; j < n; j += CHUNK) {
    const width = min(CHUNK, n - j);
    let p = 0;
    for (; p + STRIP <= k; p += STRIP) {
      for (let i = 0; i < m; i++) {
        addScaled4(at(c, i * ldc + j), at(a, i * lda + p), at(b, p * ldb + j), ldb, width);
      }
    }
    for (; p < k; p++) {
      for (let i = 0; i < m; i++) {
        addScaled(at(c, i * ldc + j), at(b, p * ldb + j), load<f32>(at(a, i * lda + p)), width);
      }
    }
  }
}

/** y += 4 rows `ldb` apart, each times its factor, in their order. */
function addScaled4(y: usize, factors: usize, b: usize, ldb: i32, n: i32): void {
  const f0 = v128.load32_splat(factors);
  const f1 = v128.load32_splat(factors, 4);
  const f2 = v128.load32_splat(factors, 8);
  const f3 = v128.load32_splat(factors, 12);
  let r0 = b;
  let r1 = at(r0, ldb);
  let r2 = at(r1, ldb);
  let r3 = at(r2, ldb);
  const end = at(y, n);
  for (; y + 16 <= end; y += 16) {
    let sum = madd(f0, v128.load(r0), v128.load(y));
    sum = madd(f1, v128.load(r1), sum);
    sum = madd(f2, v128.load(r2), sum);
    v128.store(y, madd(f3, v128.load(r3), sum));
    r0 += 16;
    r1 += 16;
    r2 += 16;
    r3 += 16;
  }
  for (; y < end; y += 4) {
    let sum = madd(f0, v128.load32_zero(r0), v128.load32_zero(y));
    sum = madd(f1, v128.load32_zero(r1), sum);
    sum = madd(f2, v128.load32_zero(r2), sum);
    v128.store32_lane(y, madd(f3, v128.load32_zero(r3), sum), 0);
    r0 += 4;
    r1 += 4;
    r2 += 4;
    r3 += 4;
  }
}
