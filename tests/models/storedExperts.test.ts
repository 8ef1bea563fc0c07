// Experts that are stored small, in a whole model: what it computes, what it takes, what can be trained on it.

import { describe, expect, it } from "vitest";
import { gpuErrors } from "../../src/engine/device.ts";
import { isPacked, type PackedFormat } from "../../src/engine/packed.ts";
import { sourceOf } from "../../src/formats/bytes.ts";
import { openSafetensors } from "../../src/formats/safetensors.ts";
import type { Model } from "../../src/models/decoder.ts";
import { generate } from "../../src/models/generate.ts";
import { phantomMaker, type Storage, storedBytes, type Table, tensorsOf } from "../../src/models/storage.ts";
import {
  buildModelFrom,
  disposeModel,
  initModel,
  loadModel,
  namedTables,
  saveModel,
} from "../../src/models/weights.ts";
import { packCheckpoint, unpackCheckpoint } from "../../src/training/checkpoint.ts";
import { attachLora, loraTensors } from "../../src/training/lora.ts";
import { batchLoss } from "../../src/training/loss.ts";
import { createOptimizer, DEFAULT_OPTIMIZER, disposeOptimizer } from "../../src/training/optimizer.ts";
import { planMemory } from "../../src/training/plan.ts";
import { useBackend } from "../engine/harness.ts";
import { trainStep } from "../training/trainStep.ts";
import { expectNear, expectNoLeak, logitsOf, tinyBatch, tinyConfig, tinyIds } from "./tiny.ts";

const FORMATS: PackedFormat[] = ["f16", "int8", "int4"];
const ATTENTION = ["q_a_proj", "q_b_proj", "kv_a_proj_with_mqa", "kv_b_proj", "o_proj"];

/** Whole blocks of 32 everywhere, with as many experts of these widths in the layer that has some. */
function configOf(expertWidths: number[] = [32, 32, 32, 32, 32]) {
  return tinyConfig("deepseek", {
    hidden_size: 32,
    q_lora_rank: 32,
    kv_lora_rank: 32,
    v_head_dim: 32,
    intermediate_size: 32,
    moe_intermediate_size: 32,
    n_routed_experts: expertWidths.length,
    num_hidden_layers: 2,
    espalier_layers: [{}, { expert_intermediate_sizes: expertWidths }],
  });
}

/** How the experts of the model's second layer are stored: gate, up, down. */
function storedExperts({ layers: [, { mlp }] }: Model): Storage[] {
  if (mlp.kind !== "experts") throw new Error("the layer has no experts");
  const { gate, up, down } = mlp.experts;
  return [gate, up, down].map((matrix) => (isPacked(matrix) ? matrix.format : "f32"));
}

const tablesOf = (model: Model): Table[] => namedTables(model).map(({ table }) => table);

function bytesOf(model: Model): number {
  return tablesOf(model)
    .flatMap(tensorsOf)
    .reduce((sum, { size }) => sum + 4 * size, 0);
}

/** The model stored so, and the float32 model of what its weights stand for. */
async function pair(storage: Storage, widths?: number[]): Promise<[small: Model, plain: Model]> {
  const small = initModel(configOf(widths), 3, storage);
  return [small, loadModel(configOf(widths), await saveModel(small, "F32"))];
}

describe.each(["wasm", "webgpu"] as const)("a model whose experts are stored small, on %s", (backend) => {
  useBackend(backend);

  it.each(FORMATS)("computes and decodes as %s what the float32 model of the same weights does", async (format) => {
    const errors = gpuErrors().count;
    const [small, plain] = await pair(format);
    expect(storedExperts(small)).toEqual([format, format, format]);
    const batch = tinyBatch(small);
    expectNear([await batchLoss(small, batch)], [await batchLoss(plain, batch)], 1e-5);
    const prompts = tinyIds(small, [5, 3]).map((ids) => Int32Array.from(ids));
    const continued = (model: Model) => generate(model, prompts, { maxNewTokens: 4, eosTokenId: -1 });
    expect(await continued(small)).toEqual(await continued(plain));
    for (const model of [small, plain]) disposeModel(model);
    expect(gpuErrors().count - errors, String(gpuErrors().latest)).toBe(0);
  });
});

describe("experts that are stored small", () => {
  useBackend("wasm");

  it("let adapters of attention be trained, which change nothing else", async () => {
    const model = initModel(configOf(), 3, "int8");
    attachLora(model, { rank: 4, alpha: 8, seed: 1, targets: ATTENTION });
    const before = await Promise.all(
      tablesOf(model)
        .flatMap(tensorsOf)
        .map((tensor) => tensor.data()),
    );
    const optimizer = createOptimizer(loraTensors(model), DEFAULT_OPTIMIZER);
    const batch = tinyBatch(model);
    const losses = [];
    for (let step = 0; step < 3; step++) losses.push(await trainStep(model, optimizer, batch, 0.02));
    losses.push(await batchLoss(model, batch));
    expect(losses).toEqual(losses.toSorted((a, b) => b - a));
    expect(losses[0] - losses[3]).toBeGreaterThan(0.1);
    expect(
      await Promise.all(
        tablesOf(model)
          .flatMap(tensorsOf)
          .map((tensor) => tensor.data()),
      ),
    ).toEqual(before);
    disposeOptimizer(optimizer);
    disposeModel(model);
  });

  const cases: [string, number[], Storage, Storage[]][] = [
    ["whole blocks", [32, 64], "int8", ["int8", "int8", "int8"]],
    ["whole blocks", [32, 64], "int4", ["int4", "int4", "int4"]],
    ["even widths, as pruning leaves them", [8, 24, 64], "int4", ["int4", "int4", "f16"]],
    ["odd widths", [8, 11], "int8", ["int8", "int8", "f32"]],
    ["odd widths", [8, 11], "f16", ["f16", "f16", "f32"]],
  ];
  it.each(cases)("of %s, %j, as %s are stored as %j, and planned so", async (_, widths, storage, expected) => {
    await expectNoLeak(async () => {
      const [small, plain] = await pair(storage, widths);
      expect(storedExperts(small)).toEqual(expected);
      expectNear(logitsOf(small, tinyIds(small, [5])), logitsOf(plain, tinyIds(small, [5])), 2e-5);
      const phantom = buildModelFrom(configOf(widths), phantomMaker(storage));
      const shapes = (model: Model) => tablesOf(model).map((table) => tensorsOf(table).map(({ shape }) => shape));
      expect(shapes(phantom)).toEqual(shapes(small));
      for (const model of [small, plain, phantom]) disposeModel(model);
    });
  });

  it("take the bytes that the plan says", () => {
    const model = initModel(configOf(), 3, "int8");
    const settings = { rank: 4, rows: 1, length: 8, trainedTokens: 8, batches: 1, recompute: false, packed: false };
    const plan = planMemory(model.config, { ...settings, storage: "int8" });
    expect(plan.weightBytes).toBe(bytesOf(model) + 4 * (model.rope.cos.size + model.rope.sin.size));
    expect(storedBytes("int8", [160, 32])).toBe(160 * 32 * (1 + 4 / 32));
    disposeModel(model);
  });

  it.each([[[32, 64]], [[8, 24, 64]], [[8, 11]]])("of widths %j are in a checkpoint what they were", async (widths) => {
    const model = initModel(configOf(widths), 3, "int8");
    const weights = openSafetensors([sourceOf(await saveModel(model, "F32"), "model.safetensors")]);
    const base = { weights, storage: "int8" } as const;
    const { model: back } = unpackCheckpoint(model.config, await packCheckpoint(model, null), 1, base);
    const contents = (one: Model) => tablesOf(one).map((table) => tensorsOf(table).map((tensor) => tensor.dataSync()));
    expect(storedExperts(back)).toEqual(storedExperts(model));
    expect(contents(back)).toEqual(contents(model));
    for (const one of [model, back]) disposeModel(one);
  });
});
