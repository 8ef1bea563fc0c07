import * as fc from "fast-check";
import { describe, expect, it } from "vitest";
import type { RunEvent } from "../../src/protocol/run.ts";
import { evaluationRows, follow, newView, type RunView, shareDone } from "../../src/app/view.ts";
import { recipe } from "../storage/states.ts";
import { atStep8, evaluation, events, report } from "./recordedRun.ts";

const viewOf = (told: RunEvent[]): RunView => follow(newView(recipe), told);

describe("the view of a run", () => {
  it("is the same however the events are bundled", () => {
    const whole = viewOf(events.slice(0, -1));
    const cuts = fc.uniqueArray(fc.nat(events.length - 1), { maxLength: 12 });
    fc.assert(
      fc.property(cuts, (unsorted) => {
        const edges = [0, ...unsorted.toSorted((a, b) => a - b), events.length - 1];
        let view = newView(recipe);
        edges.slice(1).forEach((to, index) => {
          view = follow(view, events.slice(edges[index], to));
        });
        expect(view).toEqual(whole);
      }),
      { seed: 3 },
    );
  });

  it("leaves the view it goes on from as it was", () => {
    const before = viewOf(atStep8);
    const copy = structuredClone(before);
    follow(before, events.slice(atStep8.length));
    expect(before).toEqual(copy);
  });

  it("knows at every moment what is going on", () => {
    const progress = viewOf(atStep8).progress;
    expect(progress).toMatchObject({ what: "training", kind: "recover", step: 8, steps: 12 });
    expect(shareDone(progress)).toBeCloseTo(8 / 12);
    expect(viewOf(events.slice(0, 1)).progress).toMatchObject({ what: "evaluating", point: "before", done: 3 });
  });

  it("goes through the recipe from the base's measurement to the files", () => {
    const positions = events.map((_, index) => viewOf(events.slice(0, index + 1)).position);
    expect(positions).toEqual(positions.toSorted((a, b) => a - b));
    expect(positions[0]).toBe(0);
    expect(positions.at(-1)).toBe(recipe.stages.length + 2);
  });

  it("replaces the steps that are done again after a checkpoint", () => {
    const resumed = follow(viewOf(atStep8), [
      { type: "stageStarted", stage: 2, stages: 3, kind: "recover", steps: 12 },
      { type: "step", kind: "recover", step: 6, steps: 12, loss: 0.25, tokensPerSecond: 700 },
    ]);
    const [curve] = resumed.curves;
    expect(resumed.curves).toHaveLength(1);
    expect(curve.points.map(([step]) => step)).toEqual([1, 2, 3, 4, 5, 6]);
    expect(curve.points.at(-1)).toEqual([6, 0.25]);
  });

  it("replaces an evaluation that is done again", () => {
    const again = evaluation("before", "chain", 7);
    const view = follow(viewOf(events), [{ type: "evaluated", evaluation: again }]);
    expect(view.evaluations).toHaveLength(report.evaluations.length);
    expect(view.evaluations).toContain(again);
  });

  it("shows of the report alone what it shows of all events", () => {
    const fromReport = viewOf([{ type: "finished", report }]);
    const fromEvents = viewOf(events);
    for (const part of ["curves", "scores", "plan", "results", "evaluations", "position"] as const) {
      expect(fromReport[part]).toEqual(fromEvents[part]);
    }
  });
});

it("puts evaluations in the order of the work, both ways side by side", () => {
  const rows = evaluationRows(report.evaluations.toReversed());
  expect(rows.map(({ point }) => point)).toEqual(["before", "pruned", "recovered"]);
  expect(rows[2]).toMatchObject({ chain: { correct: 6 }, direct: { correct: 3 } });
  const [control] = evaluationRows([evaluation("directControl", "direct", 4)]);
  expect(control.chain).toBeNull();
});
