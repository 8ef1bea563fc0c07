// A recipe: a whole run (model, data, stages, seed) as one plain JSON object. The page edits it, the command line runs it,
// a report quotes it.

import * as v from "valibot";

const count = (least: number, most: number) => v.pipe(v.number(), v.integer(), v.minValue(least), v.maxValue(most));
const share = v.pipe(v.number(), v.minValue(0), v.maxValue(1));
const rate = v.pipe(v.number(), v.gtValue(0), v.maxValue(1));

/** The built-in case study, generated from its seed, or cases that the person imported. */
export const StudySchema = v.variant("kind", [
  v.object({
    kind: v.literal("hospital"),
    seed: count(0, 2 ** 31 - 1),
    train: count(1, 100_000),
    validation: count(1, 10_000),
    test: count(1, 10_000),
  }),
  v.object({
    kind: v.literal("imported"),
    datasetId: v.string(),
    /** Shares of the rows that are held out. */
    validation: share,
    test: share,
  }),
]);

/** What every stage that trains has. */
const training = {
  steps: count(1, 1_000_000),
  /** Cases per step. */
  batch: count(1, 1024),
  /** The peak; linear warm-up over a tenth of the steps, then a cosine down to a tenth of it. */
  learningRate: rate,
  /** How many cases are computed at a time: fewer take less memory, and the step stays the same. All, if not given. */
  atATime: v.optional(count(1, 1024)),
  /** Compute layers again on the way back instead of remembering them: less memory, a third more work. */
  recompute: v.optional(v.boolean()),
  /** Put several cases into one row: less padding to compute, and the step stays the same. */
  packing: v.optional(v.boolean()),
  /** Weight of the loss of multi-token prediction, for models that have layers for it (DeepSeek-V3: 0.3, later 0.1). */
  mtpWeight: v.optional(v.pipe(v.number(), v.minValue(0), v.maxValue(10))),
};

const lora = {
  rank: count(1, 256),
  /** The adapter's output is scaled by alpha / rank. */
  alpha: v.pipe(v.number(), v.gtValue(0)),
};

/** Score every head, channel, expert and layer by the loss's gradient on `cases` training cases. */
export const ScoreStageSchema = v.object({
  kind: v.literal("score"),
  method: v.picklist(["gateFisher", "meanGradient"]),
  cases: count(1, 10_000),
});

/** Remove the least important units until this share of all parameters is gone. */
export const PruneStageSchema = v.object({
  kind: v.literal("prune"),
  removeParameters: v.pipe(v.number(), v.minValue(0), v.maxValue(0.95)),
});

/** Train all that is left, so that the model gets over the cut. */
export const RecoverStageSchema = v.object({ kind: v.literal("recover"), ...training });

/** Tune by LoRA on chains of thought; with `control` also, apart, on the direct answers of the same cases. */
export const ChainsStageSchema = v.object({ kind: v.literal("chains"), ...training, ...lora, control: v.boolean() });

/** Tune on supervised pairs, half with chains and half direct: by LoRA, or unfreezing layers from the last one down. */
export const SftStageSchema = v.variant("method", [
  v.object({ kind: v.literal("sft"), method: v.literal("lora"), ...training, ...lora }),
  v.object({ kind: v.literal("sft"), method: v.literal("unfreeze"), ...training }),
]);

export const StageSchema = v.union([
  ScoreStageSchema,
  PruneStageSchema,
  RecoverStageSchema,
  ChainsStageSchema,
  SftStageSchema,
]);

/** What the run leaves for the person to take away, beside the report. */
export const ExportsSchema = v.object({
  /** What the weights of checkpoints are written as; f32, if not given: to the last bit what was examined. */
  dtype: v.optional(v.picklist(["f32", "f16", "bf16"])),
  /**
   * What a pruned model is written like. perLayer (if not given): layers keep sizes of their own, which only Espalier loads.
   * uniform: as every other model, where pruning left all layers alike. padded: with zeros for what was removed.
   */
  shape: v.optional(v.picklist(["perLayer", "uniform", "padded"])),
  /** Most bytes of weights in a file; 5 GB, if not given. */
  mostShardBytes: v.optional(count(1_000_000, 1_000_000_000_000)),
  /** Adapters by themselves, with the base that they fit where the run changed it; true, if not given. */
  adapter: v.optional(v.boolean()),
  /** GGUF files to write, by the type of their matrices; none, if not given. */
  gguf: v.optional(v.array(v.picklist(["F32", "F16", "Q8_0", "Q4_0"]))),
  /**
   * A folder with which another tool goes on: the model as tuning would begin with it, run files, and the training data,
   * which leave with it. Only where it is asked for.
   */
  handover: v.optional(
    v.object({
      tools: v.pipe(v.array(v.picklist(["llamaFactory", "axolotl", "trl"])), v.minLength(1)),
      /** Whether the run ends there, and the tuning is left to the tools. */
      thenStop: v.boolean(),
    }),
  ),
});

/** Each stage builds on what the ones before it left. */
const ORDER = ["score", "prune", "recover", "chains", "sft"];

export const RecipeSchema = v.object({
  schemaVersion: v.literal(1),
  name: v.pipe(v.string(), v.minLength(1), v.maxLength(100)),
  /** Folder under public/models; on the command line any folder beside it; "local-…" is one that the person brought to the page. */
  model: v.pipe(v.string(), v.regex(/^[\w.-]+$/)),
  /** How its matrices are stored; float32, if not given. What is stored small is frozen: adapters can be trained on it. */
  storage: v.optional(v.picklist(["f32", "f16", "int8", "int4"])),
  study: StudySchema,
  stages: v.pipe(
    v.array(StageSchema),
    v.minLength(1),
    v.check(
      (stages) => stages.every(({ kind }, i) => i === 0 || ORDER.indexOf(stages[i - 1].kind) < ORDER.indexOf(kind)),
      `stages come in the order ${ORDER.join(", ")}, each at most once`,
    ),
    v.check(
      (stages) => stages.every(({ kind }) => kind !== "prune") || stages.some(({ kind }) => kind === "score"),
      "a prune stage needs a score stage before it",
    ),
    v.check(
      (stages) =>
        !stages.some(({ kind }) => kind === "prune") ||
        !stages.some((stage) => "mtpWeight" in stage && (stage.mtpWeight ?? 0) > 0),
      "pruning removes the layers of multi-token prediction: with a prune stage no other can have mtpWeight",
    ),
    v.check((stages) => {
      const chains = stages.find((stage) => stage.kind === "chains");
      const sft = stages.find((stage) => stage.kind === "sft" && stage.method === "lora");
      return !chains || !sft || !("rank" in sft) || (sft.rank === chains.rank && sft.alpha === chains.alpha);
    }, "sft by LoRA goes on with the adapter of the chains: rank and alpha must be the same"),
  ),
  evaluation: v.object({
    /** Test cases asked at each point (the first so many). */
    cases: count(1, 10_000),
    /** Longest reply, in tokens. */
    maxNewTokens: count(1, 4096),
    /** Questions answered side by side. */
    batch: count(1, 512),
  }),
  /** Training steps between checkpoints. */
  checkpointEvery: count(1, 100_000),
  seed: count(0, 2 ** 31 - 1),
  exports: v.optional(ExportsSchema),
});

/** Whether a stage changes the weights, or takes their gradients: they must then be float32. */
export function takesFloatWeights(stage: Stage): boolean {
  return stage.kind !== "chains" && !(stage.kind === "sft" && stage.method === "lora");
}

export type Study = v.InferOutput<typeof StudySchema>;
export type ScoreStage = v.InferOutput<typeof ScoreStageSchema>;
export type PruneStage = v.InferOutput<typeof PruneStageSchema>;
export type RecoverStage = v.InferOutput<typeof RecoverStageSchema>;
export type ChainsStage = v.InferOutput<typeof ChainsStageSchema>;
export type SftStage = v.InferOutput<typeof SftStageSchema>;
export type Stage = v.InferOutput<typeof StageSchema>;
export type Recipe = v.InferOutput<typeof RecipeSchema>;
export type Exports = Required<Omit<v.InferOutput<typeof ExportsSchema>, "handover">> &
  Pick<v.InferOutput<typeof ExportsSchema>, "handover">;
export type Shape = Exports["shape"];
export type Handover = NonNullable<Exports["handover"]>;
export type Tool = Handover["tools"][number];

/** What a recipe exports, with what is done where it does not say. */
export function exportsOf({ exports = {} }: Recipe): Exports {
  return { dtype: "f32", shape: "perLayer", mostShardBytes: 5e9, adapter: true, gguf: [], ...exports };
}

/** Whether two recipes come to the same model, whatever of it is then exported. */
export function isSameWork(a: Recipe, b: Recipe): boolean {
  const work = (recipe: Recipe) => JSON.stringify({ ...recipe, exports: undefined });
  return work(a) === work(b);
}

/** Whether a stage tunes a model that is otherwise ready. */
export function isTuning(stage: Stage): stage is ChainsStage | SftStage {
  return stage.kind === "chains" || stage.kind === "sft";
}

/** Read a recipe from JSON. Throws one sentence that says where it is wrong. */
export function parseRecipe(json: unknown): Recipe {
  const result = v.safeParse(RecipeSchema, json);
  if (result.success) return checkedHandover(result.output);
  const [issue] = result.issues;
  const where = v.getDotPath(issue) ?? "the recipe";
  throw new Error(`The recipe is not usable: ${where}: ${issue.message}. Correct that field and run it again.`);
}

/** Throws where another tool would have nothing to go on with. */
function checkedHandover(recipe: Recipe): Recipe {
  if (!recipe.exports?.handover || recipe.stages.some(isTuning)) return recipe;
  throw new Error(
    "The recipe is not usable: exports.handover: the settings of its run files come from a stage chains or sft, and there is none. Add one and run it again.",
  );
}
