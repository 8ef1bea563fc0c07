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
    for (let i = 0; i < m; i++) {
      const to = at(c, i * ldc + j);
      const sums = dots4(at(a, i * lda), at(b, j * ldb), ldb, k);
      v128.store(to, accumulate ? f32x4.add(v128.load(to), sums) : sums);
    }
  }
  for (; j < n; j++) {
    for (let i = 0; i < m; i++) {
      const to = at(c, i * ldc + j);
      const sum = dot(at(a, i * lda), at(b, j * ldb), k);
      store<f32>(to, accumulate ? load<f32>(to) + sum : sum);
    }
  }
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
  const end = at(x, k);
  for (; x + 16 <= end; x += 16) {
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
  let rest = f32x4.splat(0);
  for (; x < end; x += 4) {
    let column = f32x4.splat(load<f32>(r0));
    column = f32x4.replace_lane(column, 1, load<f32>(r1));
    column = f32x4.replace_lane(column, 2, load<f32>(r2));
    column = f32x4.replace_lane(column, 3, load<f32>(r3));
    rest = f32x4.add(rest, f32x4.mul(v128.load32_splat(x), column));
    r0 += 4;
    r1 += 4;
    r2 += 4;
    r3 += 4;
  }
  let sums = f32x4.splat(sum4(s0));
  sums = f32x4.replace_lane(sums, 1, sum4(s1));
  sums = f32x4.replace_lane(sums, 2, sum4(s2));
  sums = f32x4.replace_lane(sums, 3, sum4(s3));
  return f32x4.add(sums, rest);
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
