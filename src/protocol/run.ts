// A run as it goes: what it tells those who watch, and what a checkpoint holds.

import type { AnswerMode } from "./data.ts";
import type { Recipe } from "./recipe.ts";
import type { Evaluation, EvaluationPoint, Plan, Report, Scores, StageResult, StageResultKind } from "./report.ts";

export type RunEvent =
  /** `stage` counts the recipe's stages from 0; `steps` is 0 where progress is told in cases. */
  | { type: "stageStarted"; stage: number; stages: number; kind: StageResultKind; steps: number }
  /** What the stage under way takes of the device's memory, known before it begins. */
  | { type: "memoryPlanned"; bytes: number }
  | { type: "step"; kind: StageResultKind; step: number; steps: number; loss: number; tokensPerSecond: number }
  | { type: "scoring"; done: number; total: number }
  | { type: "scored"; scores: Scores }
  | { type: "pruned"; plan: Plan }
  | { type: "stageEnded"; result: StageResult }
  | { type: "evaluating"; point: EvaluationPoint; mode: AnswerMode; done: number; total: number }
  | { type: "evaluated"; evaluation: Evaluation }
  | { type: "measuringLatency"; done: number; total: number }
  | { type: "checkpointed"; stage: number; step: number }
  | { type: "exporting"; name: string }
  | { type: "finished"; report: Report };

/** Why a run came to an end. A stopped run can be resumed. */
export type RunEnd = { type: "finished"; report: Report } | { type: "stopped" };

/** Everything a run needs to go on where it was, as JSON; the tensors lie beside it. */
export interface RunState {
  schemaVersion: 1;
  recipe: Recipe;
  /** Stage under way, and the steps of it that are done. */
  stage: number;
  step: number;
  /** What is known so far; its files and total time are filled in at the end. */
  report: Report;
  /** Loss of each step done in the stage under way. */
  curve: [number, number][];
  /** Tokens seen and seconds spent in the stage under way. */
  tokens: number;
  seconds: number;
  /** Where the stage stands inside itself, e.g. the direct control after the chains. */
  part: "main" | "control";
  /** Config of the model as it is now, pruned or not, in Hugging Face's form. */
  config: Record<string, unknown>;
}

export interface Checkpoint {
  state: RunState;
  /** safetensors: the model's weights, adapters and the optimizer's moments, float32. */
  tensors: Uint8Array;
}
