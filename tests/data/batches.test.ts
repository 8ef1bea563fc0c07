import * as fc from "fast-check";
import { describe, expect, it } from "vitest";
import { makeBatch, weightOf } from "../../src/data/batches.ts";
import type { Example } from "../../src/protocol/data.ts";

const SHAPE = { lengthMultiple: 4, positionMultiple: 8, maxLength: 16 };

const example = (ids: number[], weights: number[]): Example => ({
  ids: Int32Array.from(ids),
  weights: Float32Array.from(weights),
});

const ones = (count: number): number[] => Array.from({ length: count }, () => 1);

const examples = fc.array(
  fc
    .array(fc.tuple(fc.integer({ min: 1, max: 99 }), fc.constantFrom(0, 1, 2)), { minLength: 2, maxLength: 17 })
    .map((tokens) =>
      example(
        tokens.map(([id]) => id),
        tokens.map(([, weight]) => weight),
      ),
    ),
  { minLength: 1, maxLength: 5 },
);
const carryLoss = (all: Example[]): boolean => weightOf(all) > 0;

describe("a batch", () => {
  it("lays rows side by side and lets each place that precedes a trained token predict it", () => {
    const batch = makeBatch([example([5, 6, 7, 8, 9, 1], [0, 0, 0, 1, 1, 2]), example([5, 4, 1], [0, 0, 1])], SHAPE);
    expect(batch).toEqual({
      rows: 2,
      length: 8,
      ids: Int32Array.of(5, 6, 7, 8, 9, 0, 0, 0, 5, 4, 0, 0, 0, 0, 0, 0),
      lengths: Int32Array.of(5, 2),
      positions: Int32Array.of(2, 3, 4, 9, 0, 0, 0, 0),
      targets: Int32Array.of(8, 9, 1, 1, 0, 0, 0, 0),
      weights: Float32Array.of(0.2, 0.2, 0.4, 0.2, 0, 0, 0, 0),
      tokens: 7,
      trainedTokens: 4,
    });
  });

  it("has every trained token of every example as a target, behind what stands before it", () => {
    fc.assert(
      fc.property(examples.filter(carryLoss), (all) => {
        const { ids, length, lengths, positions, targets, weights, trainedTokens } = makeBatch(all, SHAPE);
        expect([length % 4, positions.length % 8, ids.length]).toEqual([0, 0, all.length * length]);
        const found: [number[], number][] = [];
        for (let m = 0; m < trainedTokens; m++) {
          const row = Math.floor(positions[m] / length);
          expect(positions[m] - row * length).toBeLessThan(lengths[row]);
          found.push([[...ids.subarray(row * length, positions[m] + 1)], targets[m]]);
        }
        const wanted = all.flatMap((one) =>
          [...one.ids].flatMap((id, i) => (i > 0 && one.weights[i] > 0 ? [[[...one.ids.subarray(0, i)], id]] : [])),
        );
        expect(found).toEqual(wanted);
        expect(weights.reduce((sum, weight) => sum + weight, 0)).toBeCloseTo(1, 5);
        expect(weights.subarray(trainedTokens).every((weight) => weight === 0)).toBe(true);
      }),
    );
  });

  it("weighs its share when one step has several batches", () => {
    fc.assert(
      fc.property(examples.filter(carryLoss), examples.filter(carryLoss), (one, other) => {
        const totalWeight = weightOf([...one, ...other]);
        const parts = [one, other].map((part) => makeBatch(part, { ...SHAPE, totalWeight }));
        const sum = parts.reduce((all, { weights }) => all + weights.reduce((a, b) => a + b, 0), 0);
        expect(sum).toBeCloseTo(1, 5);
      }),
    );
  });

  it.each([
    [[], /no examples/],
    [[example([1, 2], [0, 0])], /No token of the batch carries loss/],
    [[example([1, 2], [1, 0])], /No token of the batch carries loss/], // Nothing predicts the first token.
    [[example([1], [0])], /at least 2 tokens/],
    [[example([1, 2], [0])], /2 tokens and 1 weights/],
    [[example(ones(18), ones(18))], /Example 0 has 17 tokens and a row holds 16/],
  ])("is refused for %j", (all: Example[], message) => {
    expect(() => makeBatch(all, SHAPE)).toThrow(message);
  });
});
