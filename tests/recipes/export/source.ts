// A run that has come to its exports: a tiny model with adapters, the files it came in, a study, a report.

import { readConfig } from "../../../src/formats/hfConfig.ts";
import { sourceOf } from "../../../src/formats/bytes.ts";
import { type OpenCheckpoint, openCheckpoint } from "../../../src/formats/checkpoint.ts";
import { keepAll } from "../../../src/loar/budget.ts";
import { prune } from "../../../src/loar/prune.ts";
import { disposeModel, loadModelFrom, modelSize } from "../../../src/models/weights.ts";
import { parseRecipe, type Recipe } from "../../../src/protocol/recipe.ts";
import type { LayerPlan, Report } from "../../../src/protocol/report.ts";
import type { ExportSource } from "../../../src/recipes/exports.ts";
import type { ModelFiles } from "../../../src/recipes/host.ts";
import { hospitalStudy } from "../../../src/recipes/hospital/generate.ts";
import { openParts } from "../../../src/recipes/openParts.ts";
import { exampleReport } from "../../evaluation/exampleReport.ts";
import { attachRandomLora } from "../../models/tiny.ts";
import { MemoryHost } from "../host.ts";

export const QWEN2 = {
  model_type: "qwen2",
  architectures: ["Qwen2ForCausalLM"],
  hidden_size: 24,
  num_attention_heads: 6,
  num_key_value_heads: 3,
  head_dim: 4,
  intermediate_size: 40,
  bos_token_id: 0,
};

const training = { steps: 10, batch: 12, learningRate: 2e-3 };
const adapter = { rank: 2, alpha: 4 };

export function recipeWith(exports: Recipe["exports"]): Recipe {
  return parseRecipe({
    schemaVersion: 1,
    name: "tiny one",
    model: "tiny",
    study: { kind: "hospital", seed: 3, train: 6, validation: 2, test: 2 },
    stages: [
      { kind: "chains", ...training, ...adapter, control: false },
      { kind: "sft", method: "lora", ...training, ...adapter },
    ],
    evaluation: { cases: 2, maxNewTokens: 2, batch: 2 },
    checkpointEvery: 2,
    seed: 1,
    ...(exports ? { exports } : {}),
  });
}

export interface SourceOptions {
  exports?: Recipe["exports"];
  /** What pruning changes in the plan that keeps all. */
  cut?: (layers: LayerPlan[]) => void;
  host?: MemoryHost;
}

/** The caller disposes of the model. */
export function sourceFor(files: ModelFiles, { exports, cut, host = new MemoryHost(files) }: SourceOptions = {}) {
  const { tokenizer } = openParts(files);
  const recipe = recipeWith(exports);
  const whole = loadModelFrom(readConfig(files.config), files.weights);
  const layers = whole.layers.map((layer) => keepAll(layer, whole));
  cut?.(layers);
  const plan = { layers, removedParameters: 10, removedShare: 0.1 };
  const model = cut ? prune(whole, plan) : whole;
  const sizes = { before: modelSize(whole), after: modelSize(model) };
  if (cut) disposeModel(whole);
  attachRandomLora(model);
  const report: Report = {
    ...exampleReport(),
    recipe,
    model: { name: "tiny", ...sizes },
    scores: null,
    plan: cut ? plan : null,
    stages: exampleReport().stages.filter(({ kind }) => cut || kind !== "recover"),
    files: [],
  };
  const { study } = recipe;
  if (study.kind !== "hospital") throw new Error("the recipe's study is generated");
  return { model, files, tokenizer, study: hospitalStudy(study), report, host } satisfies ExportSource & {
    host: MemoryHost;
  };
}

/** A folder of what the host has, opened as a person would. */
export function opened(host: MemoryHost, folder: string): OpenCheckpoint {
  const inside = [...host.files].filter(
    ([name]) => name.startsWith(`${folder}/`) && name.lastIndexOf("/") === folder.length,
  );
  return openCheckpoint(inside.map(([name, bytes]) => sourceOf(bytes, name.slice(folder.length + 1))));
}

export const textOf = (host: MemoryHost, name: string): string => new TextDecoder().decode(host.files.get(name));
export const jsonOf = (host: MemoryHost, name: string) => JSON.parse(textOf(host, name));
