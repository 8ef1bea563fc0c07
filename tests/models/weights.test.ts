import { describe, expect, it } from "vitest";
import { writeConfig, readConfig } from "../../src/formats/hfConfig.ts";
import { packSafetensors, readSafetensors, type TensorToWrite } from "../../src/formats/safetensors.ts";
import * as tf from "../../src/engine/tf.ts";
import {
  checkpointTensors,
  disposeModel,
  initModel,
  loadModel,
  modelTensors,
  modelSize,
  namedWeights,
  saveModel,
} from "../../src/models/weights.ts";
import { useBackend } from "../engine/harness.ts";
import { changedNames, contents, type Family, FAMILIES, expectNoLeak, tinyConfig, tinyModel } from "./tiny.ts";

const VARIANTS: [name: string, family: Family, changes: Record<string, unknown>][] = [
  ["DeepSeek-V3", "deepseek", {}],
  ["DeepSeek-V3 with a head of its own", "deepseek", { tie_word_embeddings: false }],
  ["DeepSeek-V3 with a multi-token prediction layer", "deepseek", { num_nextn_predict_layers: 1 }],
  ["DeepSeek-V3 with queries in one step and no shared expert", "deepseek", { q_lora_rank: null, n_shared_experts: 0 }],
  ["DeepSeek-V2", "deepseek", { model_type: "deepseek_v2" }],
  ["Qwen2", "qwen2", {}],
  ["Qwen2 with a tied head", "qwen2", { tie_word_embeddings: true }],
];

/** A checkpoint like the model's, with `change` made to its tensors. */
async function checkpoint(family: Family, change: (tensors: TensorToWrite[]) => TensorToWrite[]): Promise<Uint8Array> {
  const model = tinyModel(family);
  const tensors: TensorToWrite[] = [];
  for (const tensor of modelTensors(model, "F32")) tensors.push({ ...tensor, data: await tensor.bytes() });
  disposeModel(model);
  return packSafetensors(change(tensors));
}

const zeros = (name: string, shape: number[]): TensorToWrite => ({
  name,
  shape,
  dtype: "F32",
  data: new Uint8Array(4 * tf.util.sizeFromShape(shape)),
});

describe.each(["cpu", "wasm"] as const)("on %s", (backend) => {
  useBackend(backend);

  it.each(VARIANTS)(
    "%s is loaded bit for bit as it was saved, by the config it was saved with",
    async (_, family, changes) => {
      const model = tinyModel(family, changes);
      const config = readConfig(JSON.parse(JSON.stringify(writeConfig(model.config))));
      const loaded = loadModel(config, await saveModel(model, "F32"));
      expect(loaded.config).toEqual(model.config);
      expect(changedNames(contents(model), contents(loaded))).toEqual([]);
      disposeModel(model);
      disposeModel(loaded);
    },
  );
});

describe("a checkpoint", () => {
  useBackend("wasm");

  it("has each routed expert under its own name and in its own shape", async () => {
    const model = tinyModel("deepseek");
    const tensors = readSafetensors(await saveModel(model, "F32"));
    const at = "model.layers.1.mlp.experts";
    expect([...tensors.keys()].filter((name) => name.startsWith(at))).toHaveLength(3 * 5);
    expect(tensors.get(`${at}.4.gate_proj.weight`)!.shape).toEqual([11, 20]);
    expect(tensors.get(`${at}.4.down_proj.weight`)!.shape).toEqual([20, 11]);
    const { mlp } = model.layers[1];
    if (mlp.kind !== "experts") throw new Error("layer 1 is dense");
    const own = tf.tidy(() => (mlp.experts.down as tf.Tensor).slice([0, 4 * 11], [20, 11]).dataSync());
    const { data } = tensors.get(`${at}.4.down_proj.weight`)!;
    expect(new Float32Array(data.slice().buffer)).toEqual(own);
    disposeModel(model);
  });

  it("keeps the router's bias in float32 when the rest is stored in 16 bits", async () => {
    const model = tinyModel("deepseek");
    const before = contents(model);
    const bytes = await saveModel(model, "F16");
    const loaded = loadModel(model.config, bytes);
    const after = contents(loaded);
    const biases = [...before.keys()].filter((name) => name.endsWith("e_score_correction_bias"));
    expect(biases).toHaveLength(2);
    for (const name of biases) expect(after.get(name)).toEqual(before.get(name));
    expect(changedNames(before, after)).toHaveLength(before.size - biases.length);
    disposeModel(model);
    disposeModel(loaded);
  });

  it.each(FAMILIES)("of %s that lacks a tensor is refused by the tensor's name", async (family) => {
    const name = "model.layers.2.self_attn.o_proj.weight";
    const bytes = await checkpoint(family, (tensors) => tensors.filter((tensor) => tensor.name !== name));
    const load = () => loadModel(tinyConfig(family), bytes);
    expect(load).toThrow(`The checkpoint has no tensor ${name}, which its config.json asks for.`);
  });

  it.each(FAMILIES)("of %s with a tensor of another shape is refused with both shapes", async (family) => {
    const bytes = await checkpoint(family, (tensors) =>
      tensors.map((tensor) => (tensor.name === "model.norm.weight" ? zeros(tensor.name, [23]) : tensor)),
    );
    const width = tinyConfig(family).hiddenSize;
    expect(() => loadModel(tinyConfig(family), bytes)).toThrow(
      `The checkpoint's model.norm.weight is [23], its config.json makes it [${width}].`,
    );
  });

  it.each(FAMILIES)("of %s with a tensor too many is refused by its name", async (family) => {
    const bytes = await checkpoint(family, (tensors) => [...tensors, zeros("model.layers.3.mlp.gate.weight", [5, 20])]);
    expect(() => loadModel(tinyConfig(family), bytes)).toThrow(
      "The checkpoint has 1 tensors that its config.json does not ask for, the first model.layers.3.mlp.gate.weight.",
    );
  });

  it("may carry copies of shared weights and old rotary tables", async () => {
    const bytes = await checkpoint("deepseek", (tensors) => [
      ...tensors,
      zeros("lm_head.weight", [37, 20]),
      zeros("model.layers.0.self_attn.rotary_emb.inv_freq", [2]),
      zeros("model.layers.3.embed_tokens.weight", [37, 20]), // Of a multi-token prediction layer, as DeepSeek-V3 has them.
      zeros("model.layers.3.shared_head.head.weight", [37, 20]),
    ]);
    const model = loadModel(tinyConfig("deepseek"), bytes);
    expect(model.lmHead).toBeNull();
    disposeModel(model);
  });

  it("that is refused leaves no tensors behind", async () => {
    const missing = await checkpoint("deepseek", (tensors) =>
      tensors.filter(({ name }) => name !== "model.norm.weight"),
    );
    const tooMany = await checkpoint("qwen2", (tensors) => [...tensors, zeros("more", [1])]);
    await expectNoLeak(() => {
      expect(() => loadModel(tinyConfig("deepseek"), missing)).toThrow("model.norm.weight");
      expect(() => loadModel(tinyConfig("qwen2"), tooMany)).toThrow("more");
    });
  });
});

describe("a tree", () => {
  useBackend("wasm");

  it.each(VARIANTS)("of %s is disposed of whole", async (_, family, changes) => {
    await expectNoLeak(() => disposeModel(tinyModel(family, changes)));
  });

  it.each(VARIANTS)("of %s has as many parameters as its checkpoint", async (_, family, changes) => {
    const model = tinyModel(family, changes);
    const { total, ...kinds } = modelSize(model);
    const stored = checkpointTensors(model).reduce((sum, { shape }) => sum + tf.util.sizeFromShape(shape), 0);
    expect(total).toBe(stored);
    expect(Object.values(kinds).reduce((sum, count) => sum + count, 0)).toBe(total);
    disposeModel(model);
  });

  it("of DeepSeek-V3 has the parameters that its sizes make", () => {
    const model = tinyModel("deepseek", { tie_word_embeddings: false });
    const attention = 9 * 20 + 3 * (5 + 4) * 9 + (7 + 4) * 20 + 3 * (5 + 6) * 7 + 20 * 3 * 6; // q_a, q_b, kv_a, kv_b, o
    expect(modelSize(model)).toEqual({
      total: 2 * 37 * 20 + 3 * attention + 3 * 20 * 19 + 2 * 3 * 20 * 11 * 6 + 2 * 5 * 21 + 3 * (2 * 20 + 9 + 7) + 20,
      embedding: 2 * 37 * 20,
      attention: 3 * attention,
      denseFfn: 3 * 20 * 19,
      sharedExperts: 2 * 3 * 20 * 11,
      routedExperts: 2 * 5 * 3 * 20 * 11,
      router: 2 * 5 * (20 + 1),
      norms: 3 * (2 * 20 + 9 + 7) + 20,
    });
    disposeModel(model);
  });

  it("of Qwen2 has the parameters that its sizes make", () => {
    const model = tinyModel("qwen2", { tie_word_embeddings: true });
    const attention = 24 * 23 + 2 * 12 * 23 + 22 * 24; // q, then k and v, each with its bias, and o
    expect(modelSize(model)).toEqual({
      total: 41 * 22 + 3 * attention + 3 * 3 * 22 * 21 + 7 * 22,
      embedding: 41 * 22,
      attention: 3 * attention,
      denseFfn: 3 * 3 * 22 * 21,
      sharedExperts: 0,
      routedExperts: 0,
      router: 0,
      norms: 7 * 22,
    });
    disposeModel(model);
  });
});

describe("fresh weights", () => {
  useBackend("wasm");

  it.each(FAMILIES)("of %s are decided by the seed", (family) => {
    const [first, again, other] = [7, 7, 8].map((seed) => {
      const model = initModel(tinyConfig(family), seed);
      const values = contents(model);
      disposeModel(model);
      return values;
    });
    expect(changedNames(first, again)).toEqual([]);
    const drawn = [...first.keys()].filter((name) => !/norm\.weight$|bias$/.test(name));
    expect(changedNames(first, other).toSorted()).toEqual(drawn.toSorted());
  });

  it("spread as the config says in the embedding, and in projections by their inputs, less on the way back", () => {
    const model = initModel(tinyConfig("deepseek", { initializer_range: 0.5, vocab_size: 400 }), 1);
    const weights = new Map(namedWeights(model).map(({ name, tensor }) => [name, tensor]));
    const spread = (name: string) => {
      const values = weights.get(`model.${name}.weight`)!.dataSync() as Float32Array;
      return Math.sqrt(values.reduce((sum, x) => sum + x * x, 0) / values.length);
    };
    const wanted: Record<string, number> = {
      embed_tokens: 0.5,
      "layers.0.mlp.up_proj": 1 / Math.sqrt(20),
      "layers.0.mlp.down_proj": 1 / Math.sqrt(19 * 6),
      "layers.1.mlp.experts.down_proj": 1 / Math.sqrt(11 * 6),
      "layers.2.self_attn.kv_a_layernorm": 1,
    };
    for (const [name, std] of Object.entries(wanted)) {
      expect(Math.abs(spread(name) / std - 1), name).toBeLessThan(0.1); // 380 draws or more: 4 % is one deviation.
    }
    disposeModel(model);
  });
});
