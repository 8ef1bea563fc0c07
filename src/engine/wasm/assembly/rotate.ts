// Rotary position embedding on the last 2 * half entries of each head.

import { at, copy } from "./math";
import { firstOutside } from "./rows";
import { evenly, give, given, ROTATE, share } from "./threads";

const TAKES = 0.4; // Nanoseconds for an element.

/**
 * x: [tokens, heads, width] -> y, same shape (or x itself); positions: int32 [tokens]; cos, sin: [tablePositions, half].
 *
 * Pairs are (2i, 2i+1) if `interleaved`, else (i, i + half); `inverse` rotates back. Returns the first token whose
 * position the table lacks, with nothing done, or -1.
 */
export function rotate(
  x: usize,
  positions: usize,
  cos: usize,
  sin: usize,
  y: usize,
  tokens: i32,
  heads: i32,
  width: i32,
  half: i32,
  tablePositions: i32,
  interleaved: bool,
  inverse: bool,
): i32 {
  const wrong = firstOutside(positions, tokens, tablePositions);
  if (wrong >= 0) return wrong;
  give<usize>(0, x);
  give<usize>(1, positions);
  give<usize>(2, cos);
  give<usize>(3, sin);
  give<usize>(4, y);
  give<i32>(5, heads);
  give<i32>(6, width);
  give<i32>(7, half);
  give<bool>(8, interleaved);
  give<f32>(9, inverse ? -1 : 1);
  share(ROTATE, tokens, evenly(tokens, 1), <f64>tokens * <f64>(heads * width) * TAKES, y != x);
  return -1;
}

/** Tokens `first` to `last`. */
export function rotatePiece(first: i32, last: i32): void {
  const x = given<usize>(0);
  const positions = given<usize>(1);
  const cos = given<usize>(2);
  const sin = given<usize>(3);
  const y = given<usize>(4);
  const heads = given<i32>(5);
  const width = given<i32>(6);
  const half = given<i32>(7);
  const interleaved = given<bool>(8);
  const sign = given<f32>(9);
  for (let t = first; t < last; t++) {
    const angles = load<i32>(at(positions, t)) * half;
    for (let h = t * heads; h < (t + 1) * heads; h++) {
      rotateHead(at(x, h * width), at(cos, angles), at(sin, angles), at(y, h * width), width, half, interleaved, sign);
    }
  }
}

/** One head of `width` entries at the angles of its position; c, s: [half]. */
export function rotateHead(
  x: usize,
  c: usize,
  s: usize,
  y: usize,
  width: i32,
  half: i32,
  interleaved: bool,
  sign: f32,
): void {
  const plain = width - 2 * half;
  copy(y, x, plain);
  if (interleaved) rotateInterleaved(at(x, plain), c, s, at(y, plain), half, sign);
  else rotateHalves(at(x, plain), c, s, at(y, plain), half, sign);
}

function rotateInterleaved(x: usize, c: usize, s: usize, y: usize, half: i32, sign: f32): void {
  const sign4 = f32x4.splat(sign);
  let i = 0;
  for (; i + 4 <= half; i += 4) {
    const low = v128.load(at(x, 2 * i));
    const high = v128.load(at(x, 2 * i), 16);
    const a = v128.shuffle<f32>(low, high, 0, 2, 4, 6);
    const b = v128.shuffle<f32>(low, high, 1, 3, 5, 7);
    const cosine = v128.load(at(c, i));
    const sine = f32x4.mul(v128.load(at(s, i)), sign4);
    const first = f32x4.sub(f32x4.mul(a, cosine), f32x4.mul(b, sine));
    const second = f32x4.add(f32x4.mul(a, sine), f32x4.mul(b, cosine));
    v128.store(at(y, 2 * i), v128.shuffle<f32>(first, second, 0, 4, 1, 5));
    v128.store(at(y, 2 * i), v128.shuffle<f32>(first, second, 2, 6, 3, 7), 16);
  }
  for (; i < half; i++) {
    const a = load<f32>(at(x, 2 * i));
    const b = load<f32>(at(x, 2 * i + 1));
    const cosine = load<f32>(at(c, i));
    const sine = load<f32>(at(s, i)) * sign;
    store<f32>(at(y, 2 * i), a * cosine - b * sine);
    store<f32>(at(y, 2 * i + 1), a * sine + b * cosine);
  }
}

function rotateHalves(x: usize, c: usize, s: usize, y: usize, half: i32, sign: f32): void {
  const sign4 = f32x4.splat(sign);
  let i = 0;
  for (; i + 4 <= half; i += 4) {
    const a = v128.load(at(x, i));
    const b = v128.load(at(x, half + i));
    const cosine = v128.load(at(c, i));
    const sine = f32x4.mul(v128.load(at(s, i)), sign4);
    v128.store(at(y, i), f32x4.sub(f32x4.mul(a, cosine), f32x4.mul(b, sine)));
    v128.store(at(y, half + i), f32x4.add(f32x4.mul(a, sine), f32x4.mul(b, cosine)));
  }
  for (; i < half; i++) {
    const a = load<f32>(at(x, i));
    const b = load<f32>(at(x, half + i));
    const cosine = load<f32>(at(c, i));
    const sine = load<f32>(at(s, i)) * sign;
    store<f32>(at(y, i), a * cosine - b * sine);
    store<f32>(at(y, half + i), a * sine + b * cosine);
  }
}
