// The next token of each row of logits: temperature, top-k, top-p, and the draw.

import { at, exp1 } from "./math";

const BINS = 256;
const ENDLESS: u32 = 0xff800000; // The key of infinity, past which there are only numbers that are none,
const NEVER: u32 = 0x007fffff; // and of minus infinity.

/** Bytes of working memory that `sampleTokens` wants. */
export function sampleBytes(): i32 {
  return BINS << 3;
}

/** logits: [b, v], uniforms: [b] -> tokens: int32 [b]. topK 0: all; temperature 0: the largest logit. */
export function sampleTokens(
  logits: usize,
  uniforms: usize,
  tokens: usize,
  b: i32,
  v: i32,
  temperature: f32,
  topK: i32,
  topP: f32,
  work: usize,
): void {
  for (let i = 0; i < b; i++) {
    const row = at(logits, i * v);
    const first = firstLargest(row, v);
    let token = first;
    if (first >= 0 && temperature > 0) {
      const top = load<f32>(at(row, first));
      const inverse: f32 = 1 / temperature;
      let least: u32 = 0;
      if (topK > 0) least = leastKey(row, v, top, inverse, least, true, <f64>topK, work);
      if (topP < 1) {
        const all = sumFrom(row, v, top, inverse, least);
        least = leastKey(row, v, top, inverse, least, false, <f64>topP * all, work);
      }
      token = draw(row, v, top, inverse, least, load<f32>(at(uniforms, i)));
    }
    store<i32>(at(tokens, i), token);
  }
}

/** An integer that is larger where the number is; what is not a number is the largest. */
function keyOf(x: f32): u32 {
  const bits = reinterpret<u32>(x);
  if (x != x) return 0xffffffff;
  if (x == 0) return 0x80000000; // -0 is 0.
  return bits >= 0x80000000 ? ~bits : bits | 0x80000000;
}

/** Where the largest of v elements is, the first of equals; -1 if one is not a number or infinite, or none is finite. */
function firstLargest(row: usize, v: i32): i32 {
  let largest: u32 = 0;
  let place = 0;
  for (let i = 0; i < v; i++) {
    const key = keyOf(load<f32>(at(row, i)));
    if (key <= largest) continue;
    largest = key;
    place = i;
  }
  return largest >= ENDLESS || largest <= NEVER ? -1 : place;
}

/** e^((x - top) / temperature), 0 for keys below the least. */
function weigh(x: f32, top: f32, inverse: f32, least: u32): f64 {
  const z = (x - top) * inverse;
  return z > -80 && keyOf(x) >= least ? <f64>exp1(z) : 0;
}

function sumFrom(row: usize, v: i32, top: f32, inverse: f32, least: u32): f64 {
  let sum: f64 = 0;
  for (let i = 0; i < v; i++) sum += weigh(load<f32>(at(row, i)), top, inverse, least);
  return sum;
}

/**
 * The least key from `least` on of which the keys above weigh less than `limit`: found in four rounds of eight bits each.
 * A key weighs 1 if `counting`, else what `weigh` says.
 */
function leastKey(
  row: usize,
  v: i32,
  top: f32,
  inverse: f32,
  least: u32,
  counting: bool,
  limit: f64,
  bins: usize,
): u32 {
  let found: u32 = 0;
  let above: f64 = 0;
  for (let shift = 24; shift >= 0; shift -= 8) {
    const known: u32 = shift == 24 ? 0 : 0xffffffff << (shift + 8);
    memory.fill(bins, 0, BINS << 3);
    for (let i = 0; i < v; i++) {
      const x = load<f32>(at(row, i));
      const key = keyOf(x);
      if (key < least || (key & known) != found) continue;
      const bin = bins + (((key >> shift) & 255) << 3);
      store<f64>(bin, load<f64>(bin) + (counting ? 1 : weigh(x, top, inverse, least)));
    }
    let sum = above;
    let chosen = BINS - 1;
    for (let bin = BINS - 1; bin >= 0; bin--) {
      const weight = load<f64>(bins + (bin << 3));
      if (weight > 0 && sum < limit) {
        chosen = bin;
        above = sum;
      }
      sum += weight;
    }
    found |= chosen << shift;
  }
  return found;
}

/** The first element at which the running sum of weights passes `uniform` of their whole. */
function draw(row: usize, v: i32, top: f32, inverse: f32, least: u32, uniform: f32): i32 {
  const place = <f64>uniform * sumFrom(row, v, top, inverse, least);
  let running: f64 = 0;
  let token = 0;
  for (let i = 0; i < v && running <= place; i++) {
    const weight = weigh(load<f32>(at(row, i)), top, inverse, least);
    running += weight;
    if (weight > 0) token = i;
  }
  return token;
}

/** ids = tokens (0 for -1), and positions one further, at most `last`, in place: int32 [b]. */
export function advance(ids: usize, positions: usize, tokens: usize, b: i32, last: i32): void {
  for (let i = 0; i < b; i++) {
    store<i32>(at(ids, i), max(load<i32>(at(tokens, i)), 0));
    store<i32>(at(positions, i), min(load<i32>(at(positions, i)) + 1, last));
  }
}
