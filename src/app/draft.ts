// The recipe as it is being edited: stages can be left out without losing their settings.

import type { Recipe, Stage } from "../protocol/recipe.ts";

export interface Draft {
  /** With all stages, those left out included. */
  recipe: Recipe;
  /** Indices of the stages that are left out. */
  skipped: number[];
}

export type Advice = "nothingToDo" | "pruneNeedsScore" | "recoverWithoutPrune";

export const draftOf = (recipe: Recipe): Draft => ({ recipe, skipped: [] });

/** The recipe that would be run. */
export function recipeOf({ recipe, skipped }: Draft): Recipe {
  return { ...recipe, stages: recipe.stages.filter((_, index) => !skipped.includes(index)) };
}

export function setStage(draft: Draft, index: number, stage: Stage): Draft {
  const stages = draft.recipe.stages.map((old, at) => (at === index ? stage : old));
  return { ...draft, recipe: { ...draft.recipe, stages } };
}

export function setSkipped(draft: Draft, index: number, skip: boolean): Draft {
  const others = draft.skipped.filter((at) => at !== index);
  return { ...draft, skipped: skip ? [...others, index] : others };
}

/** What keeps the recipe from being run, or makes it an odd one; null when all is well. */
export function advise(draft: Draft): { advice: Advice; canRun: boolean } | null {
  const kinds = recipeOf(draft).stages.map((stage) => stage.kind);
  if (kinds.length === 0) return { advice: "nothingToDo", canRun: false };
  const prune = kinds.indexOf("prune");
  if (prune >= 0 && !kinds.slice(0, prune).includes("score")) return { advice: "pruneNeedsScore", canRun: false };
  if (prune < 0 && kinds.includes("recover")) return { advice: "recoverWithoutPrune", canRun: true };
  return null;
}
