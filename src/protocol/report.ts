// What a run found out, as plain JSON: printed by `npm run recipe -- NAME --json`, kept with the run, shown by the page.

import * as v from "valibot";
import { RecipeSchema } from "./recipe.ts";

const number = v.number();

/** Parameters by kind; they add up to the total. */
export const ModelSizeSchema = v.object({
  total: number,
  embedding: number,
  attention: number,
  denseFfn: number,
  sharedExperts: number,
  routedExperts: number,
  router: number,
  norms: number,
});

/** One layer's scores: mean squared gate gradient, or mean |gradient|, per unit; null where the layer has no such unit. */
export const LayerScoresSchema = v.object({
  heads: v.array(number),
  /** Dense FFN, or the shared expert. */
  channels: v.array(number),
  experts: v.array(number),
  /** One list per routed expert. */
  expertChannels: v.array(v.array(number)),
  attention: number,
  ffn: number,
  layer: number,
});

export const ScoresSchema = v.object({
  method: v.picklist(["gateFisher", "meanGradient"]),
  cases: number,
  layers: v.array(LayerScoresSchema),
  /** Rank correlation between the scores of the two halves of the cases: near 1, they can be trusted. */
  splitHalfCorrelation: number,
});

/** What to keep, by index, layer by layer. */
export const LayerPlanSchema = v.object({
  heads: v.array(number),
  channels: v.array(number),
  experts: v.array(number),
  /** For each kept expert, its kept channels. */
  expertChannels: v.array(v.array(number)),
});

export const PlanSchema = v.object({
  layers: v.array(LayerPlanSchema),
  removedParameters: number,
  /** Of the total before. */
  removedShare: number,
});

export const StageResultSchema = v.object({
  kind: v.picklist(["score", "prune", "recover", "chains", "directControl", "sft"]),
  steps: number,
  seconds: number,
  /** Tokens that passed through the model, padding not counted. */
  tokensPerSecond: number,
  /** Mean nats per trained token over the first and the last tenth of the steps. */
  lossStart: v.nullable(number),
  lossEnd: v.nullable(number),
  /** [step, loss], every step. */
  curve: v.array(v.tuple([number, number])),
  trainableParameters: number,
});

export const EvaluationPointSchema = v.picklist(["before", "pruned", "recovered", "chains", "directControl", "sft"]);

export const EvaluationSchema = v.object({
  point: EvaluationPointSchema,
  mode: v.picklist(["chain", "direct"]),
  n: number,
  correct: number,
  accuracy: number,
  macroF1: number,
  /** Wilson's 95 % interval of the accuracy. */
  interval: v.tuple([number, number]),
  /** Share of replies whose every step follows from the question; null for direct answers and unchecked studies. */
  chainsRight: v.nullable(number),
  /** Mean tokens of a reply. */
  tokensPerReply: number,
  slices: v.array(v.object({ name: v.string(), n: number, accuracy: number })),
  /** Mean nats per target token on the validation cases. */
  loss: number,
  seconds: number,
});

/** Medians of interleaved repetitions, with the spread between the quartiles. */
export const LatencySchema = v.object({
  /** Milliseconds to read a prompt batch. */
  prefillMs: number,
  prefillSpreadMs: number,
  /** Milliseconds for one more token of each row. */
  decodeMs: number,
  decodeSpreadMs: number,
  repeats: number,
});

export const ReportSchema = v.object({
  schemaVersion: v.literal(1),
  recipe: RecipeSchema,
  seed: number,
  environment: v.object({
    backend: v.picklist(["webgpu", "wasm", "cpu"]),
    device: v.string(),
    reason: v.string(),
    espalier: v.string(),
    tensorflowJs: v.string(),
    host: v.string(),
  }),
  model: v.object({ name: v.string(), before: ModelSizeSchema, after: ModelSizeSchema }),
  scores: v.nullable(ScoresSchema),
  plan: v.nullable(PlanSchema),
  stages: v.array(StageResultSchema),
  evaluations: v.array(EvaluationSchema),
  latency: v.nullable(v.object({ before: LatencySchema, after: LatencySchema })),
  files: v.array(v.object({ name: v.string(), sizeBytes: number, sha256: v.string() })),
  /** What is to be known of the files, a sentence each. */
  notes: v.optional(v.array(v.string())),
  seconds: number,
});

export type ModelSize = v.InferOutput<typeof ModelSizeSchema>;
export type LayerScores = v.InferOutput<typeof LayerScoresSchema>;
export type Scores = v.InferOutput<typeof ScoresSchema>;
export type LayerPlan = v.InferOutput<typeof LayerPlanSchema>;
export type Plan = v.InferOutput<typeof PlanSchema>;
export type StageResult = v.InferOutput<typeof StageResultSchema>;
export type StageResultKind = StageResult["kind"];
export type EvaluationPoint = v.InferOutput<typeof EvaluationPointSchema>;
export type Evaluation = v.InferOutput<typeof EvaluationSchema>;
export type Latency = v.InferOutput<typeof LatencySchema>;
export type Report = v.InferOutput<typeof ReportSchema>;
export type Environment = Report["environment"];
