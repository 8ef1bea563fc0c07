// A checkpoint that was converted once opens as the tree that it would have been built into.

import { describe, expect, it } from "vitest";
import { type ByteSink, sourceOf, type Weights } from "../../src/formats/bytes.ts";
import { openSafetensors } from "../../src/formats/safetensors.ts";
import type { Model } from "../../src/models/decoder.ts";
import { conversionOf, openKept } from "../../src/models/keptWeights.ts";
import type { Storage } from "../../src/models/storage.ts";
import { disposeModel, initModel, loadModelFrom, namedTables, saveModel } from "../../src/models/weights.ts";
import { tensorsOf } from "../../src/models/storage.ts";
import { useBackend } from "../engine/harness.ts";
import { FAMILIES, type Family, tinyConfig } from "./tiny.ts";

const STORAGES: Storage[] = ["f32", "f16", "int8", "int4"];

/** Some matrices are of whole blocks, others are not. */
const SIZES: Record<Family, Record<string, unknown>> = {
  deepseek: { hidden_size: 64, q_lora_rank: 24, kv_lora_rank: 32, intermediate_size: 96, moe_intermediate_size: 32 },
  qwen2: { hidden_size: 64, head_dim: 16, intermediate_size: 40, tie_word_embeddings: false },
};

const config = (family: Family) => tinyConfig(family, SIZES[family]);

async function checkpoint(family: Family): Promise<Weights> {
  const model = initModel(config(family), 5);
  const bytes = await saveModel(model, "BF16");
  disposeModel(model);
  return openSafetensors([sourceOf(bytes, "model.safetensors")]);
}

/** Collects what is written behind the bytes that are there. */
function collector(there: Uint8Array = new Uint8Array()): ByteSink & { bytes(): Uint8Array } {
  const parts = [there];
  return {
    bytes: () => Uint8Array.from(parts.flatMap((part) => [...part])),
    async write(bytes) {
      parts.push(bytes.slice());
    },
  };
}

async function converted(weights: Weights, storage: Storage): Promise<Uint8Array> {
  const sink = collector();
  await conversionOf(weights, storage).write(sink);
  return sink.bytes();
}

/** The bits of every tensor of the tree. */
async function bitsOf(model: Model): Promise<[string, Uint8Array][]> {
  const bits: [string, Uint8Array][] = [];
  for (const { name, table } of namedTables(model)) {
    for (const tensor of tensorsOf(table)) {
      const { buffer, byteOffset, byteLength } = await tensor.data();
      bits.push([`${name} ${tensor.shape}`, new Uint8Array(buffer, byteOffset, byteLength).slice()]);
    }
  }
  disposeModel(model);
  return bits;
}

describe.each(FAMILIES)("%s", (family) => {
  useBackend("cpu");

  it.each(STORAGES)("kept as %s is the tree of the checkpoint stored so", async (storage) => {
    const weights = await checkpoint(family);
    const kept = openKept(sourceOf(await converted(weights, storage), "weights"), storage);
    expect([...kept.tensors.keys()].toSorted()).toEqual([...weights.tensors.keys()].toSorted());
    for (const [name, { shape }] of kept.tensors)
      expect([name, shape]).toEqual([name, weights.tensors.get(name)!.shape]);
    const direct = await bitsOf(loadModelFrom(config(family), weights, storage));
    expect(await bitsOf(loadModelFrom(config(family), kept, storage))).toEqual(direct);
  });

  it("is the same file when its conversion was interrupted", async () => {
    const weights = await checkpoint(family);
    const whole = await converted(weights, "int4");
    const conversion = conversionOf(weights, "int4");
    expect(conversion.size).toBe(whole.length);
    const written = Array.from({ length: 12 }, (_, i) => Math.floor((i * whole.length) / 11));
    for (const bytes of written) {
      const from = conversion.resumable(bytes);
      expect(from).toBeLessThanOrEqual(bytes);
      expect(conversion.resumable(from)).toBe(from);
      const sink = collector(whole.subarray(0, from));
      await conversion.write(sink, from);
      expect(Buffer.compare(sink.bytes(), whole)).toBe(0);
    }
    expect(conversion.resumable(whole.length)).toBe(whole.length);
    expect(conversion.resumable(3)).toBe(0);
  });
});

it("ends where its sink does", async () => {
  const write = () => Promise.reject(new Error("stop"));
  await expect(conversionOf(await checkpoint("qwen2"), "int8").write({ write })).rejects.toThrow("stop");
});

it("refuses a file that is cut off, and matrices that were kept small where they are wanted whole", async () => {
  const bytes = await converted(await checkpoint("qwen2"), "int4");
  expect(() => openKept(sourceOf(bytes.subarray(0, bytes.length - 1), "kept.safetensors"), "int4")).toThrow("cut off");
  const kept = openKept(sourceOf(bytes, "kept.safetensors"), "int4");
  expect(() => kept.read("model.embed_tokens.weight")).toThrow(
    "kept.safetensors keeps model.embed_tokens.weight small",
  );
});
