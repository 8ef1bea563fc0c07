import * as fc from "fast-check";
import { describe, expect, it } from "vitest";
import { makeBatch, weightOf } from "../../src/data/batches.ts";
import { severalPerRow } from "../../src/data/layout.ts";
import type { Batch, Example } from "../../src/protocol/data.ts";

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

  it("of packed rows keeps the examples apart, and has the same targets with the same weights", () => {
    expect(
      makeBatch([example([5, 6, 7, 8], [0, 1, 1, 1]), example([5, 4, 1], [0, 0, 3]), example([9, 9], [0, 2])], {
        ...SHAPE,
        packing: true,
      }),
    ).toEqual({
      rows: 2,
      length: 4,
      ids: Int32Array.of(5, 6, 7, 0, 5, 4, 9, 0),
      lengths: Int32Array.of(3, 3),
      positions: Int32Array.of(0, 1, 2, 5, 6, 0, 0, 0),
      targets: Int32Array.of(6, 7, 8, 1, 9, 0, 0, 0),
      weights: Float32Array.of(0.125, 0.125, 0.125, 0.375, 0.25, 0, 0, 0),
      tokens: 6,
      trainedTokens: 5,
      packed: { positionIds: Int32Array.of(0, 1, 2, 0, 0, 1, 0, 0), starts: Int32Array.of(0, 0, 0, 3, 0, 0, 2, 3) },
    });
    fc.assert(
      fc.property(examples.filter(carryLoss), (all) => {
        const [batch, padded] = [makeBatch(all, { ...SHAPE, packing: true }), makeBatch(all, SHAPE)];
        const { rows, length, ids, positions, packed } = batch;
        const { positionIds, starts } = packed!;
        expect([length % 4, ids.length, positions.length]).toEqual([0, rows * length, padded.positions.length]);
        expect(length).toBeLessThanOrEqual(16);
        expect(rows * length).toBeLessThanOrEqual(padded.rows * padded.length);
        expect([batch.tokens, batch.targets, batch.weights]).toEqual([padded.tokens, padded.targets, padded.weights]);
        // What a predicting token sees is its own example up to there, at the positions that it has alone.
        const seen = ({ positions: own, trainedTokens }: Batch, from: (at: number) => number, of: Batch) =>
          [...own.subarray(0, trainedTokens)].map((at) => [...of.ids.subarray(from(at), at + 1)]);
        const beginOf = (at: number) => at - (at % length) + starts[at];
        expect(seen(batch, beginOf, batch)).toEqual(seen(padded, (at) => at - (at % padded.length), padded));
        starts.forEach((start, at) => {
          if (at % length > 0) expect(start).toBeGreaterThanOrEqual(starts[at - 1]);
          expect(positionIds[at]).toBe((at % length) - start);
        });
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

describe("sequences that share rows", () => {
  it("take as few tokens as can be found, in more rows where that costs nothing", () => {
    expect(severalPerRow([4, 4, 4, 4], 4, 16)).toEqual({
      rows: 4,
      length: 4,
      places: [0, 1, 2, 3].map((row) => ({ row, start: 0 })),
    });
    expect(severalPerRow([9, 3, 5, 2], 4, 16)).toMatchObject({ rows: 2, length: 12 });
    expect(severalPerRow([5, 5, 2], 4, 16)).toMatchObject({ rows: 1, length: 12 });
    expect(severalPerRow([5, 5, 2], 4, 8)).toMatchObject({ rows: 2, length: 8 });
  });
});
