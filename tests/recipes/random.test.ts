import { describe, expect, it } from "vitest";
import { pickWeighted, randomStream } from "../../src/recipes/random.ts";

describe("randomStream", () => {
  it("repeats itself for the same keys and differs when any key does", () => {
    expect(draw("a", 1, 2)).toEqual(draw("a", 1, 2));
    const others = [draw("b", 1, 2), draw("a", 2, 2), draw("a", 1, 3), draw("a", 2, 1), draw("a", 1)];
    for (const other of others) {
      expect(other[0]).not.toBe(draw("a", 1, 2)[0]);
    }
  });

  it("spreads evenly over neighbouring streams", () => {
    const counts = Array.from({ length: 10 }, () => 0);
    for (let index = 0; index < 20_000; index++) {
      counts[randomStream("case", 7, index).integer(10)]++;
    }
    // 2,000 each; the standard deviation is 42.
    expect(Math.min(...counts)).toBeGreaterThan(1800);
    expect(Math.max(...counts)).toBeLessThan(2200);
  });

  it("shuffles without losing an item or touching the list", () => {
    const list = ["a", "b", "c", "d", "e"];
    const orders = new Set(Array.from({ length: 500 }, (_, index) => randomStream(index).shuffle(list).join("")));
    expect(list.join("")).toBe("abcde");
    expect([...orders].every((order) => order.split("").toSorted().join("") === "abcde")).toBe(true);
    expect(orders.size).toBeGreaterThan(110); // Of 120.
  });

  it("picks by weight", () => {
    const random = randomStream("weights");
    const entries = [
      { name: "never", weight: 0 },
      { name: "often", weight: 3 },
      { name: "seldom", weight: 1 },
    ];
    const names = Array.from({ length: 4000 }, () => pickWeighted(random, entries).name);
    expect(names).not.toContain("never");
    expect(names.filter((name) => name === "often").length / names.length).toBeCloseTo(0.75, 1);
  });
});

function draw(...keys: (number | string)[]): number[] {
  const random = randomStream(...keys);
  return Array.from({ length: 8 }, () => random.next());
}
