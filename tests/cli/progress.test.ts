import { describe, expect, it } from "vitest";
import type { ProgressLine } from "../../src/cli/progress.ts";
import { progressLines, writeProgress } from "../../src/cli/progress.ts";
import type { RunEvent } from "../../src/protocol/run.ts";
import { exampleReport } from "../evaluation/exampleReport.ts";

describe("progressLines", () => {
  const { stages, evaluations, scores, plan } = exampleReport();
  if (!scores || !plan) throw new Error("The example should have scores and a plan.");
  const started: RunEvent = { type: "stageStarted", stage: 2, stages: 5, kind: "recover", steps: 80 };

  it.each<[RunEvent, ProgressLine | null]>([
    [
      { type: "scoring", done: 3, total: 64 },
      { text: "scored on 3 of 64 cases", stays: false },
    ],
    [
      { type: "scored", scores },
      { text: "halves of the cases agree: 0.87", stays: true },
    ],
    [
      { type: "pruned", plan },
      { text: "412,160 parameters cut (40.0 %)", stays: true },
    ],
    [
      { type: "stageEnded", result: stages[2] },
      { text: "done in 33 s, loss 3.200 → 1.900", stays: true },
    ],
    [
      { type: "evaluating", point: "sft", mode: "chain", done: 50, total: 300 },
      { text: "asking (sft, chain): 50 of 300", stays: false },
    ],
    [
      { type: "evaluated", evaluation: evaluations[0] },
      { text: "before, direct: 8.0 % right (2.5–13.5 %)", stays: true },
    ],
    [
      { type: "exporting", name: "model/config.json" },
      { text: "writing model/config.json", stays: false },
    ],
    [{ type: "checkpointed", stage: 2, step: 20 }, null],
  ])("of %j", (event, line) => expect(progressLines()(event)).toEqual(line));

  it("say where in the run a step is, and how long the stage will still take", () => {
    let nowMs = 0;
    const toLine = progressLines(() => nowMs);
    expect(toLine(started)).toEqual({ text: "[3/5 recover] started", stays: false });
    const step = (at: number): RunEvent => {
      return { type: "step", kind: "recover", step: at, steps: 80, loss: 2.5, tokensPerSecond: 6421 };
    };
    toLine(step(21)); // Resumed: the first step seen is not the first.
    nowMs = 10_000;
    expect(toLine(step(41))?.text).toBe("[3/5 recover] step 41/80, loss 2.500, 6,421 tokens/s, 20 s left");
  });
});

describe("writeProgress", () => {
  function written(isTTY: boolean, lines: ProgressLine[]): string {
    let text = "";
    const stream = { isTTY, columns: 40, write: (part: string) => (text += part) };
    const write = writeProgress(stream as unknown as NodeJS.WriteStream);
    lines.forEach(write);
    return text;
  }

  const lines = [
    { text: "step 1", stays: false },
    { text: "step 2".padEnd(60, "."), stays: false },
    { text: "done", stays: true },
  ];

  it("writes passing lines over each other on a terminal, none longer than it is wide", () => {
    const clear = "\r\u001b[2K";
    expect(written(true, lines)).toBe(`${clear}step 1${clear}${"step 2".padEnd(39, ".")}${clear}done\n`);
  });

  it("writes few passing lines, and no control characters, into a file", () => {
    expect(written(false, lines)).toBe("step 1\ndone\n");
  });
});
