// A folder as a hub has it, or one .gguf, opened as one checkpoint.

import { readFileSync } from "node:fs";
import { describe, expect, it } from "vitest";
import { type ByteSource, sourceOf } from "../../src/formats/bytes.ts";
import { openCheckpoint } from "../../src/formats/checkpoint.ts";
import { writeGguf } from "../../src/formats/gguf.ts";

const FOLDER = "public/models/deepseek-nano";
const NAMES = ["config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"];

const file = (name: string): ByteSource => sourceOf(new Uint8Array(readFileSync(`${FOLDER}/${name}`)), name);
const text = (name: string, content: string): ByteSource => sourceOf(new TextEncoder().encode(content), name);
const folder = (...more: ByteSource[]): ByteSource[] => [
  ...NAMES.filter((name) => more.every((other) => other.name !== name)).map(file),
  ...more,
];
const without = (name: string): ByteSource[] => folder().filter((one) => one.name !== name);

describe("a checkpoint's folder", () => {
  it("is opened with what lies beside the weights, and other files are passed over", () => {
    const beside = [
      text("chat_template.jinja", "{{ messages }}"),
      text("generation_config.json", '{"eos_token_id":[1,2]}'),
    ];
    const { parts, config, weights, weightFiles } = openCheckpoint(folder(text("README.md", "# hello"), ...beside));
    expect(config).toMatchObject({ family: "deepseek", hiddenSize: 96 });
    expect(weights.tensors.get("model.embed_tokens.weight")).toMatchObject({ shape: [2048, 96] });
    expect(weightFiles.map(({ name }) => name)).toEqual(["model.safetensors"]);
    expect(parts).toMatchObject({ chatTemplate: "{{ messages }}", chatTemplateJson: null });
    expect(parts.generationConfig).toEqual({ eos_token_id: [1, 2] });
  });

  it.each([
    [
      "no config.json",
      without("config.json"),
      "The chosen files have no config.json. Choose the checkpoint's whole folder.",
    ],
    ["no tokenizer", without("tokenizer.json"), "The chosen files have no tokenizer.json."],
    ["no weights", without("model.safetensors"), "have no weights (.safetensors or .gguf)"],
    [
      "PyTorch's own weights",
      [...without("model.safetensors"), text("pytorch_model.bin", "PK")],
      "pytorch_model.bin holds weights in PyTorch's own format, which can run code and is not read.",
    ],
    ["a torn config", folder(text("config.json", '{"model_type"')), "config.json is not JSON"],
    ["another model", folder(text("config.json", '{"model_type":"llama"}')), 'model_type is "llama"; supported are'],
    ["text that is no UTF-8", folder(sourceOf(Uint8Array.of(0xff, 0xfe), "config.json")), "config.json is not JSON"],
  ])("with %s is told so", (_, files, sentence) => {
    expect(() => openCheckpoint(files)).toThrow(sentence);
  });
});

describe("a .gguf", () => {
  async function gguf(): Promise<ByteSource> {
    const { parts, config, weights } = openCheckpoint(folder());
    const pieces: Uint8Array[] = [];
    const sink = { write: async (bytes: Uint8Array) => void pieces.push(bytes.slice()) };
    const { tokenizer, tokenizerConfig } = parts;
    await writeGguf({ config, tokenizer, tokenizerConfig, tensors: weights, name: "nano" }, "F32", sink);
    return sourceOf(new Uint8Array(Buffer.concat(pieces)), "nano.gguf");
  }

  it("is opened as the checkpoint that it was made of", async () => {
    const source = await gguf();
    const found = openCheckpoint([source]);
    const wanted = openCheckpoint(folder());
    expect({ ...found.config, extra: {} }).toMatchObject({ family: "deepseek", numHiddenLayers: 5, vocabSize: 2048 });
    for (const [name, { shape }] of wanted.weights.tensors) {
      expect([name, found.weights.tensors.get(name)?.shape]).toEqual([name, shape]);
    }
    const name = "model.layers.1.self_attn.kv_b_proj.weight";
    expect(found.weights.read(name)).toEqual(wanted.weights.read(name));
  });

  it("stands alone", async () => {
    const source = await gguf();
    expect(() => openCheckpoint([source, text("b.gguf", "GGUF")])).toThrow("Choose one .gguf file alone");
    expect(() => openCheckpoint([source, file("model.safetensors")])).toThrow("cannot be opened together");
  });
});
