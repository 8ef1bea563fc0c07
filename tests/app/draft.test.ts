import { expect, it } from "vitest";
import { advise, draftOf, recipeOf, setSkipped, setStage } from "../../src/app/draft.ts";
import { recipe } from "../storage/states.ts";

const draft = draftOf(recipe);
const skip = (...stages: number[]) => advise(stages.reduce((left, stage) => setSkipped(left, stage, true), draft));

it("leaves stages out of the run and keeps their settings for when they are taken back", () => {
  const without = setSkipped(setStage(draft, 2, { kind: "recover", steps: 99, batch: 4, learningRate: 1e-3 }), 2, true);
  expect(recipeOf(without).stages.map(({ kind }) => kind)).toEqual(["score", "prune"]);
  expect(recipeOf(setSkipped(without, 2, false)).stages[2]).toMatchObject({ kind: "recover", steps: 99 });
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
