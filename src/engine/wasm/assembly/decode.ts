// One new token per row against what the cache holds of that row, and the cache's rows themselves.

// b rows, slots of the cache, heads query heads, groups key-value heads; cos, sin: [known, half], the rotary tables.

import { softmax } from "./attention";
import { addScaled, at, clear, copy, dot } from "./math";
import { normalizeRow } from "./norm";
import { rotateHead } from "./rotate";

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

/**
 * q: [b, heads, d], not rotated; keys, values: [b, slots, groups, d] -> o: [b, heads, d]. `work`: slots + d elements.
 */
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
  const perGroup = heads / groups;
  const query = at(work, slots);
  for (let batch = 0; batch < b; batch++) {
    const seen = seenBy(positions, batch, slots);
    const angles = load<i32>(at(positions, batch)) * half;
    for (let h = 0; h < heads; h++) {
      const own = (batch * heads + h) * d;
      const cached = (batch * slots * groups + h / perGroup) * d;
      rotateHead(at(q, own), at(cos, angles), at(sin, angles), query, d, half, interleaved, 1);
      const ld = groups * d;
      attend(query, at(keys, cached), ld, d, at(values, cached), ld, d, at(o, own), seen, scale, work);
    }
  }
}

/**
 * The absorbed form (DeepSeek-V2, section 2.1.2): a query is taken into the latent's space, where the cache is, and what it
 * collects back out. q: [b, heads, n+p], its rotary part not rotated; cache: [b, slots, r+p]; weight: [heads, n+v, r],
 * by head n key rows, then v value rows -> o: [b, heads, v]. `work`: slots + 2 * (r + p) elements.
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
  const p = 2 * half;
  const query = at(work, slots);
  const collected = at(query, r + p);
  for (let batch = 0; batch < b; batch++) {
    const seen = seenBy(positions, batch, slots);
    const angles = load<i32>(at(positions, batch)) * half;
    const latents = at(cache, batch * slots * (r + p));
    for (let h = 0; h < heads; h++) {
      const own = at(q, (batch * heads + h) * (n + p));
      const rows = at(weight, h * (n + v) * r);
      clear(query, r);
      for (let i = 0; i < n; i++) addScaled(query, at(rows, i * r), load<f32>(at(own, i)), r);
      rotateHead(at(own, n), at(cos, angles), at(sin, angles), at(query, r), p, half, interleaved, 1);
      attend(query, latents, r + p, r + p, latents, r + p, r, collected, seen, scale, work);
      const out = at(o, (batch * heads + h) * v);
      for (let i = 0; i < v; i++) store<f32>(at(out, i), dot(collected, at(rows, (n + i) * r), r));
    }
  }
}
