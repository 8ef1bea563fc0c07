import { describe, expect, it } from "vitest";
import { gpuErrors } from "../../src/engine/device.ts";
import { valueAndGradients } from "../../src/engine/gradients.ts";
import type { PackedFormat } from "../../src/engine/packed.ts";
import * as tf from "../../src/engine/tf.ts";
import { sourceOf } from "../../src/formats/bytes.ts";
import { openSafetensors, readSafetensors } from "../../src/formats/safetensors.ts";
import { hiddenStates, languageModelLoss, logits, type Model } from "../../src/models/decoder.ts";
import { makerOf, type Storage, tableShape, tensorsOf } from "../../src/models/storage.ts";
import {
  buildModelFrom,
  checkpointTensors,
  disposeModel,
  initModel,
  loadModel,
  modelSize,
  namedTables,
  namedWeights,
  saveModel,
} from "../../src/models/weights.ts";
import { scoreUnits } from "../../src/loar/importance.ts";
import { copyModel } from "../../src/loar/prune.ts";
import { packCheckpoint, unpackCheckpoint } from "../../src/training/checkpoint.ts";
import { adapterOf, loraTensors, mergeLora } from "../../src/training/lora.ts";
import { lossInput } from "../../src/training/loss.ts";
import { useBackend } from "../engine/harness.ts";
import {
  attachRandomLora,
  expectNear,
  expectNoLeak,
  FAMILIES,
  type Family,
  tinyBatch,
  tinyConfig,
  tinyIds,
} from "./tiny.ts";

const FORMATS: PackedFormat[] = ["f16", "int8", "int4"];

/** Sizes of whole blocks, so that every matrix can be stored small; the head is untied. */
const BLOCKS: Record<Family, Record<string, unknown>> = {
  deepseek: {
    hidden_size: 64,
    q_lora_rank: 32,
    kv_lora_rank: 32,
    qk_nope_head_dim: 16,
    qk_rope_head_dim: 8,
    v_head_dim: 32,
    intermediate_size: 96,
    moe_intermediate_size: 32,
    num_hidden_layers: 2,
    tie_word_embeddings: false,
  },
  qwen2: {
    hidden_size: 64,
    head_dim: 32,
    num_attention_heads: 4,
    num_key_value_heads: 2,
    intermediate_size: 96,
    num_hidden_layers: 2,
  },
};

const config = (family: Family) => tinyConfig(family, BLOCKS[family]);

/** A model stored so, its tables in pieces of at most `mostBytes`, and the float32 model of what its weights stand for. */
async function pair(family: Family, storage: Storage, mostBytes = 2 ** 31): Promise<[small: Model, plain: Model]> {
  const fresh = initModel(config(family), 3);
  const tensors = new Map<string, Float32Array>();
  for (const { name, values } of checkpointTensors(fresh)) tensors.set(name, await values());
  disposeModel(fresh);
  const read = (name: string, shape: number[], rows: [number, number] = [0, shape[0]]) => {
    const width = shape[1] ?? 1;
    return tensors.get(name)!.subarray(rows[0] * width, rows[1] * width);
  };
  const small = buildModelFrom(config(family), makerOf(read, storage, undefined, mostBytes));
  return [small, loadModel(config(family), await saveModel(small, "F32"))];
}

/** The logits of all tokens, then the loss's gradient by every adapter. */
async function results(model: Model): Promise<Float32Array[]> {
  const outputs = tf.tidy(() => {
    const h = hiddenStates(model, { ids: tf.tensor2d(tinyIds(model, [7, 7]), undefined, "int32") });
    const scores = logits(model, h.reshape([-1, h.shape[2]!]));
    const input = lossInput(tinyBatch(model));
    const leaves = loraTensors(model).map(({ tensor }) => tensor);
    const { value, gradients } = valueAndGradients(() => languageModelLoss(model, input, { recompute: true }), leaves);
    return [scores, value, ...gradients];
  });
  const values = await Promise.all(outputs.map(async (tensor) => (await tensor.data()).slice() as Float32Array));
  tf.dispose(outputs);
  return values;
}

async function expectAlike(small: Model, plain: Model): Promise<void> {
  for (const model of [small, plain]) attachRandomLora(model);
  const [found, wanted] = [await results(small), await results(plain)];
  expect(found.length).toBeGreaterThan(10);
  found.forEach((values, i) => expectNear(values, wanted[i], 2e-5));
  disposeModel(small);
  disposeModel(plain);
}

describe.each(["wasm", "webgpu"] as const)("on %s", (backend) => {
  useBackend(backend);

  it.each(FAMILIES.flatMap((family) => FORMATS.map((format) => [family, format] as const)))(
    "%s stored as %s computes what the float32 model of the same weights does, gradients of adapters too",
    async (family, format) => {
      const errors = gpuErrors().count;
      await expectNoLeak(async () => expectAlike(...(await pair(family, format))));
      expect(gpuErrors().count).toBe(errors);
    },
  );

  it.each([
    ["f32", 2900],
    ["int4", 500],
  ] as const)("tables of %s in pieces do as whole ones", async (storage, mostBytes) => {
    const [small, plain] = await pair("qwen2", storage, mostBytes);
    expect(small.embedTokens).toHaveLength(4);
    expect(small.lmHead).toHaveLength(4);
    await expectAlike(small, plain);
  });
});

describe("a model that is stored small", () => {
  useBackend("wasm");

  it.each(FAMILIES)("has the shapes, the count and the file of %s", async (family) => {
    const [small, plain] = await pair(family, "int8", 1000);
    const shapes = (model: Model) => namedTables(model).map(({ name, table }) => [name, tableShape(table)]);
    expect(shapes(small)).toEqual(shapes(plain));
    expect(modelSize(small)).toEqual(modelSize(plain));
    const [found, wanted] = [await saveModel(small, "F32"), await saveModel(plain, "F32")].map(readSafetensors);
    expect([...found]).toEqual([...wanted]);
    disposeModel(small);
    disposeModel(plain);
  });

  it.each(FAMILIES)("of %s is after a checkpoint what it was, word by word, and no part of it", async (family) => {
    const [small, plain] = await pair(family, "int4");
    attachRandomLora(small);
    const bytes = await packCheckpoint(small, null);
    expect([...readSafetensors(bytes).keys()].filter((name) => /^model.*_proj.weight$|embed/.test(name))).toEqual([]);
    const weights = openSafetensors([sourceOf(await saveModel(plain, "F32"), "model.safetensors")]);
    const { model } = unpackCheckpoint(config(family), bytes, 2, { weights, storage: "int4" });
    const words = (one: Model) =>
      namedTables(one).map(({ name, table }) => [name, tensorsOf(table).map((tensor) => [...tensor.dataSync()])]);
    expect(words(model)).toEqual(words(small));
    expect(loraTensors(model).map(({ tensor }) => [...tensor.dataSync()])).toEqual(
      loraTensors(small).map(({ tensor }) => [...tensor.dataSync()]),
    );
    disposeModel(model);
    disposeModel(small);
    disposeModel(plain);
  });

  it.each(FAMILIES)("refuses what would change the weights of %s, by the weight's name or use", async (family) => {
    const [small, plain] = await pair(family, "int4");
    expect(() => namedWeights(small)).toThrow(
      "model.embed_tokens.weight is stored as int4 and frozen: train adapters on this model, or load it as f32",
    );
    attachRandomLora(small);
    expect(() => mergeLora(small)).toThrow("is stored as int4 and frozen");
    expect(() => copyModel(small)).toThrow("A weight that is to be pruned is stored as int4");
    const samples = [tinyBatch(small, 1, [8]), tinyBatch(small, 2, [8])];
    await expect(scoreUnits(small, samples, "gateFisher")).rejects.toThrow("A weight that is to be scored is stored");
    expect((await adapterOf(small, "tiny")).modules.size).toBeGreaterThan(4);
    disposeModel(small);
    disposeModel(plain);
  });
});
