import { describe, expect, it } from "vitest";
import { exactly, interleave, spreadOf } from "./measure.ts";
import { atLeast, between, bounded, compared, line, table, unmeasured } from "./results.ts";

const common = { row: "training", what: "a step", where: "wasm, Node", device: "software" } as const;
const stock = (median: number) => ({ name: "stock", spread: exactly(median) });

describe("spreadOf", () => {
  it("gives the median and the quartiles, between neighbours by straight line", () => {
    expect(spreadOf([4, 1, 3, 2])).toEqual({ median: 2.5, low: 1.75, high: 3.25, count: 4 });
    expect(spreadOf([7])).toEqual({ median: 7, low: 7, high: 7, count: 1 });
  });
});

describe("interleave", () => {
  it("runs the contestants in turn, for the least rounds however long they take", async () => {
    const ran: string[] = [];
    const run = (name: string) => async () => {
      ran.push(name);
      await new Promise((resolve) => setTimeout(resolve, 5));
    };
    const times = await interleave([run("a"), run("b")], { seconds: 0, leastRounds: 2, mostRounds: 9 });
    expect(ran.slice(0, 2)).toEqual(["a", "b"]);
    expect(times.map(({ length }) => length >= 2)).toEqual([true, true]);
  });
});

describe("a result", () => {
  it("is a ratio of times faster, whether less or more is better", () => {
    expect(compared(common, "ms", exactly(2), stock(10), 4)).toMatchObject({ ratio: 5, reached: true });
    expect(compared(common, "tokens/s", exactly(10), stock(2), 6)).toMatchObject({ ratio: 5, reached: false });
    expect(compared(common, "ms", exactly(2), stock(10), null)).toMatchObject({ target: null, reached: null });
  });

  it("is judged by its bound", () => {
    expect(bounded(common, "%", exactly(15), 15).reached).toBe(true);
    expect(bounded(common, "bytes", exactly(1), 0).reached).toBe(false);
    expect(atLeast(common, "tokens/s", exactly(9), 10).reached).toBe(false);
  });

  it("says so where nothing was measured, and counts neither as reached nor as missed", () => {
    const result = unmeasured(common, "at least 10 tokens/s", "no GPU");
    expect(line(result)).toBe("a step, wasm, Node: unmeasured [at least 10 tokens/s: unmeasured] - no GPU");
    expect(table([result])).toContain("| a step (no GPU) | wasm, Node | unmeasured |  |  | at least 10 tokens/s |  |");
  });
});

describe("between", () => {
  const file = "before\n<!-- npm run bench writes from here -->\nold\n<!-- to here -->\nafter\n";

  it("replaces what stands between the marks and nothing else", () => {
    const written = between(file, "new");
    expect(written).not.toContain("old");
    expect(written).toMatch(/^before\n<!--[^]*\n\nnew\n\n<!-- to here -->\nafter\n$/);
    expect(between(written, "new")).toBe(written);
  });

  it("refuses a file without them", () => {
    expect(() => between("by hand", "new")).toThrow("put them back");
  });
});
