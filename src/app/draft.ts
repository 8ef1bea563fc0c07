// The recipe as it is being edited: stages can be left out without losing their settings.

import { type Exports, exportsOf, isTuning, type Recipe, type Stage, takesFloatWeights } from "../protocol/recipe.ts";
import type { ExportLimits } from "../recipes/export/limits.ts";

export interface Draft {
  /** With all stages, those left out included. */
  recipe: Recipe;
  /** Indices of the stages that are left out. */
  skipped: number[];
}

export type Advice =
  | "modelGone"
  | "nothingToDo"
  | "pruneNeedsScore"
  | "recoverWithoutPrune"
  | "noGguf"
  | "noShape"
  | "handoverNeedsTuning"
  | "uniformIsRare"
  | "paddingMayFail"
  | "handoverHoldsData";

export interface Advised {
  advice: Advice;
  canRun: boolean;
  /** The reason, in English. */
  because?: string;
}

export const draftOf = (recipe: Recipe): Draft => ({ recipe, skipped: [] });

/** The recipe that would be run. */
export function recipeOf({ recipe, skipped }: Draft): Recipe {
  const stages = recipe.stages.filter((stage, index) => !skipped.includes(index) && !isBarred(recipe, stage));
  return { ...recipe, stages };
}

/** Weights that are stored small are frozen. */
export const isFrozen = ({ storage = "f32" }: Recipe): boolean => storage !== "f32";

/** Whether the stage would change weights that are frozen: it is left out for as long as they are. */
export const isBarred = (recipe: Recipe, stage: Stage): boolean => isFrozen(recipe) && takesFloatWeights(stage);

/** Stages that tune by LoRA go on with one adapter: rank and alpha are those of all of them. */
export function setStage(draft: Draft, index: number, stage: Stage): Draft {
  const { stages } = draft.recipe;
  const taken = hasAdapter(stages[index]) ? stage : withAdapterOf(stage, stages.find(hasAdapter));
  const changed = stages.map((old, at) => (at === index ? taken : withAdapterOf(old, taken)));
  return { ...draft, recipe: { ...draft.recipe, stages: changed } };
}

const hasAdapter = (stage: Stage): stage is Extract<Stage, { rank: number }> => "rank" in stage;

function withAdapterOf(stage: Stage, other: Stage | undefined): Stage {
  if (!other || !hasAdapter(other) || !hasAdapter(stage)) return stage;
  return { ...stage, rank: other.rank, alpha: other.alpha };
}

export function setSkipped(draft: Draft, index: number, skip: boolean): Draft {
  const others = draft.skipped.filter((at) => at !== index);
  return { ...draft, skipped: skip ? [...others, index] : others };
}

/** The recipe with exports of its own, all of them said. */
export function withExports(recipe: Recipe, change: Partial<Exports>): Recipe {
  const { handover, ...others } = { ...exportsOf(recipe), ...change };
  return { ...recipe, exports: handover ? { ...others, handover } : others };
}

/** What keeps the recipe from being run, or makes it an odd one; null when all is well. */
export function advise(draft: Draft, modelGone: boolean, limits: ExportLimits | null): Advised | null {
  if (modelGone) return { advice: "modelGone", canRun: false };
  const recipe = recipeOf(draft);
  const kinds = recipe.stages.map((stage) => stage.kind);
  if (kinds.length === 0) return { advice: "nothingToDo", canRun: false };
  const prune = kinds.indexOf("prune");
  if (prune >= 0 && !kinds.slice(0, prune).includes("score")) return { advice: "pruneNeedsScore", canRun: false };
  const refused = adviseAgainstExports(recipe, limits);
  if (refused) return refused;
  if (prune < 0 && kinds.includes("recover")) return { advice: "recoverWithoutPrune", canRun: true };
  return exportsOf(recipe).handover ? { advice: "handoverHoldsData", canRun: true } : null;
}

/** What of the exports cannot be had for sure, or perhaps. */
function adviseAgainstExports(recipe: Recipe, limits: ExportLimits | null): Advised | null {
  const { shape, gguf, handover } = exportsOf(recipe);
  if (handover && !recipe.stages.some(isTuning)) return { advice: "handoverNeedsTuning", canRun: false };
  const forOthers = gguf.length > 0 || handover !== undefined;
  const padded = shape === "padded" || (shape === "perLayer" && forOthers);
  const noShape = limits?.shapes[padded ? "padded" : shape];
  if (noShape) return { advice: "noShape", canRun: false, because: noShape };
  if (gguf.length > 0 && limits?.gguf) return { advice: "noGguf", canRun: false, because: limits.gguf };
  if (!recipe.stages.some(({ kind }) => kind === "prune")) return null;
  if (shape === "uniform") return { advice: "uniformIsRare", canRun: true };
  return padded && limits?.padsExperts === false ? { advice: "paddingMayFail", canRun: true } : null;
}
