import { describe, expect, it } from "vitest";
import { type Exports, parseRecipe } from "../../src/protocol/recipe.ts";
import type { ExportLimits } from "../../src/recipes/export/limits.ts";
import { advise, draftOf, recipeOf, setSkipped, setStage, withExports } from "../../src/app/draft.ts";
import { recipe } from "../storage/states.ts";

const draft = draftOf(recipe);
const skip = (...stages: number[]) =>
  advise(
    stages.reduce((left, stage) => setSkipped(left, stage, true), draft),
    false,
    null,
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
  expect(advise({ ...draft, recipe: { ...draft.recipe, storage: "int8" } }, false, null)).toEqual({
    advice: "nothingToDo",
    canRun: false,
  });
  expect(advise(draft, true, null)).toEqual({ advice: "modelGone", canRun: false });
});

describe("what is said of exports before the run", () => {
  const able: ExportLimits = {
    pruned: false,
    shapes: { perLayer: null, uniform: null, padded: null },
    gguf: null,
    ggufNotes: [],
    padsExperts: true,
  };
  const training = { steps: 5, batch: 2, learningRate: 1e-3 };
  const tuning = { kind: "chains", ...training, rank: 4, alpha: 8, control: false } as const;
  const tuned = { ...recipe, stages: [...recipe.stages, tuning] };
  const uncut = { ...recipe, stages: [tuning] };
  const handover: Exports["handover"] = { tools: ["trl"], thenStop: false };
  const said = (from: typeof recipe, exports: Partial<Exports>, limits: Partial<ExportLimits> = {}) =>
    advise(draftOf(withExports(from, exports)), false, { ...able, ...limits });

  it("is nothing where all can be had", () => {
    expect(said(tuned, { shape: "padded", dtype: "bf16", gguf: ["Q8_0"] })).toBeNull();
    expect(said(uncut, { shape: "uniform" })).toBeNull();
  });

  it("is why there can be no GGUF file, and only where one is asked for", () => {
    const no = { gguf: "no shared experts" };
    expect(said(tuned, { gguf: ["F16"] }, no)).toEqual({
      advice: "noGguf",
      canRun: false,
      because: "no shared experts",
    });
    expect(said(tuned, {}, no)).toBeNull();
  });

  it("is why a model that was pruned before cannot be had in a shape, also where others need it", () => {
    const no = { pruned: true, shapes: { ...able.shapes, padded: "it lost experts" } };
    const advice = { advice: "noShape", canRun: false, because: "it lost experts" };
    expect(said(tuned, { shape: "padded" }, no)).toEqual(advice);
    expect(said(tuned, { gguf: ["F16"] }, no)).toEqual(advice);
    expect(said(tuned, {}, no)).toBeNull();
  });

  it("is what may come to nothing once the model was pruned", () => {
    expect(said(tuned, { shape: "uniform" })).toEqual({ advice: "uniformIsRare", canRun: true });
    expect(said(tuned, { shape: "padded" }, { padsExperts: false })).toEqual({
      advice: "paddingMayFail",
      canRun: true,
    });
    expect(said(tuned, { gguf: ["F16"] }, { padsExperts: false })?.advice).toBe("paddingMayFail");
    expect(said(uncut, { gguf: ["F16"] }, { padsExperts: false })).toBeNull();
  });

  it("is that a hand-over holds the data, and that it needs a stage that tunes", () => {
    expect(said(tuned, { handover })).toEqual({ advice: "handoverHoldsData", canRun: true });
    expect(said(recipe, { handover })).toEqual({ advice: "handoverNeedsTuning", canRun: false });
    expect(said({ ...tuned, storage: "int8" }, { handover })?.advice).toBe("handoverHoldsData");
  });

  it("is of a recipe that can be read again, with the hand-over or without", () => {
    const handedOver = withExports(tuned, { handover });
    expect(parseRecipe(handedOver)).toEqual(handedOver);
    expect(withExports(handedOver, { handover: undefined }).exports).not.toHaveProperty("handover");
    expect(withExports(recipe, {}).exports).toMatchObject({ shape: "perLayer", gguf: [], adapter: true });
  });
});
