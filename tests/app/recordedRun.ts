// The events of a run of `recipe`, short but with one of every kind, in the order in which a run tells them.

import type { AnswerMode } from "../../src/protocol/data.ts";
import type { Evaluation, EvaluationPoint, Plan, Report, Scores, StageResult } from "../../src/protocol/report.ts";
import type { RunEvent } from "../../src/protocol/run.ts";
import { recipe, stateAt } from "../storage/states.ts";

export const scores: Scores = {
  method: "gateFisher",
  cases: 8,
  splitHalfCorrelation: 0.91,
  layers: [
    { heads: [4, 1, 2], channels: [3, 1], experts: [], expertChannels: [], attention: 7, ffn: 4, layer: 11 },
    {
      heads: [1, 5, 2],
      channels: [2, 2],
      experts: [8, 1],
      expertChannels: [
        [5, 3],
        [0, 1],
      ],
      attention: 8,
      ffn: 13,
      layer: 21,
    },
  ],
};

export const plan: Plan = {
  removedParameters: 400,
  removedShare: 0.4,
  layers: [
    { heads: [0, 2], channels: [0], experts: [], expertChannels: [] },
    { heads: [1], channels: [0, 1], experts: [0], expertChannels: [[0]] },
  ],
};

export function evaluation(point: EvaluationPoint, mode: AnswerMode, correct: number): Evaluation {
  return {
    point,
    mode,
    n: 9,
    correct,
    accuracy: correct / 9,
    macroF1: correct / 10,
    interval: [correct / 12, Math.min(1, correct / 7)],
    chainsRight: mode === "chain" ? correct / 9 : null,
    tokensPerReply: mode === "chain" ? 40 : 3,
    slices: [],
    loss: 2,
    seconds: 1,
  };
}

const curve: [number, number][] = Array.from({ length: 12 }, (_, index) => [index + 1, 5 / (index + 1)]);

const result = (kind: StageResult["kind"], steps: number): StageResult => ({
  kind,
  steps,
  seconds: 2,
  tokensPerSecond: 700,
  lossStart: steps > 0 ? 5 : null,
  lossEnd: steps > 0 ? 0.5 : null,
  curve: steps > 0 ? curve : [],
  trainableParameters: steps > 0 ? 600 : 0,
});

const evaluations = [
  evaluation("before", "direct", 2),
  evaluation("before", "chain", 1),
  evaluation("pruned", "direct", 1),
  evaluation("pruned", "chain", 0),
  evaluation("recovered", "direct", 3),
  evaluation("recovered", "chain", 6),
];

export const report: Report = {
  ...stateAt(2, 12).report,
  scores,
  plan,
  stages: [result("score", 0), result("prune", 0), result("recover", 12)],
  evaluations,
  seconds: 42,
};

const stages = recipe.stages.length;
const evaluated = (at: number): RunEvent[] => {
  const done = evaluations[at];
  return [
    { type: "evaluating", point: done.point, mode: done.mode, done: 3, total: 9 },
    { type: "evaluated", evaluation: done },
  ];
};

const step = ([number, loss]: [number, number]): RunEvent => ({
  type: "step",
  kind: "recover",
  step: number,
  steps: 12,
  loss,
  tokensPerSecond: 700,
});

/** All that the run tells, "finished" last. */
export const events: RunEvent[] = [
  ...evaluated(0),
  ...evaluated(1),
  { type: "stageStarted", stage: 0, stages, kind: "score", steps: 0 },
  { type: "scoring", done: 4, total: 8 },
  { type: "scored", scores },
  { type: "stageEnded", result: report.stages[0] },
  { type: "checkpointed", stage: 1, step: 0 },
  { type: "stageStarted", stage: 1, stages, kind: "prune", steps: 0 },
  { type: "measuringLatency", done: 1, total: 7 },
  { type: "pruned", plan },
  { type: "stageEnded", result: report.stages[1] },
  ...evaluated(2),
  ...evaluated(3),
  { type: "checkpointed", stage: 2, step: 0 },
  { type: "stageStarted", stage: 2, stages, kind: "recover", steps: 12 },
  ...curve.slice(0, 5).map(step),
  { type: "checkpointed", stage: 2, step: 5 },
  ...curve.slice(5).map(step),
  { type: "stageEnded", result: report.stages[2] },
  ...evaluated(4),
  ...evaluated(5),
  { type: "checkpointed", stage: 3, step: 0 },
  { type: "exporting", name: "model/config.json" },
  { type: "finished", report },
];

/** Where the run was at step 8 of its last stage, three steps after a checkpoint. */
export const atStep8 = events.slice(0, events.findIndex((event) => event.type === "step" && event.step === 8) + 1);
