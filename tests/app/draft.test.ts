import { expect, it } from "vitest";
import { parseRecipe } from "../../src/protocol/recipe.ts";
import { advise, draftOf, recipeOf, setSkipped, setStage } from "../../src/app/draft.ts";
import { recipe } from "../storage/states.ts";

const draft = draftOf(recipe);
const skip = (...stages: number[]) =>
  advise(
    stages.reduce((left, stage) => setSkipped(left, stage, true), draft),
    false,
  );

it("leaves stages out of the run and keeps their settings for when they are taken back", () => {
  const without = setSkipped(setStage(draft, 2, { kind: "recover", steps: 99, batch: 4, learningRate: 1e-3 }), 2, true);
  expect(recipeOf(without).stages.map(({ kind }) => kind)).toEqual(["score", "prune"]);
  expect(recipeOf(setSkipped(without, 2, false)).stages[2]).toMatchObject({ kind: "recover", steps: 99 });
});

it("keeps one rank and alpha for all stages that tune by LoRA, so that the recipe can be run", () => {
  const training = { steps: 5, batch: 2, learningRate: 1e-3 };
  const tuned = draftOf({
    ...recipe,
    stages: [
      ...recipe.stages,
      { kind: "chains", ...training, rank: 16, alpha: 32, control: true },
      { kind: "sft", method: "lora", ...training, rank: 16, alpha: 32 },
    ],
  });
  const wider = setStage(tuned, 3, { kind: "chains", ...training, rank: 8, alpha: 24, control: true });
  expect(wider.recipe.stages[4]).toMatchObject({ rank: 8, alpha: 24 });
  const narrower = setStage(wider, 4, { kind: "sft", method: "lora", ...training, rank: 4, alpha: 24 });
  expect(narrower.recipe.stages[3]).toMatchObject({ rank: 4, alpha: 24 });
  const unfrozen = setStage(narrower, 4, { kind: "sft", method: "unfreeze", ...training });
  expect(unfrozen.recipe.stages[3]).toMatchObject({ rank: 4 });
  const back = setStage(unfrozen, 4, { kind: "sft", method: "lora", ...training, rank: 16, alpha: 32 });
  expect(back.recipe.stages.slice(3)).toMatchObject([
    { rank: 4, alpha: 24 },
    { rank: 4, alpha: 24 },
  ]);
  for (const draft of [wider, narrower, unfrozen, back]) expect(parseRecipe(recipeOf(draft))).toEqual(recipeOf(draft));
});

it("leaves a stage out once, however often it is said", () => {
  const twice = setSkipped(setSkipped(draft, 1, true), 1, true);
  expect(recipeOf(setSkipped(twice, 1, false)).stages).toHaveLength(3);
});

it("says what keeps a recipe from being run, and what only makes it odd", () => {
  expect(skip()).toBeNull();
  expect(skip(0)).toEqual({ advice: "pruneNeedsScore", canRun: false });
  expect(skip(1)).toEqual({ advice: "recoverWithoutPrune", canRun: true });
  expect(skip(0, 1)).toEqual({ advice: "recoverWithoutPrune", canRun: true });
  expect(skip(0, 1, 2)).toEqual({ advice: "nothingToDo", canRun: false });
});

it("leaves out what frozen weights rule out, for as long as they are frozen", () => {
  const training = { steps: 5, batch: 2, learningRate: 1e-3 };
  const whole = draftOf({
    ...recipe,
    stages: [
      ...recipe.stages,
      { kind: "chains", ...training, rank: 16, alpha: 32, control: true },
      { kind: "sft", method: "unfreeze", ...training },
    ],
  });
  const skipping = setSkipped(whole, 1, true);
  const kinds = (storage: "f32" | "int8" | undefined, from = skipping) =>
    recipeOf({ ...from, recipe: { ...from.recipe, storage } }).stages.map(({ kind }) => kind);
  expect(kinds("int8")).toEqual(["chains"]);
  expect(kinds("f32")).toEqual(["score", "recover", "chains", "sft"]);
  expect(kinds(undefined)).toEqual(["score", "recover", "chains", "sft"]);
  const byLora = setStage(skipping, 4, { kind: "sft", method: "lora", ...training, rank: 16, alpha: 32 });
  expect(kinds("int8", byLora)).toEqual(["chains", "sft"]);
  expect(advise({ ...draft, recipe: { ...draft.recipe, storage: "int8" } }, false)).toEqual({
    advice: "nothingToDo",
    canRun: false,
  });
  expect(advise(draft, true)).toEqual({ advice: "modelGone", canRun: false });
});
