// The recipes that come with Espalier.

import type { Recipe } from "../protocol/recipe.ts";

/** full: the whole lesson on a machine without a GPU in under 15 minutes. quick: the same stages in under 3. */
export type Budget = "full" | "quick";

export const builtinRecipes: Record<string, (budget: Budget) => Recipe> = { hospital };

/**
 * A teaching protocol on a sheet, a patient, a diagnosis: score, remove 40 % of the parameters, recover, learn chains of
 * thought (and, as the control, direct answers on the same cases), tune on both, measure.
 */
function hospital(budget: Budget): Recipe {
  const full = budget === "full";
  const adapter = { rank: 16, alpha: 32 };
  return {
    schemaVersion: 1,
    name: "hospital",
    model: "deepseek-nano",
    study: { kind: "hospital", seed: 1, train: full ? 8000 : 2000, validation: full ? 64 : 32, test: full ? 400 : 100 },
    stages: [
      { kind: "score", method: "gateFisher", cases: full ? 96 : 32 },
      { kind: "prune", removeParameters: 0.4 },
      { kind: "recover", steps: full ? 400 : 80, batch: 16, learningRate: 2e-3 },
      { kind: "chains", steps: full ? 400 : 60, batch: 16, learningRate: 5e-3, ...adapter, control: true },
      { kind: "sft", method: "lora", steps: full ? 100 : 20, batch: 16, learningRate: 2e-3, ...adapter },
    ],
    evaluation: { cases: full ? 400 : 100, maxNewTokens: 96, batch: 50 },
    checkpointEvery: 20,
    seed: 1,
  };
}
