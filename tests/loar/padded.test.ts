import { describe, expect, it } from "vitest";
import { readConfig, type ModelConfig, writeConfig } from "../../src/formats/hfConfig.ts";
import { encodeFloat32 } from "../../src/formats/numbers.ts";
import { packSafetensors } from "../../src/formats/safetensors.ts";
import { keepAll } from "../../src/loar/budget.ts";
import { padAdapter, paddedConfig, padTensors } from "../../src/loar/padded.ts";
import { prune } from "../../src/loar/prune.ts";
import { uniformConfig } from "../../src/loar/uniform.ts";
import type { Model } from "../../src/models/decoder.ts";
import { type CheckpointTensor, checkpointTensors, disposeModel, loadModel } from "../../src/models/weights.ts";
import type { LayerPlan } from "../../src/protocol/report.ts";
import { adapterOf, attachAdapter, mergeLora } from "../../src/training/lora.ts";
import { mergedTensors } from "../../src/training/merged.ts";
import { useBackend } from "../engine/harness.ts";
import {
  attachRandomLora,
  changedNames,
  contents,
  expectNear,
  expectNoLeak,
  type Family,
  logitsOf,
  tinyIds,
  tinyModel,
} from "../models/tiny.ts";

/** Loads what would be written, through config.json. */
async function loaded(config: ModelConfig, tensors: CheckpointTensor[]): Promise<Model> {
  const written = [];
  for (const { name, shape, values } of tensors) {
    const data = await values();
    expect(data.length, name).toBe(shape.reduce((product, size) => product * size, 1));
    written.push({ name, shape, dtype: "F32" as const, data: encodeFloat32(data, "F32") });
  }
  return loadModel(readConfig(JSON.parse(JSON.stringify(writeConfig(config)))), packSafetensors(written));
}

function cut(model: Model, change: (layers: LayerPlan[]) => void): Model {
  const layers = model.layers.map((layer) => keepAll(layer, model));
  change(layers);
  return prune(model, { layers, removedParameters: 0, removedShare: 0 });
}

const CUTS: [what: string, family: Family, changes: Record<string, unknown>, (layers: LayerPlan[]) => void][] = [
  ["latent heads", "deepseek", {}, ([a, , c]) => void ([a.heads, c.heads] = [[0, 2], [1]])],
  [
    "latent heads, queries in one step",
    "deepseek",
    { q_lora_rank: null },
    ([a, b]) => void ([a.heads, b.heads] = [[1], [2, 0]]),
  ],
  ["key-value groups with their queries", "qwen2", {}, ([a, , c]) => void ([a.heads, c.heads] = [[0, 2], [1]])],
  [
    "dense channels",
    "qwen2",
    { tie_word_embeddings: true },
    ([a, b]) => void ([a.channels, b.channels] = [[3, 20], [4]]),
  ],
  [
    "channels of dense layers and shared experts",
    "deepseek",
    {},
    ([a, b]) => void ([a.channels, b.channels] = [[1, 9], [10]]),
  ],
  [
    "channels of routed experts",
    "deepseek",
    {},
    ([, b, c]) => {
      b.expertChannels = b.expertChannels.map((kept, e) => kept.slice(e + 1));
      c.expertChannels[4] = [5];
    },
  ],
  [
    "whole experts",
    "deepseek",
    {},
    ([, b, c]) =>
      void ([b.experts, c.experts] = [
        [0, 2, 3],
        [1, 4],
      ]),
  ],
  ["channels of V2's routed experts", "deepseek", V2(), ([, b]) => void (b.expertChannels[1] = [3])],
  [
    "heads, channels and experts",
    "deepseek",
    { tie_word_embeddings: false, n_shared_experts: 2 },
    ([a, b, c]) => {
      [a.heads, b.heads] = [[1], [0, 2]];
      [b.experts, c.experts] = [
        [4, 0, 1],
        [2, 3],
      ];
      [b.expertChannels[0], c.channels] = [[7, 8], [0]];
    },
  ],
];

function V2(): Record<string, unknown> {
  return { model_type: "deepseek_v2", scoring_func: "softmax", topk_method: "greedy", norm_topk_prob: false };
}

describe.each(["cpu", "wasm"] as const)("a padded model on %s", (backend) => {
  useBackend(backend);

  it.each(CUTS)("computes what the pruned one does without %s (%s)", async (_, family, changes, change) => {
    await expectNoLeak(async () => {
      const whole = tinyModel(family, changes);
      const pruned = cut(whole, change);
      const config = paddedConfig(pruned.config);
      const padded = await loaded(config, padTensors(checkpointTensors(pruned), pruned.config));
      expect(config).toEqual({ ...whole.config, layers: undefined });
      expect(shapes(padded)).toEqual(shapes(whole));
      const ids = tinyIds(whole, [9, 9]);
      expectNear(logitsOf(padded, ids), logitsOf(pruned, ids), 1e-5);
      expect(changedNames(contents(whole), contents(padded)).length).toBeGreaterThan(0);
      for (const model of [whole, pruned, padded]) disposeModel(model);
    });
  });

  it.each(["deepseek", "qwen2"] as const)("passes on what enters a layer that was removed (%s)", async (family) => {
    const whole = tinyModel(family);
    const without = { ...whole, layers: [whole.layers[0], whole.layers[2]] };
    const config: ModelConfig = {
      ...whole.config,
      layers: [
        {},
        {
          numAttentionHeads: 0,
          numKeyValueHeads: 0,
          intermediateSize: 0,
          sharedIntermediateSize: 0,
          expertIntermediateSizes: [0, 0, 0, 0, 0],
        },
        {},
      ],
    };
    const emptied = checkpointTensors(whole)
      .filter(({ name }) => !/layers\.1\.mlp\.shared_experts/.test(name))
      .map((tensor) => empty(tensor));
    const padded = await loaded(paddedConfig(config), padTensors(emptied, config));
    const ids = tinyIds(whole, [9, 9]);
    expectNear(logitsOf(padded, ids), logitsOf(without, ids), 1e-5);
    for (const model of [whole, padded]) disposeModel(model);
  });
});

/** Of layer 1 no heads and no channels. */
function empty(tensor: CheckpointTensor): CheckpointTensor {
  const { name, shape } = tensor;
  if (!name.includes("layers.1.")) return tensor;
  const inputs = /o_proj|down_proj/.test(name);
  const outputs = /(q|q_b|kv_b|k|v|gate|up)_proj/.test(name);
  if (!inputs && !outputs) return tensor;
  const values = async () => new Float32Array();
  return { name, shape: shape.map((size, axis) => (axis === (inputs ? 1 : 0) ? 0 : size)), values };
}

const shapes = (model: Model) =>
  checkpointTensors(model)
    .map(({ name, shape }) => [name, shape])
    .toSorted(([a], [b]) => (a < b ? -1 : 1));

describe("exported adapters", () => {
  useBackend("wasm");

  it.each(["deepseek", "qwen2"] as const)(
    "are merged tensor by tensor to the bits of a merged model (%s)",
    async (family) => {
      await expectNoLeak(async () => {
        const model = tinyModel(family);
        attachRandomLora(model);
        const before = contents(model);
        const merged = await loaded(model.config, mergedTensors(model));
        expect(changedNames(before, contents(model))).toEqual([]);
        mergeLora(model);
        expect(changedNames(contents(model), contents(merged))).toEqual([]);
        for (const one of [model, merged]) disposeModel(one);
      });
    },
  );

  it.each(CUTS)("fit the padded base when they are padded: without %s (%s)", async (_, family, changes, change) => {
    const whole = tinyModel(family, changes);
    const pruned = cut(whole, change);
    attachRandomLora(pruned);
    const padded = await loaded(paddedConfig(pruned.config), padTensors(checkpointTensors(pruned), pruned.config));
    attachAdapter(padded, padAdapter(await adapterOf(pruned, "tiny"), pruned.config));
    const ids = tinyIds(whole, [9, 9]);
    expectNear(logitsOf(padded, ids), logitsOf(pruned, ids), 1e-5);
    for (const model of [whole, pruned, padded]) disposeModel(model);
  });
});

describe("a model that cannot be padded", () => {
  useBackend("cpu");

  it.each([
    ["whose router has no bias", V2(), [0, 1, 2], "its router compares every expert with all others"],
    ["whose router takes the softmax", { scoring_func: "softmax" }, [0, 1, 2], "its router compares every expert"],
    ["whose router chooses among groups", { n_group: 5, topk_group: 3 }, [0, 1, 2], "chooses among 5 groups"],
    ["that has fewer experts than tokens go to", {}, [3], "tokens go to 2 experts and 1 are left"],
  ])("is refused: one %s", (_, changes, experts, why) => {
    const whole = tinyModel("deepseek", changes);
    const pruned = cut(whole, (layers) => void (layers[1].experts = experts));
    expect(() => paddedConfig(pruned.config)).toThrow(why);
    for (const model of [whole, pruned]) disposeModel(model);
  });
});

describe("a uniform model", () => {
  useBackend("wasm");

  it.each([
    [
      "deepseek",
      (layers: LayerPlan[]) =>
        layers.forEach((layer) => {
          layer.heads = [0, 2];
          if (layer.experts.length > 0)
            [layer.experts, layer.channels] = [
              [0, 1, 3],
              [0, 1, 2, 5],
            ];
          layer.expertChannels = layer.expertChannels.map(() => [1, 2, 3, 4]);
        }),
    ],
    [
      "qwen2",
      (layers: LayerPlan[]) =>
        layers.forEach(
          (layer) =>
            void ([layer.heads, layer.channels] = [
              [1, 2],
              [4, 5, 6],
            ]),
        ),
    ],
  ] as const)("has the pruned one's tensors under a plain config (%s)", async (family, change) => {
    const whole = tinyModel(family);
    const pruned = cut(whole, change);
    const config = uniformConfig(pruned.config);
    expect(config.layers).toBeUndefined();
    const uniform = await loaded(config, checkpointTensors(pruned));
    const ids = tinyIds(whole, [9, 9]);
    expect(logitsOf(uniform, ids)).toEqual(logitsOf(pruned, ids));
    for (const model of [whole, pruned, uniform]) disposeModel(model);
  });

  it.each([
    ["heads", (layers: LayerPlan[]) => void (layers[0].heads = [0]), "1 to 3 attention heads"],
    ["channels", (layers: LayerPlan[]) => void (layers[1].expertChannels[0] = [1]), "1 to 11 channels of experts"],
    [
      "shared channels",
      (layers: LayerPlan[]) => layers.forEach((layer) => (layer.channels = [1])),
      "no multiple of the 11",
    ],
  ])("is refused where layers differ in %s", (_, change, why) => {
    const whole = tinyModel("deepseek");
    const pruned = cut(whole, change);
    expect(() => uniformConfig(pruned.config)).toThrow(why);
    for (const model of [whole, pruned]) disposeModel(model);
  });
});
