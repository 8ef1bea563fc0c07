import * as fc from "fast-check";
import { describe, expect, it } from "vitest";
import { philox2x32, randomBits, randomUnit, shuffled } from "../../src/data/shuffle.ts";

it.each([
  // Known answers of the authors' library, Random123.
  [[0, 0], 0, [0xff1dae59, 0x6cd10df2]],
  [[0xffffffff, 0xffffffff], 0xffffffff, [0x2c3f628b, 0xab4fd7ad]],
  [[0x243f6a88, 0x85a308d3], 0x13198a2e, [0xdd7ce038, 0xf62a4c12]],
])("Philox gives for counter %j and key %d the known answer", ([low, high], key, answer) => {
  expect(philox2x32(low, high, key)).toEqual(answer);
});

it("a draw depends on seed, stream and counter, and on nothing drawn before", () => {
  const draws = [randomBits(1, 2, 3), randomBits(2, 2, 3), randomBits(1, 3, 3), randomBits(1, 2, 4)];
  expect(new Set(draws).size).toBe(4);
  expect(randomBits(1, 2, 3)).toBe(draws[0]);
});

it("draws are in [0, 1) and even over it", () => {
  const bins = Array.from({ length: 10 }, () => 0);
  for (let i = 0; i < 10_000; i++) bins[Math.floor(10 * randomUnit(7, 0, i))]++;
  // 1000 in each bin; the standard deviation is 30.
  expect(Math.min(...bins)).toBeGreaterThan(850);
  expect(Math.max(...bins)).toBeLessThan(1150);
});

describe("an order", () => {
  it("has every index once", () => {
    fc.assert(
      fc.property(fc.nat(200), fc.integer(), fc.nat(), (count, seed, stream) => {
        const order = shuffled(count, seed, stream);
        expect(order.toSorted((a, b) => a - b)).toEqual(Array.from({ length: count }, (_, index) => index));
      }),
    );
  });

  it("of three is each of the six about as often", () => {
    const counts = new Map<string, number>();
    for (let seed = 0; seed < 6000; seed++) {
      const order = shuffled(3, seed, 0).join();
      counts.set(order, (counts.get(order) ?? 0) + 1);
    }
    expect(counts.size).toBe(6);
    for (const count of counts.values()) expect(Math.abs(count - 1000)).toBeLessThan(150);
  });
});
