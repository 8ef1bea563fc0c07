// How a checkpoint that a person brings can be kept, and which way suits this device best.

import type { Recipe } from "../protocol/recipe.ts";
import type { StoragePlan } from "../recipes/planStorage.ts";
import type { ModelRecord } from "../storage/database.ts";
import { isLocalModel } from "../storage/models.ts";

export type Storage = ModelRecord["storage"];

/** As they are called everywhere. */
export const storageNames: Record<Storage, string> = { f32: "float32", f16: "float16", int8: "int8", int4: "int4" };

/** Up to here a model is kept in float32, which can be pruned too. */
const SMALL_BYTES = 100e6;
/** What an ordinary device has for all, where nobody tells what this one has. */
const ORDINARY_BYTES = 4e9;

/** The least lossy form that fits, for small models float32; null where none fits. */
export function recommend(plans: StoragePlan[]): Storage | null {
  const fitting = plans.filter(({ fits }) => fits);
  const likely = fitting.filter(({ budgetBytes, tuningBytes }) => tuningBytes <= (budgetBytes ?? ORDINARY_BYTES));
  const small = likely.find(({ storage, weightBytes }) => storage === "f32" && weightBytes <= SMALL_BYTES);
  const best = small ?? likely.find(({ storage }) => storage !== "f32") ?? fitting.at(-1);
  return best?.storage ?? null;
}

export const isWhole = ({ doneBytes, sizeBytes }: ModelRecord): boolean => doneBytes === sizeBytes;

export const shareKept = ({ doneBytes, sizeBytes }: ModelRecord): number => doneBytes / sizeBytes;

/** Imports of these files that were begun and not ended. */
export function unfinishedOf(files: File[], models: ModelRecord[]): ModelRecord[] {
  const isThere = ({ name, sizeBytes }: ModelRecord["sources"][number]) =>
    files.some((file) => file.name === name && file.size === sizeBytes);
  return models.filter((model) => !isWhole(model) && model.sources.every(isThere));
}

/** What a recipe says of a model that is chosen: float32 goes without saying. */
export function choiceOf(model: string, models: ModelRecord[]): Pick<Recipe, "model" | "storage"> {
  const storage = models.find(({ id }) => id === model)?.storage;
  return { model, storage: storage === "f32" ? undefined : storage };
}

/** As the person called a model that they brought; others are called as they are. Null for one that is no longer here. */
export function nameOfModel(model: string, models: ModelRecord[]): string | null {
  return isLocalModel(model) ? (models.find(({ id }) => id === model)?.name ?? null) : model;
}

/** Whether the recipe's model was brought by the person and is not here, or not whole. */
export function isModelGone({ model }: Recipe, models: ModelRecord[]): boolean {
  return isLocalModel(model) && !models.some((one) => one.id === model && isWhole(one));
}
