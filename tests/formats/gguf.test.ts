import { readdirSync, readFileSync } from "node:fs";
import * as fc from "fast-check";
import { describe, expect, it } from "vitest";
import { openTokenizer } from "../../src/data/tokenizer.ts";
import { sourceOf, type Weights } from "../../src/formats/bytes.ts";
import { type ModelToWrite, openGguf, writeGguf } from "../../src/formats/gguf.ts";
import { writeGgufAdapter } from "../../src/formats/ggufAdapter.ts";
import { decodeBlocks, encodeBlocks, type WrittenType } from "../../src/formats/ggufBlocks.ts";
import { type Metadata, type MetadataValue, readGgufFile, writeGgufFile } from "../../src/formats/ggufFile.ts";
import { placementsOf } from "../../src/formats/ggufNames.ts";
import { piecesOf } from "../../src/formats/ggufTensors.ts";
import { type DeepSeekConfig, type ModelConfig, readConfig } from "../../src/formats/hfConfig.ts";
import { openSafetensors } from "../../src/formats/safetensors.ts";
import { collect } from "./collect.ts";

const QWEN_SPLIT =
  "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";
const json = (path: string) => JSON.parse(readFileSync(path, "utf8")) as Record<string, unknown>;

/** Three letters, a merge and the ends of a text; <think> is shown, an unused id lies between. */
const TOKENIZER = {
  added_tokens: [
    { id: 0, content: "<｜begin▁of▁sentence｜>", special: true },
    { id: 1, content: "<｜end▁of▁sentence｜>", special: true },
    { id: 6, content: "<｜User｜>", special: false },
    { id: 8, content: "<think>", special: false },
  ],
  normalizer: { type: "Sequence", normalizers: [] },
  pre_tokenizer: { type: "Split", pattern: { Regex: QWEN_SPLIT }, behavior: "Isolated", invert: false },
  model: { type: "BPE", vocab: { a: 2, b: 3, c: 4, ab: 5 }, merges: [["a", "b"]] },
};
const SETTINGS = {
  bos_token: { content: "<｜begin▁of▁sentence｜>" },
  eos_token: "<｜end▁of▁sentence｜>",
  chat_template: "{{ bos_token }}",
};

function fixture(name: string): ModelToWrite {
  const folder = `tests/fixtures/${name}`;
  const files = readdirSync(folder).filter((file) => /^model.*\.safetensors$/.test(file));
  const index = files.length > 1 ? json(`${folder}/model.safetensors.index.json`) : undefined;
  const tensors = openSafetensors(
    files.map((file) => sourceOf(readFileSync(`${folder}/${file}`), file)),
    index,
  );
  const config = readConfig(json(`${folder}/config.json`));
  return { name, config, tokenizer: TOKENIZER, tokenizerConfig: SETTINGS, tensors };
}

/** Weights that nobody trained, for a config that no fixture has. */
function made(config: ModelConfig): Weights {
  const tensors = new Map(
    placementsOf(config).flatMap(({ from, fromShape }) =>
      from.map((name) => [name, { shape: fromShape, dtype: "F32" }] as const),
    ),
  );
  const read: Weights["read"] = (name, rows) => {
    const { shape } = tensors.get(name)!;
    const row = shape.length === 1 ? 1 : shape[1];
    const [from, to] = rows ?? [0, shape[0]];
    return Float32Array.from({ length: (to - from) * row }, (_, i) => Math.sin(from * row + i + name.length));
  };
  return { tensors, read };
}

async function write(model: ModelToWrite, type: WrittenType): Promise<{ bytes: Uint8Array; notes: string[] }> {
  const { sink, bytes } = collect();
  const notes = await writeGguf(model, type, sink);
  return { bytes: bytes(), notes };
}

/** Far quicker than a comparison that could say where they differ. */
const same = (a: Float32Array, b: Float32Array) => Buffer.from(a.slice().buffer).equals(Buffer.from(b.slice().buffer));

const open = (bytes: Uint8Array) => openGguf(sourceOf(bytes, "x.gguf"));

const FIXTURES = [
  "qwen2-tiny",
  "qwen2-tiny-bf16",
  "qwen2-tiny-tied",
  "deepseek-v3-tiny",
  "deepseek-v3-tiny-yarn",
  "deepseek-v2-lite-tiny",
];

describe.each(FIXTURES)("%s", (name) => {
  const model = fixture(name);

  it("in float32 comes back with every tensor, any rows of them, and its config", async () => {
    const { bytes } = await write(model, "F32");
    const { config, weights } = open(bytes);
    const names = [...model.tensors.tensors.keys()];
    expect([...weights.tensors.keys()].toSorted()).toEqual(names.toSorted());
    for (const tensor of names) expect(same(weights.read(tensor), model.tensors.read(tensor)), tensor).toBe(true);
    fc.assert(
      fc.property(fc.constantFrom(...names), fc.nat(), fc.nat(), (tensor, a, b) => {
        const rows = model.tensors.tensors.get(tensor)!.shape[0];
        const [from, to] = [a % (rows + 1), b % (rows + 1)].toSorted((x, y) => x - y) as [number, number];
        expect(same(weights.read(tensor, [from, to]), model.tensors.read(tensor, [from, to]))).toBe(true);
      }),
    );
    // The file does not know by what numbers weights began; its ids are the tokenizer's own.
    const unknown = { extra: {}, initializerRange: 0, dtype: "", bosTokenId: 0, eosTokenId: 1 };
    const read = readConfig(JSON.parse(JSON.stringify(config)));
    expect({ ...read, ...unknown }).toEqual({ ...model.config, ...unknown });
    expect([read.bosTokenId, read.eosTokenId, read.dtype]).toEqual([0, 1, "float32"]);
  });

  it.each(["F16", "Q8_0", "Q4_0"] as const)("in %s comes back as what that type makes of it", async (type) => {
    const { bytes } = await write(model, type);
    const { weights } = open(bytes);
    for (const [tensor, { shape, dtype }] of weights.tensors) {
      const expected = model.tensors.read(tensor);
      if (shape.length === 1 || tensor.endsWith("mlp.gate.weight")) expect(dtype).toBe("F32");
      if (tensor.endsWith("kv_b_proj.weight") && dtype !== "F16") continue; // In blocks along other rows.
      const stored = decodeBlocks(dtype as WrittenType, encodeBlocks(dtype as WrittenType, expected));
      expect(same(weights.read(tensor), stored), tensor).toBe(true);
    }
  });
});

it("rows that are no whole blocks are F16, and the head of a Q4_0 file is Q8_0", async () => {
  const v3 = await write(fixture("deepseek-v3-tiny"), "Q4_0");
  expect(v3.notes).toEqual([
    expect.stringMatching(/^12 tensors are F16 because their rows are no whole blocks of 32, the first blk.0.attn_q_b/),
  ]);
  const types = (bytes: Uint8Array) => {
    const { tensors } = readGgufFile(sourceOf(bytes, "x.gguf"));
    return (tensor: string) => tensors.get(tensor)?.type;
  };
  const typeOf = types(v3.bytes);
  expect(["output.weight", "token_embd.weight", "blk.0.attn_q_a.weight"].map(typeOf)).toEqual(["Q8_0", "Q4_0", "Q4_0"]);
  expect(["blk.1.ffn_gate_inp.weight", "blk.1.exp_probs_b.bias"].map(typeOf)).toEqual(["F32", "F32"]);
  const tied = types((await write(fixture("qwen2-tiny-tied"), "Q4_0")).bytes);
  expect(["output.weight", "token_embd.weight"].map(tied)).toEqual([undefined, "Q8_0"]);
});

it("kv_b_proj lies in two tensors by head, the keys' transposed, and experts lie one behind the other", async () => {
  const model = fixture("deepseek-v3-tiny"); // 4 heads of 16 plain key rows and 16 value rows, a latent of 16.
  const { bytes } = await write(model, "F32");
  const { tensors } = readGgufFile(sourceOf(bytes, "x.gguf"));
  const stored = (name: string) => {
    const { begin, size, shape } = tensors.get(name)!;
    return { shape, values: decodeBlocks("F32", bytes.subarray(begin, begin + size)) };
  };
  const kvB = model.tensors.read("model.layers.2.self_attn.kv_b_proj.weight");
  const [keys, values] = [stored("blk.2.attn_k_b.weight"), stored("blk.2.attn_v_b.weight")];
  expect([keys.shape, values.shape]).toEqual([
    [4, 16, 16],
    [4, 16, 16],
  ]);
  const [head, row, latent] = [3, 5, 11];
  expect(keys.values[(head * 16 + latent) * 16 + row]).toBe(kvB[(head * 32 + row) * 16 + latent]);
  expect(values.values[(head * 16 + row) * 16 + latent]).toBe(kvB[(head * 32 + 16 + row) * 16 + latent]);
  const down = stored("blk.2.ffn_down_exps.weight");
  const sixth = model.tensors.read("model.layers.2.mlp.experts.6.down_proj.weight");
  expect(down.shape).toEqual([8, 64, 32]);
  expect(same(down.values.subarray(6 * 64 * 32, 7 * 64 * 32), sixth)).toBe(true);
});

describe("metadata", () => {
  const keysOf = async (model: ModelToWrite) => {
    const { metadata } = readGgufFile(sourceOf((await write(model, "Q8_0")).bytes, "x.gguf"));
    return Object.fromEntries([...metadata].map(([key, { value }]) => [key, value]));
  };

  it("of a DeepSeek-V3 has all that llama.cpp computes by", async () => {
    const keys = await keysOf(fixture("deepseek-v3-tiny-yarn"));
    expect(keys).toMatchObject({
      "general.architecture": "deepseek2",
      "general.type": "model",
      "general.name": "deepseek-v3-tiny-yarn",
      "general.file_type": 7,
      "general.quantization_version": 2,
      "deepseek2.block_count": 2,
      "deepseek2.context_length": 256,
      "deepseek2.embedding_length": 64,
      "deepseek2.feed_forward_length": 96,
      "deepseek2.vocab_size": 256,
      "deepseek2.attention.head_count": 4,
      "deepseek2.attention.head_count_kv": 1,
      "deepseek2.attention.layer_norm_rms_epsilon": Math.fround(1e-6),
      "deepseek2.attention.q_lora_rank": 24,
      "deepseek2.attention.kv_lora_rank": 16,
      "deepseek2.attention.key_length": 24,
      "deepseek2.attention.value_length": 16,
      "deepseek2.attention.key_length_mla": 24,
      "deepseek2.attention.value_length_mla": 16,
      "deepseek2.rope.dimension_count": 8,
      "deepseek2.rope.freq_base": 10_000,
      "deepseek2.leading_dense_block_count": 1,
      "deepseek2.expert_count": 8,
      "deepseek2.expert_used_count": 2,
      "deepseek2.expert_shared_count": 1,
      "deepseek2.expert_feed_forward_length": 24,
      "deepseek2.expert_group_count": 2,
      "deepseek2.expert_group_used_count": 1,
      "deepseek2.expert_weights_scale": 2.5,
      "deepseek2.expert_weights_norm": true,
      "deepseek2.expert_gating_func": 2,
      "deepseek2.rope.scaling.type": "yarn",
      "deepseek2.rope.scaling.factor": 4,
      "deepseek2.rope.scaling.original_context_length": 64,
      "deepseek2.rope.scaling.yarn_beta_fast": 32,
      "deepseek2.rope.scaling.yarn_beta_slow": 1,
      "deepseek2.rope.scaling.yarn_log_multiplier": Math.fround(0.1),
    });
  });

  it("of a tokenizer have every id, padding too, what each token is, and the begin where the template has it", async () => {
    const keys = await keysOf(fixture("qwen2-tiny"));
    const tokens = keys["tokenizer.ggml.tokens"] as string[];
    expect(tokens).toHaveLength(512);
    expect(tokens.slice(0, 10)).toEqual([
      "<｜begin▁of▁sentence｜>",
      "<｜end▁of▁sentence｜>",
      "a",
      "b",
      "c",
      "ab",
      "<｜User｜>",
      "[PAD7]",
      "<think>",
      "[PAD9]",
    ]);
    expect([...(keys["tokenizer.ggml.token_type"] as Int32Array).subarray(0, 10)]).toEqual([
      3, 3, 1, 1, 1, 1, 3, 5, 4, 5,
    ]);
    expect(keys).toMatchObject({
      "tokenizer.ggml.model": "gpt2",
      "tokenizer.ggml.pre": "deepseek-r1-qwen",
      "tokenizer.ggml.merges": ["a b"],
      "tokenizer.ggml.bos_token_id": 0,
      "tokenizer.ggml.eos_token_id": 1,
      "tokenizer.ggml.add_bos_token": true,
      "tokenizer.chat_template": "{{ bos_token }}",
    });
    const silent = { ...fixture("qwen2-tiny"), tokenizerConfig: { eos_token: "<｜end▁of▁sentence｜>" } };
    expect((await keysOf(silent))["tokenizer.ggml.add_bos_token"]).toBe(false);
  });
});

describe("a tokenizer", () => {
  const folder = "public/models/deepseek-nano";
  const [tokenizer, tokenizerConfig] = [json(`${folder}/tokenizer.json`), json(`${folder}/tokenizer_config.json`)];

  it("comes back cutting texts as before, with its template and its ends", async () => {
    const config = readConfig({ ...json("tests/fixtures/qwen2-tiny-tied/config.json"), vocab_size: 2048 });
    const opened = open(
      (await write({ name: "n", config, tokenizer, tokenizerConfig, tensors: made(config) }, "F16")).bytes,
    );
    const { chat_template: template, bos_token: bos, eos_token: eos, pad_token: pad } = tokenizerConfig;
    expect(opened.tokenizerConfig).toMatchObject({
      chat_template: template,
      bos_token: bos,
      eos_token: eos,
      pad_token: pad,
    });
    const [before, after] = [
      openTokenizer(tokenizer, tokenizerConfig),
      openTokenizer(opened.tokenizer, opened.tokenizerConfig),
    ];
    const text = fc.oneof(
      fc.string({ unit: "binary", maxLength: 40 }),
      fc
        .array(fc.constantFrom("北京", " is ", "12345", "don't", "\n\n", "½", "<think>", "<｜User｜>", "\t", "é"))
        .map((all) => all.join("")),
    );
    fc.assert(
      fc.property(text, (one) => {
        expect(after.encodeTemplate(one)).toEqual(before.encodeTemplate(one));
        expect(after.decode(before.encodeTemplate(one))).toBe(before.decode(before.encodeTemplate(one)));
      }),
      { numRuns: 300 },
    );
  });

  it.each([
    [{ model: { type: "Unigram" } }, 'tokenizer.json has a model of type "Unigram"'],
    [{ model: { ...TOKENIZER.model, byte_fallback: true } }, "tokenizer.json has byte_fallback"],
    [{ model: { ...TOKENIZER.model, merges: [] } }, "tokenizer.json has no merges"],
    [{ model: { ...TOKENIZER.model, vocab: { a: 512 } } }, 'gives "a" the id 512 and the model has 512 embeddings'],
    [{ normalizer: { type: "Lowercase" } }, 'normalises texts by "Lowercase"'],
    [
      { pre_tokenizer: { type: "Whitespace" } },
      "cuts texts by [], for which llama.cpp has no name; supported are qwen2,",
    ],
  ])("that llama.cpp cannot follow is refused: %j", async (change, message) => {
    const model = { ...fixture("qwen2-tiny"), tokenizer: { ...TOKENIZER, ...change } };
    await expect(write(model, "F32")).rejects.toThrow(message);
  });

  it("without an end is refused: llama.cpp would take another token for it", async () => {
    const { config, ...rest } = fixture("qwen2-tiny");
    const model = { ...rest, config: { ...config, eosTokenId: null }, tokenizerConfig: {} };
    await expect(write(model, "F32")).rejects.toThrow("Neither tokenizer_config.json nor config.json names");
  });

  it("that composes accents is written with a note", async () => {
    const model = { ...fixture("qwen2-tiny"), tokenizer: { ...TOKENIZER, normalizer: { type: "NFC" } } };
    expect((await write(model, "F32")).notes).toEqual([expect.stringContaining("does not compose accents (NFC)")]);
  });
});

describe("what llama.cpp cannot run is refused before anything is written:", () => {
  const yarn = fixture("deepseek-v3-tiny-yarn").config.ropeScaling!;
  it.each<[string, Record<string, unknown>, string | RegExp]>([
    ["qwen2-tiny", { layers: [{}, { intermediateSize: 96 }, {}] }, "Layer 1 has sizes of its own after pruning"],
    ["qwen2-tiny", { headDim: 32 }, "4 heads of 32 with a hidden size of 64"],
    ["qwen2-tiny", { ropeScaling: { ...yarn, truncate: false } }, "YaRN with truncate false"],
    ["deepseek-v3-tiny", { layers: [{}, { expertIntermediateSizes: [32] }, {}, {}] }, "Layer 1 has sizes of its own"],
    ["deepseek-v3-tiny", { numHiddenLayers: 27 }, "q_lora_rank 24 and 27 layers"],
    ["deepseek-v3-tiny", { numHiddenLayers: 48, vocabSize: 128_256 }, "q_lora_rank 24 and 48 layers"],
    ["deepseek-v3-tiny", { nSharedExperts: 0 }, "no shared experts"],
    ["deepseek-v3-tiny", { nGroup: 8, topkGroup: 2 }, "groups of one expert"],
    ["deepseek-v3-tiny", { topkMethod: "group_limited_greedy" }, "the group-limited router of DeepSeek-V2"],
    ["deepseek-v3-tiny-yarn", { ropeScaling: { ...yarn, mscale: 0.7 } }, "mscale 0.7 and mscale_all_dim 1"],
    ["deepseek-v3-tiny-yarn", { ropeScaling: { ...yarn, mscaleAllDim: null } }, "mscale 1 and mscale_all_dim null"],
    [
      "deepseek-v3-tiny",
      { vocabSize: 319 },
      /model.embed_tokens.weight is \[320,64\] and its config makes it \[319,64\]/,
    ],
    ["qwen2-tiny", { numHiddenLayers: 4 }, "model.layers.3.input_layernorm.weight is missing"],
    ["deepseek-v3-tiny", { topkMethod: "greedy", nGroup: 1 }, /has the tensor model.layers.1.mlp.gate.e_score/],
  ])("%s with %j", async (name, change, message) => {
    const model = fixture(name);
    const { sink, bytes } = collect();
    const config = { ...model.config, ...change } as ModelConfig;
    await expect(writeGguf({ ...model, config }, "F32", sink)).rejects.toThrow(message);
    expect(bytes()).toHaveLength(0);
  });

  it("but even layers, 48 of another vocabulary, and all groups kept are no obstacle", async () => {
    const model = fixture("qwen2-tiny");
    const layers = [{ intermediateSize: 128 }, { numAttentionHeads: 4 }, {}];
    expect((await write({ ...model, config: { ...model.config, layers } }, "F32")).notes).toEqual([]);
    const v3 = fixture("deepseek-v3-tiny");
    const config = { ...v3.config, topkGroup: 2 } as DeepSeekConfig;
    const { config: read } = open((await write({ ...v3, config }, "F32")).bytes);
    expect(read).toMatchObject({ n_group: 1, topk_group: 1 });
  });

  it("and what it computes otherwise, or leaves out, is said", async () => {
    const v2 = fixture("deepseek-v2-lite-tiny");
    const config = { ...v2.config, rmsNormEps: 1e-5, numNextnPredictLayers: 1 } as DeepSeekConfig;
    const { notes } = await write({ ...v2, config }, "F32");
    expect(notes).toEqual([
      "Without q_lora_rank and with 3 layers, the file needs llama.cpp v0.5.0 or newer.",
      expect.stringContaining("rms_norm_eps 0.00001 in the norms within attention too"),
      expect.stringContaining("multi-token prediction layers were left out"),
    ]);
  });
});

/** A file as other tools write it. */
async function rewrite(
  model: ModelToWrite,
  change: (metadata: Metadata) => void,
  { wholeKvB = false, config = model.config, tensors = model.tensors } = {},
): Promise<Uint8Array> {
  const { metadata } = readGgufFile(sourceOf((await write(model, "F32")).bytes, "x.gguf"));
  change(metadata);
  const { sink, bytes } = collect();
  const placements = placementsOf(config, { wholeKvB });
  await writeGgufFile(
    metadata,
    placements.map((placement) => ({
      name: placement.name,
      type: "F32" as const,
      shape: placement.shape,
      pieces: () => piecesOf(placement, "F32", tensors),
    })),
    sink,
  );
  return bytes();
}

const u32 = (value: number): MetadataValue => ({ type: "u32", value });

describe("a file of other tools", () => {
  it("of 2024, with kv_b_proj whole, reads as the one of today", async () => {
    const model = fixture("deepseek-v3-tiny");
    const bytes = await rewrite(
      model,
      (metadata) => {
        metadata.delete("deepseek2.attention.key_length_mla");
        metadata.delete("deepseek2.attention.value_length_mla");
        metadata.set("deepseek2.attention.key_length", u32(24));
        metadata.set("deepseek2.attention.value_length", u32(16));
        metadata.set("deepseek2.attention.head_count_kv", u32(4));
      },
      { wholeKvB: true },
    );
    const { config, weights } = open(bytes);
    expect(config).toMatchObject({ qk_nope_head_dim: 16, v_head_dim: 16 });
    const name = "model.layers.2.self_attn.kv_b_proj.weight";
    expect(weights.read(name)).toEqual(model.tensors.read(name));
  });

  it("with a multi-token prediction layer has it under the checkpoint's names", async () => {
    const model = fixture("deepseek-v3-tiny");
    const config = { ...model.config, numNextnPredictLayers: 1 } as DeepSeekConfig;
    const tensors = made(config);
    const bytes = await rewrite(
      { ...model, tensors: made(model.config) },
      (metadata) => {
        metadata.set("deepseek2.block_count", u32(5));
        metadata.set("deepseek2.nextn_predict_layers", u32(1));
      },
      { config, tensors },
    );
    const { config: read, weights } = open(bytes);
    expect(read).toMatchObject({ num_hidden_layers: 4, num_nextn_predict_layers: 1 });
    for (const part of ["eh_proj", "enorm", "hnorm", "shared_head.norm", "mlp.experts.7.down_proj"]) {
      const name = `model.layers.4.${part}.weight`;
      expect(weights.read(name)).toEqual(tensors.read(name));
    }
  });

  it("with a size for each layer reads if they are alike, and is refused if not", async () => {
    const model = fixture("qwen2-tiny");
    const lengths =
      (...value: number[]) =>
      (metadata: Metadata) => {
        metadata.set("qwen2.feed_forward_length", { type: "array", of: "u32", value: Uint32Array.from(value) });
      };
    expect(open(await rewrite(model, lengths(128, 128, 128))).config).toMatchObject({ intermediate_size: 128 });
    const uneven = await rewrite(model, lengths(128, 96, 128));
    expect(() => open(uneven)).toThrow("feed_forward_length is not the same for all layers");
  });

  it.each<[string, MetadataValue, string | RegExp]>([
    ["general.architecture", { type: "string", value: "llama" }, 'of the architecture "llama"; supported are qwen2'],
    ["tokenizer.ggml.model", { type: "string", value: "llama" }, 'model is "llama"; supported are gpt2'],
    [
      "tokenizer.ggml.pre",
      { type: "string", value: "gpt-4o" },
      'pre is "gpt-4o"; supported are qwen2, deepseek-r1-qwen',
    ],
    ["tokenizer.ggml.bos_token_id", u32(512), "bos_token_id is 512 of 512 tokens"],
    ["tokenizer.ggml.token_type", { type: "array", of: "i32", value: Int32Array.of(1) }, "no list of 512 numbers"],
    ["split.count", u32(3), "one of 3 parts of a model"],
    ["qwen2.block_count", u32(2), 'holds "blk.2.attn_norm.weight", which a model as its metadata'],
    ["qwen2.block_count", u32(4), 'has no tensor "blk.3.attn_norm.weight"'],
    ["qwen2.block_count", u32(2 ** 31), "claims 2147483648 layers"],
    ["qwen2.feed_forward_length", u32(96), /"blk.0.ffn_gate.weight" is \[128,64\] and its metadata make it \[96,64\]/],
    ["qwen2.embedding_length", { type: "string", value: "64" }, "embedding_length is no whole number"],
    ["qwen2.rope.scaling.type", { type: "string", value: "longrope" }, 'type is "longrope", and "yarn" or none'],
    ["qwen2.rope.dimension_count", u32(8), "dimension_count is 8, and all 16 of a head are wanted"],
  ])("with %s %j is refused", async (key, value, message) => {
    const bytes = await rewrite(fixture("qwen2-tiny"), (metadata) => metadata.set(key, value));
    expect(() => open(bytes)).toThrow(message);
  });

  it("is never misread or refused without a sentence, whichever byte of its metadata is wrong", async () => {
    const model = fixture("deepseek-v2-lite-tiny");
    const good = await write(model, "Q8_0");
    const { tensors } = readGgufFile(sourceOf(good.bytes, "x.gguf"));
    const end = tensors.get("token_embd.weight")!.begin;
    fc.assert(
      fc.property(fc.nat(end - 1), fc.nat(255), (at, value) => {
        const bad = good.bytes.slice();
        bad[at] = value;
        try {
          open(bad);
        } catch (error) {
          expect((error as Error).constructor).toBe(Error);
          expect((error as Error).message).toMatch(/\.$/);
        }
      }),
      { numRuns: 500 },
    );
  });
});

describe("an adapter", () => {
  const { config } = fixture("qwen2-tiny");
  const pair = (rank: number, alpha: number, fill: number) => ({
    rank,
    alpha,
    in: 64,
    out: 64,
    a: new Float32Array(rank * 64).fill(fill),
    b: new Float32Array(64 * rank).fill(fill),
  });
  const read = async (rsLora: boolean, modules: Map<string, ReturnType<typeof pair>>) => {
    const { sink, bytes } = collect();
    await writeGgufAdapter({ name: "a", config, adapter: { rsLora, modules } }, sink);
    const file = readGgufFile(sourceOf(bytes(), "a.gguf"));
    const values = (name: string) => {
      const { begin, size } = file.tensors.get(name)!;
      return decodeBlocks("F32", bytes().subarray(begin, begin + size));
    };
    return { ...file, values };
  };

  it("has the tensors' names in the base, their rank in lora_b, and one alpha for all scales", async () => {
    const modules = new Map([
      ["model.layers.0.self_attn.q_proj", pair(4, 8, 1)],
      ["model.layers.2.self_attn.o_proj", pair(2, 16, 3)],
    ]);
    const { metadata, tensors, values } = await read(false, modules);
    expect(Object.fromEntries([...metadata].map(([key, { value }]) => [key, value]))).toEqual({
      "general.architecture": "qwen2",
      "general.type": "adapter",
      "general.name": "a",
      "adapter.type": "lora",
      "adapter.lora.alpha": 8,
    });
    expect([...tensors].map(([name, { shape }]) => [name, shape])).toEqual([
      ["blk.0.attn_q.weight.lora_a", [4, 64]],
      ["blk.0.attn_q.weight.lora_b", [64, 4]],
      ["blk.2.attn_output.weight.lora_a", [2, 64]],
      ["blk.2.attn_output.weight.lora_b", [64, 2]],
    ]);
    // Scale 16 / 2 against llama.cpp's 8 / 2: B is doubled.
    expect(values("blk.2.attn_output.weight.lora_b")[0]).toBe(6);
    expect(values("blk.0.attn_q.weight.lora_b")[0]).toBe(1);
  });

  it("scaled by the root of its rank has that in its alpha", async () => {
    const { metadata } = await read(
      true,
      new Map([["model.layers.0.mlp.up_proj", { ...pair(4, 8, 1), out: 128, b: new Float32Array(512) }]]),
    );
    expect(metadata.get("adapter.lora.alpha")?.value).toBe(16); // 16 / 4 is 8 / sqrt(4).
  });

  it("is refused for DeepSeek, for what cannot be adapted, and empty", async () => {
    const { sink } = collect();
    const deepseek = {
      name: "a",
      config: fixture("deepseek-v3-tiny").config,
      adapter: { rsLora: false, modules: new Map() },
    };
    await expect(writeGgufAdapter(deepseek, sink)).rejects.toThrow("Merge the adapter and export the model.");
    await expect(read(false, new Map([["model.embed_tokens", pair(4, 8, 1)]]))).rejects.toThrow("cannot adapt");
    await expect(read(false, new Map())).rejects.toThrow("The adapter holds no weights.");
  });
});
