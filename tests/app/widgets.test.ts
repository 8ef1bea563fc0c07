import { describe, expect, it } from "vitest";
import { mix } from "../../src/app/widgets/colors.ts";
import { grids, heat } from "../../src/app/widgets/grids.ts";
import { lossSeries, smoothed } from "../../src/app/widgets/lossSeries.ts";
import { plan, scores } from "./recordedRun.ts";

describe("the grids of scores", () => {
  it("have a row for each layer, empty where it has no such parts", () => {
    expect(grids(scores, null).map(({ kind, scores: rows }) => [kind, rows.map((row) => row.length)])).toEqual([
      ["heads", [3, 3]],
      ["experts", [0, 2]],
      ["channels", [2, 2]],
      ["expertChannels", [0, 4]],
    ]);
  });

  it("mark what the plan keeps; a cut expert takes its channels with it", () => {
    const kept = Object.fromEntries(grids(scores, plan).map((grid) => [grid.kind, grid.kept]));
    expect(kept).toEqual({
      heads: [
        [true, false, true],
        [false, true, false],
      ],
      experts: [[], [true, false]],
      channels: [
        [true, false],
        [true, true],
      ],
      expertChannels: [[], [true, false, false, false]],
    });
  });

  it("rise with the score, from 0 to 1, and four orders of magnitude at most", () => {
    const [row] = heat({ kind: "heads", scores: [[0, 1e-9, 0.001, 0.01, 0.1, 1, 10]], kept: null });
    expect(row[0]).toBe(0);
    expect(row[1]).toBe(0);
    expect(row.at(-1)).toBe(1);
    expect(row.slice(2)).toEqual(row.slice(2).toSorted((a, b) => a - b));
    expect(row[4]).toBeCloseTo(0.5);
  });

  it("are of one colour when all parts matter alike, or not at all", () => {
    expect(heat({ kind: "heads", scores: [[3, 3]], kept: null })).toEqual([[0, 0]]);
    expect(heat({ kind: "heads", scores: [[0, 0]], kept: null })).toEqual([[0, 0]]);
  });
});

describe("the loss over all stages", () => {
  const curves = [
    {
      kind: "recover" as const,
      steps: 4,
      points: [
        [1, 9],
        [2, 5],
        [3, 4],
        [4, 4],
      ] as [number, number][],
    },
    {
      kind: "chains" as const,
      steps: 10,
      points: [
        [1, 6],
        [2, 3],
      ] as [number, number][],
    },
    { kind: "sft" as const, steps: 2, points: [] },
  ];

  it("puts the stages in a row, each by its planned steps", () => {
    const { x, raw, starts } = lossSeries(curves);
    expect(x).toEqual([1, 2, 3, 4, 5, 6]);
    expect(starts).toEqual([0, 4, 14]);
    expect(raw).toEqual([
      [9, 5, 4, 4, null, null],
      [null, null, null, null, 6, 3],
      [null, null, null, null, null, null],
    ]);
  });

  it("smooths without moving a constant, and stays between the extremes", () => {
    expect(smoothed([2, 2, 2, 2]).every((value) => Math.abs(value - 2) < 1e-12)).toBe(true);
    const values = Array.from({ length: 300 }, (_, index) => 5 + Math.sin(index * 7.3));
    for (const value of smoothed(values)) expect(Math.abs(value - 5)).toBeLessThanOrEqual(1);
    const late = smoothed(values).slice(100);
    expect(Math.max(...late) - Math.min(...late)).toBeLessThan(1);
  });
});

it("mixes colours channel by channel", () => {
  expect(mix("#000000", "#ff8040", 0)).toBe("#000000");
  expect(mix("#000000", "#ff8040", 1)).toBe("#ff8040");
  expect(mix("#000000", "#ff8040", 0.5)).toBe("#804020");
});
