// What a run has shown so far: the fold of its events. Live events and those read back after a reload give the same view.

import type { AnswerMode } from "../protocol/data.ts";
import type { Recipe, Stage } from "../protocol/recipe.ts";
import type {
  Evaluation,
  EvaluationPoint,
  Plan,
  Report,
  Scores,
  StageResult,
  StageResultKind,
} from "../protocol/report.ts";
import type { RunEvent } from "../protocol/run.ts";

/** The loss of one stage that trains. */
export interface Curve {
  kind: StageResultKind;
  steps: number;
  /** [step, nats per trained token], steps ascending. */
  points: [number, number][];
}

/** What is going on at this moment. */
export type Progress =
  | { what: "preparing" }
  | { what: "training"; kind: StageResultKind; step: number; steps: number; loss: number; tokensPerSecond: number }
  | { what: "scoring"; done: number; total: number }
  | { what: "evaluating"; point: EvaluationPoint; mode: AnswerMode; done: number; total: number }
  | { what: "measuringLatency"; done: number; total: number }
  | { what: "exporting"; name: string };

export interface RunView {
  recipe: Recipe;
  /** Where the run is: 0 measures the base model, 1 to S are the recipe's stages, S + 1 measures and writes files. */
  position: number;
  progress: Progress;
  /** What the training under way takes of the device's memory. */
  memoryBytes: number | null;
  curves: Curve[];
  scores: Scores | null;
  plan: Plan | null;
  results: StageResult[];
  evaluations: Evaluation[];
  /** The newest checkpoint, in the recipe's stages counted from 0. */
  checkpoint: { stage: number; step: number } | null;
  report: Report | null;
}

export function newView(recipe: Recipe): RunView {
  return {
    recipe,
    position: 0,
    progress: { what: "preparing" },
    memoryBytes: null,
    curves: [],
    scores: null,
    plan: null,
    results: [],
    evaluations: [],
    checkpoint: null,
    report: null,
  };
}

/** The view after these events too. The view given stays as it was. */
export function follow(view: RunView, events: RunEvent[]): RunView {
  const next = { ...view, curves: [...view.curves] };
  const grown = new Set<number>(); // Curves whose points were copied already: once per call is enough.
  for (const event of events) {
    if (event.type === "step") addStep(next, event, grown);
    else take(next, event);
  }
  return next;
}

function take(view: RunView, event: Exclude<RunEvent, { type: "step" }>): void {
  switch (event.type) {
    case "stageStarted":
      view.position = event.stage + 1;
      view.progress = { what: "preparing" };
      if (event.steps > 0) openCurve(view, event.kind, event.steps);
      return;
    case "memoryPlanned":
      view.memoryBytes = event.bytes;
      return;
    case "scoring":
      view.progress = { what: "scoring", done: event.done, total: event.total };
      return;
    case "scored":
      view.scores = event.scores;
      return;
    case "pruned":
      view.plan = event.plan;
      return;
    case "stageEnded":
      view.results = [...view.results.filter(({ kind }) => kind !== event.result.kind), event.result];
      return;
    case "evaluating":
      view.progress = {
        what: "evaluating",
        point: event.point,
        mode: event.mode,
        done: event.done,
        total: event.total,
      };
      return;
    case "evaluated":
      view.evaluations = replaceEvaluation(view.evaluations, event.evaluation);
      return;
    case "measuringLatency":
      view.progress = { what: "measuringLatency", done: event.done, total: event.total };
      return;
    case "checkpointed":
      view.checkpoint = { stage: event.stage, step: event.step };
      return;
    case "exporting":
      view.position = view.recipe.stages.length + 1;
      view.progress = { what: "exporting", name: event.name };
      return;
    case "finished":
      takeReport(view, event.report);
      return;
    default:
      event satisfies never;
  }
}

/** A stage that is resumed goes on with the curve it had. */
function openCurve(view: RunView, kind: StageResultKind, steps: number): void {
  if (view.curves.some((curve) => curve.kind === kind)) return;
  view.curves.push({ kind, steps, points: [] });
}

function addStep(view: RunView, event: Extract<RunEvent, { type: "step" }>, grown: Set<number>): void {
  const { kind, step, steps, loss, tokensPerSecond } = event;
  openCurve(view, kind, steps);
  const index = view.curves.findIndex((curve) => curve.kind === kind);
  let curve = view.curves[index];
  if (!grown.has(index)) {
    curve = { ...curve, points: [...curve.points] };
    view.curves[index] = curve;
    grown.add(index);
  }
  while ((curve.points.at(-1)?.[0] ?? 0) >= step) curve.points.pop(); // Steps count from 1.
  curve.points.push([step, loss]);
  view.progress = { what: "training", kind, step, steps, loss, tokensPerSecond };
}

/** The report has the last word: it is complete even if some events were not kept. */
function takeReport(view: RunView, report: Report): void {
  view.report = report;
  view.position = view.recipe.stages.length + 2;
  view.scores = report.scores;
  view.plan = report.plan;
  view.results = report.stages;
  view.evaluations = report.evaluations;
  view.curves = curvesOf(report);
}

const curvesOf = (report: Report): Curve[] =>
  report.stages
    .filter((result) => result.curve.length > 0)
    .map(({ kind, steps, curve }) => ({ kind, steps, points: curve }));

function replaceEvaluation(evaluations: Evaluation[], evaluation: Evaluation): Evaluation[] {
  const others = evaluations.filter(({ point, mode }) => point !== evaluation.point || mode !== evaluation.mode);
  return [...others, evaluation];
}

/** Share of the work in hand that is done, 0 to 1; null when it cannot be told. */
export function shareDone(progress: Progress): number | null {
  switch (progress.what) {
    case "training":
      return progress.steps > 0 ? progress.step / progress.steps : null;
    case "scoring":
    case "evaluating":
    case "measuringLatency":
      return progress.total > 0 ? progress.done / progress.total : null;
    case "preparing":
    case "exporting":
      return null;
  }
}

/** The accuracy and so on of one model, asked both ways; absent ways are null. */
export interface EvaluationRow {
  point: EvaluationPoint;
  chain: Evaluation | null;
  direct: Evaluation | null;
}

const POINTS: EvaluationPoint[] = ["before", "pruned", "recovered", "chains", "directControl", "sft"];

/** One row per point that was evaluated, in the order of the work. */
export function evaluationRows(evaluations: Evaluation[]): EvaluationRow[] {
  const find = (point: EvaluationPoint, mode: AnswerMode) =>
    evaluations.find((evaluation) => evaluation.point === point && evaluation.mode === mode) ?? null;
  return POINTS.map((point) => ({ point, chain: find(point, "chain"), direct: find(point, "direct") })).filter(
    ({ chain, direct }) => chain || direct,
  );
}

/** Stages that train have steps. */
export const trains = (stage: Stage): stage is Extract<Stage, { steps: number }> => "steps" in stage;
