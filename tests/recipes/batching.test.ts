import { describe, expect, it } from "vitest";
import type { Batch, Case } from "../../src/protocol/data.ts";
import { batcher } from "../../src/recipes/batching.ts";
import { shippedTokenizer } from "../data/shipped.ts";

const tokenizer = shippedTokenizer();

const CASES = Array.from({ length: 9 }, (_, i): Case => {
  const chain = "The ward is full.\n".repeat(1 + 7 * (i % 4));
  return { id: `${i}`, language: "en", question: `Case ${i}?`, chain, answer: `Answer ${i}`, slices: [] };
});

const batches = (atATime: number, packing: boolean, step: number): Batch[] =>
  batcher(tokenizer, CASES, () => "chain", { size: 5, atATime, packing }, 512, 3)(step);

/** Which tokens are trained and how much each weighs, whatever row they are in. */
function trained(parts: Batch[]): string[] {
  const all = parts.flatMap(({ targets, weights, trainedTokens }) =>
    [...targets.subarray(0, trainedTokens)].map((target, m) => `${target} ${weights[m]}`),
  );
  return all.toSorted();
}

describe("the cases of a step", () => {
  it.each([5, 3, 2, 1])("packed, %i at a time, are those of padded rows with the same weights", (atATime) => {
    for (const step of [0, 1, 4]) {
      const [packed, padded] = [batches(atATime, true, step), batches(atATime, false, step)];
      expect(trained(packed)).toEqual(trained(padded));
      expect(packed.length).toBe(padded.length);
      for (const batch of packed)
        expect(batch.packed!.positionIds.filter((id) => id === 1).length).toBeLessThanOrEqual(atATime);
      expect(batches(atATime, true, step)).toEqual(packed); // Of the step alone, whatever came before.
    }
  });

  it("packed are in parts of like size", () => {
    const sizes = batches(2, true, 0).map(({ tokens }) => tokens);
    const asTheyCome = batches(2, false, 0).map(({ tokens }) => tokens);
    expect(Math.max(...sizes)).toBeLessThan(Math.max(...asTheyCome));
  });
});
