// Order that a seed decides: counter-based random numbers, so that any draw can be made again without the ones before it.

/**
 * 32 random bits for (seed, stream, counter): Philox-2x32 with ten rounds (Salmon et al., 2011).
 *
 * All three are whole numbers; their lower 32 bits count.
 */
export function randomBits(seed: number, stream: number, counter: number): number {
  return philox2x32(counter, stream, seed)[0];
}

/** The two words that Philox-2x32-10 makes of a counter of two words and a key. */
export function philox2x32(low: number, high: number, key: number): [number, number] {
  let [left, right, round] = [low >>> 0, high >>> 0, key >>> 0];
  for (let i = 0; i < 10; i++) {
    const product = multiplyHigh(MULTIPLIER, left);
    const rest = Math.imul(MULTIPLIER, left) >>> 0;
    left = (product ^ round ^ right) >>> 0;
    right = rest;
    round = (round + WEYL) >>> 0;
  }
  return [left, right];
}

/** Uniform in [0, 1). */
export function randomUnit(seed: number, stream: number, counter: number): number {
  return randomBits(seed, stream, counter) / 2 ** 32;
}

/** 0 .. count - 1 in an order that (seed, stream) decides (Fisher and Yates). */
export function shuffled(count: number, seed: number, stream: number): number[] {
  const order = Array.from({ length: count }, (_, index) => index);
  for (let last = count - 1; last > 0; last--) {
    const other = Math.floor(randomUnit(seed, stream, last) * (last + 1));
    [order[last], order[other]] = [order[other], order[last]];
  }
  return order;
}

const MULTIPLIER = 0xd256d193;
const WEYL = 0x9e3779b9; // The golden ratio's fraction.

/** The upper 32 bits of the product of two 32-bit numbers. */
function multiplyHigh(a: number, b: number): number {
  const [aHigh, aLow, bHigh, bLow] = [a >>> 16, a & 0xffff, b >>> 16, b & 0xffff];
  const middle = aHigh * bLow + Math.floor((aLow * bLow) / 0x10000);
  const carry = aLow * bHigh + (middle % 0x10000);
  return (aHigh * bHigh + Math.floor(middle / 0x10000) + Math.floor(carry / 0x10000)) >>> 0;
}
