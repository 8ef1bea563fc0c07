// One new token per row against what the cache holds of that row, and the cache's rows themselves.

// b rows, slots of the cache, heads query heads, groups key-value heads; cos, sin: [known, half], the rotary tables.

import { softmax } from "./attention";
import { addScaled, at, clear, copy, dot } from "./math";
import { normalizeRow } from "./norm";
import { rotateHead } from "./rotate";
import { DECODE, evenly, forEachThread, give, given, LATENT_DECODE, ownPart, share } from "./threads";

/** The first token whose position is not a slot that the tables and the cache have, or -1. */
export function firstWrongPosition(positions: usize, tokens: i32, known: i32): i32 {
  for (let i = 0; i < tokens; i++) if (<u32>load<i32>(at(positions, i)) >= <u32>known) return i;
  return -1;
}

/** Row `batch` sees slots 0..positions[batch]. */
function seenBy(positions: usize, batch: i32, slots: i32): i32 {
  return min(load<i32>(at(positions, batch)) + 1, slots);
}

/**
 * keys, values: [b, t, groups, d] into slots positions[b, t] of keyCache, valueCache: [b, slots, groups, d], the keys
 * rotated there by halves or in pairs.
 */
export function storeKeys(
  keys: usize,
  values: usize,
  positions: usize,
  cos: usize,
  sin: usize,
  keyCache: usize,
  valueCache: usize,
  b: i32,
  t: i32,
  slots: i32,
  groups: i32,
  d: i32,
  half: i32,
  interleaved: bool,
): void {
  for (let batch = 0; batch < b; batch++) {
    for (let i = 0; i < t; i++) {
      const position = load<i32>(at(positions, batch * t + i));
      const from = (batch * t + i) * groups * d;
      const to = (batch * slots + position) * groups * d;
      copy(at(valueCache, to), at(values, from), groups * d);
      for (let g = 0; g < groups; g++) {
        const angles = position * half;
        rotateHead(
          at(keys, from + g * d),
          at(cos, angles),
          at(sin, angles),
          at(keyCache, to + g * d),
          d,
          half,
          interleaved,
          1,
        );
      }
    }
  }
}

/** compressed: [b, t, r+p] into slots positions[b, t] of cache: [b, slots, r+p]: r normed entries, p rotated ones. */
export function storeLatents(
  compressed: usize,
  weight: usize,
  positions: usize,
  cos: usize,
  sin: usize,
  cache: usize,
  b: i32,
  t: i32,
  slots: i32,
  r: i32,
  half: i32,
  eps: f32,
  interleaved: bool,
): void {
  const p = 2 * half;
  for (let batch = 0; batch < b; batch++) {
    for (let i = 0; i < t; i++) {
      const position = load<i32>(at(positions, batch * t + i));
      const from = at(compressed, (batch * t + i) * (r + p));
      const to = at(cache, (batch * slots + position) * (r + p));
      const angles = position * half;
      normalizeRow(from, weight, to, r, eps);
      rotateHead(at(from, r), at(cos, angles), at(sin, angles), at(to, r), p, half, interleaved, 1);
    }
  }
}

const READ_TAKES = 0.25; // Nanoseconds for an element of the cache or of a weight.

/** All tokens that the rows see. */
function allSeen(positions: usize, b: i32, slots: i32): i32 {
  let sum = 0;
  for (let batch = 0; batch < b; batch++) sum += seenBy(positions, batch, slots);
  return sum;
}

/** What one query finds: out[v] = the softmax over `seen` keys, weighted values. `work` holds `seen` elements. */
function attend(
  query: usize,
  keys: usize,
  ldk: i32,
  d: i32,
  values: usize,
  ldv: i32,
  v: i32,
  out: usize,
  seen: i32,
  scale: f32,
  work: usize,
): void {
  for (let s = 0; s < seen; s++) store<f32>(at(work, s), dot(query, at(keys, s * ldk), d));
  softmax(work, seen, seen, scale);
  clear(out, v);
  for (let s = 0; s < seen; s++) addScaled(out, at(values, s * ldv), load<f32>(at(work, s)), v);
}

/** Bytes of working memory for `decodeAttention`. */
export function decodeAttentionBytes(slots: i32, d: i32): i32 {
  return forEachThread(decodeBytes(slots, d));
}

function decodeBytes(slots: i32, d: i32): i32 {
  return (slots + d) << 2;
}

/** q: [b, heads, d], not rotated; keys, values: [b, slots, groups, d] -> o: [b, heads, d]. */
export function decodeAttention(
  q: usize,
  keys: usize,
  values: usize,
  positions: usize,
  cos: usize,
  sin: usize,
  o: usize,
  b: i32,
  slots: i32,
  heads: i32,
  groups: i32,
  d: i32,
  half: i32,
  interleaved: bool,
  scale: f32,
  work: usize,
): void {
  give<usize>(0, q);
  give<usize>(1, keys);
  give<usize>(2, values);
  give<usize>(3, positions);
  give<usize>(4, cos);
  give<usize>(5, sin);
  give<usize>(6, o);
  give<i32>(7, slots);
  give<i32>(8, heads);
  give<i32>(9, groups);
  give<i32>(10, d);
  give<i32>(11, half);
  give<bool>(12, interleaved);
  give<f32>(13, scale);
  give<usize>(14, work);
  const elements = <f64>allSeen(positions, b, slots) * <f64>heads * <f64>(2 * d);
  share(DECODE, b * heads, evenly(b * heads, 1), elements * READ_TAKES, true);
}

/** Heads `first` to `last` of all rows' heads. */
export function decodePiece(first: i32, last: i32): void {
  const q = given<usize>(0);
  const keys = given<usize>(1);
  const values = given<usize>(2);
  const positions = given<usize>(3);
  const cos = given<usize>(4);
  const sin = given<usize>(5);
  const o = given<usize>(6);
  const slots = given<i32>(7);
  const heads = given<i32>(8);
  const groups = given<i32>(9);
  const d = given<i32>(10);
  const half = given<i32>(11);
  const interleaved = given<bool>(12);
  const scale = given<f32>(13);
  const probabilities = ownPart(given<usize>(14), decodeBytes(slots, d));
  const query = at(probabilities, slots);
  const perGroup = heads / groups;
  const ld = groups * d;
  for (let unit = first; unit < last; unit++) {
    const batch = unit / heads;
    const seen = seenBy(positions, batch, slots);
    const angles = load<i32>(at(positions, batch)) * half;
    const own = unit * d;
    const cached = (batch * slots * groups + (unit % heads) / perGroup) * d;
    rotateHead(at(q, own), at(cos, angles), at(sin, angles), query, d, half, interleaved, 1);
    attend(query, at(keys, cached), ld, d, at(values, cached), ld, d, at(o, own), seen, scale, probabilities);
  }
}

/** Bytes of working memory for `latentDecode`; width: of a slot, r + p. */
export function latentDecodeBytes(slots: i32, width: i32): i32 {
  return forEachThread(latentBytes(slots, width));
}

function latentBytes(slots: i32, width: i32): i32 {
  return (slots + 2 * width) << 2;
}

/**
 * The absorbed form (DeepSeek-V2, section 2.1.2): a query is taken into the latent's space, where the cache is, and what it
 * collects back out. q: [b, heads, n+p], its rotary part not rotated; cache: [b, slots, r+p]; weight: [heads, n+v, r],
 * by head n key rows, then v value rows -> o: [b, heads, v].
 */
export function latentDecode(
  q: usize,
  cache: usize,
  weight: usize,
  positions: usize,
  cos: usize,
  sin: usize,
  o: usize,
  b: i32,
  slots: i32,
  heads: i32,
  n: i32,
  v: i32,
  r: i32,
  half: i32,
  interleaved: bool,
  scale: f32,
  work: usize,
): void {
  give<usize>(0, q);
  give<usize>(1, cache);
  give<usize>(2, weight);
  give<usize>(3, positions);
  give<usize>(4, cos);
  give<usize>(5, sin);
  give<usize>(6, o);
  give<i32>(7, slots);
  give<i32>(8, heads);
  give<i32>(9, n);
  give<i32>(10, v);
  give<i32>(11, r);
  give<i32>(12, half);
  give<bool>(13, interleaved);
  give<f32>(14, scale);
  give<usize>(15, work);
  const perHead = <f64>allSeen(positions, b, slots) * <f64>(2 * (r + half)) + <f64>b * <f64>(n + v) * <f64>r;
  share(LATENT_DECODE, b * heads, evenly(b * heads, 1), <f64>heads * perHead * READ_TAKES, true);
}

/** Heads `first` to `last` of all rows' heads. */
export function latentDecodePiece(first: i32, last: i32): void {
  const q = given<usize>(0);
  const cache = given<usize>(1);
  const weight = given<usize>(2);
  const positions = given<usize>(3);
  const cos = given<usize>(4);
  const sin = given<usize>(5);
  const o = given<usize>(6);
  const slots = given<i32>(7);
  const heads = given<i32>(8);
  const n = given<i32>(9);
  const v = given<i32>(10);
  const r = given<i32>(11);
  const half = given<i32>(12);
  const interleaved = given<bool>(13);
  const scale = given<f32>(14);
  const p = 2 * half;
  const probabilities = ownPart(given<usize>(15), latentBytes(slots, r + p));
  const query = at(probabilities, slots);
  const collected = at(query, r + p);
  for (let unit = first; unit < last; unit++) {
    const batch = unit / heads;
    const seen = seenBy(positions, batch, slots);
    const angles = load<i32>(at(positions, batch)) * half;
    const latents = at(cache, batch * slots * (r + p));
    const own = at(q, unit * (n + p));
    const rows = at(weight, (unit % heads) * (n + v) * r);
    clear(query, r);
    for (let i = 0; i < n; i++) addScaled(query, at(rows, i * r), load<f32>(at(own, i)), r);
    rotateHead(at(own, n), at(cos, angles), at(sin, angles), at(query, r), p, half, interleaved, 1);
    attend(query, latents, r + p, r + p, latents, r + p, r, collected, seen, scale, probabilities);
    const out = at(o, unit * v);
    for (let i = 0; i < v; i++) store<f32>(at(out, i), dot(collected, at(rows, (n + i) * r), r));
  }
}
