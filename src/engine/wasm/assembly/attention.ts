// Causal attention over heads that lie strided in [B, T, H, D], a block of queries at a time: no more than one block of
// the T x T probabilities is ever held, and a block sees only the keys from the first that it may see to its last query.

// b batch, t tokens, heads query heads, groups key-value heads, k a key head's own width, p the width of the part of the
// key that all heads share (0 for none), v a value head's width. `keyStep`, `valueStep`: elements from one head's key (or
// value) to the next one's, so that both may lie in one tensor.

import { gemm } from "./gemm";
import { addScaled, at, clear, copy, dot, exp1, exp4, log1, sum4 } from "./math";
import { ATTENTION, ATTENTION_GRADIENT, evenly, forEachThread, give, given, ownPart, share } from "./threads";

const QUERIES = 32; // Fewer products are done in vain above the diagonal than with more.

// Nanoseconds: of a multiplication and addition, of a probability.
const PRODUCTS_TAKE = 0.1;
const SOFTMAX_TAKES = 1.0;

/** Nanoseconds for so many heads, of which a pair of tokens takes so many multiplications. */
function timeOf(heads: i32, t: i32, multiplications: i32): f64 {
  const pairs = 0.5 * <f64>t * <f64>(t + QUERIES);
  return <f64>heads * pairs * (PRODUCTS_TAKE * <f64>multiplications + SOFTMAX_TAKES);
}

/** Bytes of working memory for `causalAttention`. */
export function causalAttentionBytes(t: i32, k: i32, p: i32): i32 {
  return forEachThread(forwardBytes(t, k, p));
}

function forwardBytes(t: i32, k: i32, p: i32): i32 {
  return (QUERIES * t + t * (k + p)) << 2;
}

/** The first token that token `token` of a row may see: `starts` is int32 [b, t], or 0 where each sees all before it. */
function firstSeen(starts: usize, token: i32): i32 {
  return starts == 0 ? 0 : max(0, load<i32>(at(starts, token)));
}

/**
 * q: [b, t, heads, k+p], key and value: [b, t, groups, ...], shared: [b, t, p] (any address if p is 0), starts: int32
 * [b, t] or 0 -> o: [b, t, heads, v], stats: [b, heads, t, 2], the logsumexp and the first token seen.
 */
export function causalAttention(
  q: usize,
  key: usize,
  value: usize,
  shared: usize,
  starts: usize,
  o: usize,
  stats: usize,
  b: i32,
  t: i32,
  heads: i32,
  groups: i32,
  k: i32,
  p: i32,
  v: i32,
  keyStep: i32,
  valueStep: i32,
  scale: f32,
  work: usize,
): void {
  give<usize>(0, q);
  give<usize>(1, key);
  give<usize>(2, value);
  give<usize>(3, shared);
  give<usize>(4, starts);
  give<usize>(5, o);
  give<usize>(6, stats);
  give<i32>(7, t);
  give<i32>(8, heads);
  give<i32>(9, groups);
  give<i32>(10, k);
  give<i32>(11, p);
  give<i32>(12, v);
  give<i32>(13, keyStep);
  give<i32>(14, valueStep);
  give<f32>(15, scale);
  give<usize>(16, work);
  share(ATTENTION, b * heads, evenly(b * heads, 1), timeOf(b * heads, t, k + p + v), true);
}

/** Heads `first` to `last` of all rows' heads. */
export function attentionPiece(first: i32, last: i32): void {
  const q = given<usize>(0);
  const key = given<usize>(1);
  const value = given<usize>(2);
  const shared = given<usize>(3);
  const starts = given<usize>(4);
  const o = given<usize>(5);
  const stats = given<usize>(6);
  const t = given<i32>(7);
  const heads = given<i32>(8);
  const groups = given<i32>(9);
  const k = given<i32>(10);
  const p = given<i32>(11);
  const v = given<i32>(12);
  const keyStep = given<i32>(13);
  const valueStep = given<i32>(14);
  const scale = given<f32>(15);
  const logits = ownPart(given<usize>(16), forwardBytes(t, k, p));
  const joined = at(logits, QUERIES * t);
  const perGroup = heads / groups;
  const ldq = heads * (k + p);
  const ldv = groups * valueStep;
  for (let unit = first; unit < last; unit++) {
    const batch = unit / heads;
    const h = unit % heads;
    const head = batch * t * groups + h / perGroup;
    const starting = starts == 0 ? <usize>0 : at(starts, batch * t);
    let keys = at(key, head * keyStep);
    let ldk = groups * keyStep;
    if (p > 0) {
      if (unit == first || h % perGroup == 0) joinKey(keys, ldk, at(shared, batch * t * p), joined, t, k, p);
      keys = joined;
      ldk = k + p;
    }
    const values = at(value, head * valueStep);
    const queries = at(q, (batch * t * heads + h) * (k + p));
    const out = at(o, (batch * t * heads + h) * v);
    for (let t0 = 0; t0 < t; t0 += QUERIES) {
      const rows = min(QUERIES, t - t0);
      const firstKey = firstSeen(starting, t0);
      const seen = t0 + rows - firstKey;
      const ownKeys = at(keys, firstKey * ldk);
      gemm(false, true, rows, seen, k + p, at(queries, t0 * ldq), ldq, ownKeys, ldk, logits, seen, false);
      for (let i = 0; i < rows; i++) {
        const own = firstSeen(starting, t0 + i);
        const row = at(logits, i * seen);
        clear(row, own - firstKey);
        const visible = t0 + i + 1 - own;
        const stat = at(stats, 2 * (unit * t + t0 + i));
        store<f32>(stat, softmax(at(row, own - firstKey), visible, seen - (own - firstKey), scale));
        store<f32>(stat, <f32>own, 4);
      }
      const ownValues = at(values, firstKey * ldv);
      gemm(false, false, rows, v, seen, logits, seen, ownValues, ldv, at(out, t0 * heads * v), heads * v, false);
    }
  }
}

/** One group's keys, `ldk` apart, and the shared part, side by side: [t, k+p]. */
function joinKey(key: usize, ldk: i32, shared: usize, joined: usize, t: i32, k: i32, p: i32): void {
  for (let i = 0; i < t; i++) {
    copy(joined, at(key, i * ldk), k);
    copy(at(joined, k), at(shared, i * p), p);
    joined = at(joined, k + p);
  }
}

/** The first `seen` of `n` logits -> their probabilities at `scale`, in place, and 0 for the others. Returns logsumexp. */
export function softmax(row: usize, seen: i32, n: i32, scale: f32): f32 {
  let most = load<f32>(row);
  let most4 = f32x4.splat(most);
  let i = 0;
  for (; i + 4 <= seen; i += 4) most4 = f32x4.pmax(most4, v128.load(at(row, i)));
  most = max(
    max(f32x4.extract_lane(most4, 0), f32x4.extract_lane(most4, 1)),
    max(f32x4.extract_lane(most4, 2), f32x4.extract_lane(most4, 3)),
  );
  for (; i < seen; i++) most = max(most, load<f32>(at(row, i)));
  const shift = f32x4.splat(most);
  const scale4 = f32x4.splat(scale);
  let sums = f32x4.splat(0);
  let rest: f32 = 0;
  for (i = 0; i + 4 <= seen; i += 4) {
    const e = exp4(f32x4.mul(f32x4.sub(v128.load(at(row, i)), shift), scale4));
    sums = f32x4.add(sums, e);
    v128.store(at(row, i), e);
  }
  for (; i < seen; i++) {
    const e = exp1((load<f32>(at(row, i)) - most) * scale);
    rest += e;
    store<f32>(at(row, i), e);
  }
  const sum = sum4(sums) + rest;
  const inverse = f32x4.splat(1 / sum);
  for (i = 0; i + 4 <= seen; i += 4) v128.store(at(row, i), f32x4.mul(v128.load(at(row, i)), inverse));
  for (; i < seen; i++) store<f32>(at(row, i), load<f32>(at(row, i)) * (1 / sum));
  clear(at(row, seen), n - seen);
  return most * scale + <f32>log1(sum);
}

/** Bytes of working memory for `causalAttentionGradient`. */
export function causalAttentionGradientBytes(b: i32, t: i32, groups: i32, k: i32, p: i32): i32 {
  return ((b * groups * t * p) << 2) + forEachThread(backwardBytes(t, k, p));
}

function backwardBytes(t: i32, k: i32, p: i32): i32 {
  return (2 * QUERIES * t + 2 * t * (k + p)) << 2;
}

/**
 * dy: [b, t, heads, v] and what the forward saw and gave -> dq, dkey, dvalue, dshared, shaped like what they belong to.
 *
 * With P the probabilities: dP = dy·valueᵀ, dS = P * (dP - rowsum(dy * o)) * scale, dq = dS·key, dkey = dSᵀ·q,
 * dvalue = Pᵀ·dy (Dao et al., 2022, appendix B.4). Blocks of queries add to dkey and dvalue in order.
 */
export function causalAttentionGradient(
  dy: usize,
  q: usize,
  key: usize,
  value: usize,
  shared: usize,
  o: usize,
  stats: usize,
  dq: usize,
  dkey: usize,
  dvalue: usize,
  dshared: usize,
  b: i32,
  t: i32,
  heads: i32,
  groups: i32,
  k: i32,
  p: i32,
  v: i32,
  keyStep: i32,
  valueStep: i32,
  scale: f32,
  work: usize,
): void {
  const shares = work; // [b, groups, t, p]: of dshared.
  give<usize>(0, dy);
  give<usize>(1, q);
  give<usize>(2, key);
  give<usize>(3, value);
  give<usize>(4, shared);
  give<usize>(5, o);
  give<usize>(6, stats);
  give<usize>(7, dq);
  give<usize>(8, dkey);
  give<usize>(9, dvalue);
  give<usize>(10, shares);
  give<i32>(11, t);
  give<i32>(12, heads);
  give<i32>(13, groups);
  give<i32>(14, k);
  give<i32>(15, p);
  give<i32>(16, v);
  give<i32>(17, keyStep);
  give<i32>(18, valueStep);
  give<f32>(19, scale);
  give<usize>(20, at(work, b * groups * t * p));
  const nanoseconds = timeOf(b * heads, t, 3 * (k + p) + 2 * v);
  share(ATTENTION_GRADIENT, b * groups, evenly(b * groups, 1), nanoseconds, true);
  if (p > 0) {
    clear(dshared, b * t * p);
    for (let head = 0; head < b * groups; head++) {
      addScaled(at(dshared, (head / groups) * t * p), at(shares, head * t * p), 1, t * p);
    }
  }
}

/** Key-value heads `first` to `last` of all rows' heads. */
export function attentionGradientPiece(first: i32, last: i32): void {
  const dy = given<usize>(0);
  const q = given<usize>(1);
  const key = given<usize>(2);
  const value = given<usize>(3);
  const shared = given<usize>(4);
  const o = given<usize>(5);
  const stats = given<usize>(6);
  const dq = given<usize>(7);
  const dkey = given<usize>(8);
  const dvalue = given<usize>(9);
  const shares = given<usize>(10);
  const t = given<i32>(11);
  const heads = given<i32>(12);
  const groups = given<i32>(13);
  const k = given<i32>(14);
  const p = given<i32>(15);
  const v = given<i32>(16);
  const keyStep = given<i32>(17);
  const valueStep = given<i32>(18);
  const scale = given<f32>(19);
  const probabilities = ownPart(given<usize>(20), backwardBytes(t, k, p));
  const slopes = at(probabilities, QUERIES * t);
  const joined = at(slopes, QUERIES * t);
  const djoined = at(joined, t * (k + p));
  const perGroup = heads / groups;
  const width = k + p;
  const ldq = heads * width;
  const ldo = heads * v;
  const ldv = groups * valueStep;
  for (let unit = first; unit < last; unit++) {
    const batch = unit / groups;
    const g = unit % groups;
    const head = batch * t * groups + g;
    let keys = at(key, head * keyStep);
    let dkeys = at(dkey, head * keyStep);
    let ldk = groups * keyStep;
    if (p > 0) {
      joinKey(keys, ldk, at(shared, batch * t * p), joined, t, k, p);
      keys = joined;
      dkeys = djoined;
      ldk = width;
    }
    const values = at(value, head * valueStep);
    const dvalues = at(dvalue, head * valueStep);
    clearRows(dkeys, t, width, ldk);
    clearRows(dvalues, t, v, ldv);
    for (let h = g * perGroup; h < (g + 1) * perGroup; h++) {
      const firstRow = batch * t * heads + h; // This head's, of the rows of all heads.
      for (let t0 = 0; t0 < t; t0 += QUERIES) {
        const rows = min(QUERIES, t - t0);
        const stat = at(stats, 2 * ((batch * heads + h) * t + t0));
        const firstKey = <i32>load<f32>(stat, 4);
        const seen = t0 + rows - firstKey;
        const queries = at(q, (firstRow + t0 * heads) * width);
        const dout = at(dy, (firstRow + t0 * heads) * v);
        const out = at(o, (firstRow + t0 * heads) * v);
        const ownKeys = at(keys, firstKey * ldk);
        gemm(false, true, rows, seen, width, queries, ldq, ownKeys, ldk, probabilities, seen, false);
        gemm(false, true, rows, seen, v, dout, ldo, at(values, firstKey * ldv), ldv, slopes, seen, false);
        for (let i = 0; i < rows; i++) {
          const normalizer = load<f32>(at(stat, 2 * i));
          const before = <i32>load<f32>(at(stat, 2 * i + 1)) - firstKey;
          const along = dot(at(dout, i * ldo), at(out, i * ldo), v);
          const row = i * seen;
          clear(at(probabilities, row), before);
          clear(at(slopes, row), before);
          const visible = t0 + i + 1 - firstKey - before;
          const rest = seen - before;
          const own = row + before;
          softmaxGradient(at(probabilities, own), at(slopes, own), visible, rest, scale, normalizer, along);
        }
        const dqueries = at(dq, (firstRow + t0 * heads) * width);
        gemm(false, false, rows, width, seen, slopes, seen, ownKeys, ldk, dqueries, ldq, false);
        gemm(true, false, seen, width, rows, slopes, seen, queries, ldq, at(dkeys, firstKey * ldk), ldk, true);
        gemm(true, false, seen, v, rows, probabilities, seen, dout, ldo, at(dvalues, firstKey * ldv), ldv, true);
      }
    }
    if (p > 0) partKey(djoined, at(dkey, head * keyStep), groups * keyStep, at(shares, unit * t * p), t, k, p);
  }
}

/** Zeros in `rows` rows of `width` elements, `ld` apart. */
function clearRows(to: usize, rows: i32, width: i32, ld: i32): void {
  for (let i = 0; i < rows; i++) clear(at(to, i * ld), width);
}

/** The gradient of a joined key, in two: its own part, and its share of the shared part's. */
function partKey(djoined: usize, dkey: usize, ldk: i32, share: usize, t: i32, k: i32, p: i32): void {
  for (let i = 0; i < t; i++) {
    copy(at(dkey, i * ldk), djoined, k);
    copy(at(share, i * p), at(djoined, k), p);
    djoined = at(djoined, k + p);
  }
}

/** logits -> probabilities, and dP -> dS, both in place; 0 in both from `seen` to `n`. */
function softmaxGradient(
  logits: usize,
  slopes: usize,
  seen: i32,
  n: i32,
  scale: f32,
  normalizer: f32,
  along: f32,
): void {
  const scale4 = f32x4.splat(scale);
  const normalizer4 = f32x4.splat(normalizer);
  const along4 = f32x4.splat(along);
  let i = 0;
  for (; i + 4 <= seen; i += 4) {
    const e = exp4(f32x4.sub(f32x4.mul(v128.load(at(logits, i)), scale4), normalizer4));
    v128.store(at(logits, i), e);
    v128.store(at(slopes, i), f32x4.mul(f32x4.mul(e, f32x4.sub(v128.load(at(slopes, i)), along4)), scale4));
  }
  for (; i < seen; i++) {
    const e = exp1(load<f32>(at(logits, i)) * scale - normalizer);
    store<f32>(at(logits, i), e);
    store<f32>(at(slopes, i), e * (load<f32>(at(slopes, i)) - along) * scale);
  }
  clear(at(logits, seen), n - seen);
  clear(at(slopes, seen), n - seen);
}
