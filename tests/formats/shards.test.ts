import { readdirSync, readFileSync } from "node:fs";
import * as fc from "fast-check";
import { describe, expect, it } from "vitest";
import { type ByteSource, sourceOf } from "../../src/formats/bytes.ts";
import { decodeToFloat32, encodeFloat32 } from "../../src/formats/numbers.ts";
import {
  openSafetensors,
  packSafetensors,
  readSafetensors,
  type TensorToWrite,
  writeSafetensors,
} from "../../src/formats/safetensors.ts";
import { splitIntoShards } from "../../src/formats/shards.ts";
import { anyTensors, memorySink, streamed } from "./checkpointFiles.ts";

function bytesTensor(name: string, size: number): TensorToWrite {
  return { name, dtype: "U8", shape: [size], data: new Uint8Array(size).fill(size) };
}

async function written(tensors: TensorToWrite[], mostBytes: number): Promise<{ files: ByteSource[]; index: unknown }> {
  const { shards, index } = splitIntoShards(tensors, mostBytes);
  const files: ByteSource[] = [];
  for (const { file, tensors: own } of shards) {
    const sink = memorySink();
    await writeSafetensors(
      own.map((tensor) => streamed(tensor, 0)),
      sink,
    );
    files.push(sourceOf(sink.bytes(), file));
  }
  return { files, index: index ? JSON.parse(JSON.stringify(index)) : undefined };
}

describe("tensors split into files", () => {
  it("read back as they were, however much a file may hold and in whatever order files are chosen", async () => {
    await fc.assert(
      fc.asyncProperty(anyTensors, fc.integer({ min: 1, max: 200 }), async (tensors, mostBytes) => {
        const { files, index } = await written(tensors, mostBytes);
        const weights = openSafetensors(files.toReversed(), index);
        expect([...weights.tensors.keys()].toSorted()).toEqual(tensors.map(({ name }) => name).toSorted());
        for (const { name, dtype, shape, data } of tensors) {
          expect(weights.tensors.get(name)).toMatchObject({ dtype, shape });
          expect(weights.read(name)).toEqual(decodeToFloat32(dtype, data));
        }
      }),
    );
  });

  it("fill each file as far as it may be, in their order", () => {
    fc.assert(
      fc.property(fc.array(fc.nat(9), { minLength: 1 }), fc.integer({ min: 1, max: 12 }), (sizes, mostBytes) => {
        const tensors = sizes.map((size, i) => bytesTensor(String(i), size));
        const { shards } = splitIntoShards(tensors, mostBytes);
        expect(shards.flatMap((shard) => shard.tensors)).toEqual(tensors);
        const held = shards.map((shard) => shard.tensors.reduce((sum, { data }) => sum + data.length, 0));
        shards.forEach((shard, i) => {
          const full = shard.tensors.filter(({ data }) => data.length > 0);
          expect(held[i] <= mostBytes || full.length === 1).toBe(true);
          if (i > 0) expect(held[i - 1] + shard.tensors[0].data.length).toBeGreaterThan(mostBytes);
        });
      }),
    );
  });

  it("have Hugging Face's names and index", () => {
    const tensors = [bytesTensor("a", 3), bytesTensor("b", 2), bytesTensor("c", 9), bytesTensor("d", 1)];
    const { shards, index } = splitIntoShards(tensors, 5);
    expect(shards.map(({ file, tensors: own }) => [file, own.map(({ name }) => name).join()])).toEqual([
      ["model-00001-of-00003.safetensors", "a,b"],
      ["model-00002-of-00003.safetensors", "c"],
      ["model-00003-of-00003.safetensors", "d"],
    ]);
    expect(index).toEqual({
      metadata: { total_size: 15 },
      weight_map: {
        a: "model-00001-of-00003.safetensors",
        b: "model-00001-of-00003.safetensors",
        c: "model-00002-of-00003.safetensors",
        d: "model-00003-of-00003.safetensors",
      },
    });
  });

  it("are refused if two of them have one name, in whatever files they would be", () => {
    const tensors = [bytesTensor("a", 3), bytesTensor("b", 3), bytesTensor("a", 3)];
    expect(() => splitIntoShards(tensors, 3)).toThrow('Two tensors are called "a". Give each its own name.');
  });

  it("are one file without an index if one holds them all", () => {
    const tensors = [bytesTensor("a", 3)];
    expect(splitIntoShards(tensors, 3)).toEqual({ shards: [{ file: "model.safetensors", tensors }], index: null });
    expect(splitIntoShards([], 3)).toEqual({ shards: [{ file: "model.safetensors", tensors: [] }], index: null });
  });
});

describe("the reference checkpoint in two files", () => {
  const folder = "tests/fixtures/qwen2-tiny-bf16";
  const index: unknown = JSON.parse(readFileSync(`${folder}/model.safetensors.index.json`, "utf8"));
  const files = readdirSync(folder)
    .filter((name) => name.startsWith("model-"))
    .map((name) => sourceOf(readFileSync(`${folder}/${name}`), name));

  it("holds what the same model in one file does, rounded to bfloat16", () => {
    const weights = openSafetensors(files, index);
    const name = "tests/fixtures/qwen2-tiny/model.safetensors";
    const whole = openSafetensors([sourceOf(readFileSync(name), name)]);
    expect(weights.tensors.size).toBe(whole.tensors.size);
    for (const [tensor, { shape }] of whole.tensors) {
      expect(weights.tensors.get(tensor)).toMatchObject({ dtype: "BF16", shape });
      expect(weights.read(tensor)).toEqual(decodeToFloat32("BF16", encodeFloat32(whole.read(tensor), "BF16")));
    }
  });

  it("is split again in the same way", () => {
    const tensors = files.flatMap((file) => [...readSafetensors(file.read(0, file.size))]);
    const bytes = files.map((file) => [...readSafetensors(file.read(0, file.size)).values()]);
    const mostBytes = Math.max(...bytes.map((own) => own.reduce((sum, { data }) => sum + data.length, 0)));
    const again = splitIntoShards(
      tensors.map(([name, stored]) => ({ name, ...stored })),
      mostBytes,
    );
    expect(again.index).toEqual(index);
  });
});

describe("files that do not belong together are refused in a sentence:", () => {
  const [A, B, C] = [1, 2, 3].map((n) => `model-0000${n}-of-00003.safetensors`);
  const file = (name: string, ...tensors: string[]) =>
    sourceOf(packSafetensors(tensors.map((tensor) => bytesTensor(tensor, 2))), name);
  const good = [file(A, "a"), file(B, "b"), file(C, "c")];
  const index = { weight_map: { a: A, b: B, c: C } };
  const cut = good[1].read(0, good[1].size - 1);
  const INDEX = "model.safetensors.index.json";

  it.each<[string, ByteSource[], unknown, string]>([
    [
      "none",
      [],
      undefined,
      `0 files of weights were chosen; one is wanted, or several with their ${INDEX}. Choose the whole folder.`,
    ],
    [
      "several without an index",
      good,
      undefined,
      `3 files of weights were chosen; one is wanted, or several with their ${INDEX}. Choose the whole folder.`,
    ],
    [
      "one of several without an index",
      [good[0]],
      undefined,
      `${A} is one of 3 files. Choose all of them and their ${INDEX}.`,
    ],
    [
      "one missing",
      good.slice(1),
      index,
      `The index names 3 files, and 1 of them are missing, the first ${A}. Choose all of them.`,
    ],
    [
      "another one",
      [...good, file("adapter_model.safetensors", "d")],
      index,
      "adapter_model.safetensors is not among the 3 files that the index names. Choose the checkpoint's own.",
    ],
    ["one twice", [...good, good[0]], index, `Two chosen files are called ${A}. Choose the files of one folder.`],
    [
      "two swapped",
      [file(A, "b"), file(B, "a"), good[2]],
      index,
      `${A} holds "b", which the index has in ${B}. Choose files that were fetched together, under their own names.`,
    ],
    [
      "one of another checkpoint",
      [good[0], file(B, "b", "z"), good[2]],
      index,
      `${B} holds "z", which the index has nowhere. Choose files that were fetched together, under their own names.`,
    ],
    [
      "one that lacks a tensor",
      [good[0], file(B), good[2]],
      index,
      `${B} should hold "b", as the index says, and does not. Choose files that were fetched together, under their own names.`,
    ],
    [
      "one tensor in two files",
      [good[0], file(B, "b", "a"), good[2]],
      index,
      `${B} holds "a", which the index has in ${A}. Choose files that were fetched together, under their own names.`,
    ],
    [
      "one cut off",
      [good[0], sourceOf(cut, B), good[2]],
      index,
      `${B} should have ${cut.length + 1} bytes and has ${cut.length}: it is cut off. Fetch or export the file again.`,
    ],
    [
      "an index without a map",
      good,
      {},
      `The index should have a "weight_map" from tensors to files and has nothing. Choose the checkpoint's own ${INDEX}.`,
    ],
    [
      "an index that is none",
      good,
      null,
      `The index should have a "weight_map" from tensors to files and has nothing. Choose the checkpoint's own ${INDEX}.`,
    ],
    [
      "an empty index",
      good,
      { weight_map: {} },
      `The index should have a "weight_map" from tensors to files and has {}. Choose the checkpoint's own ${INDEX}.`,
    ],
    [
      "an index to no file",
      good,
      { weight_map: { a: 1 } },
      `The index puts "a" into 1; the name of a .safetensors file is wanted. Choose the checkpoint's own ${INDEX}.`,
    ],
    [
      "an index out of its folder",
      good,
      { weight_map: { a: "../b.safetensors" } },
      `The index puts "a" into "../b.safetensors"; the name of a .safetensors file is wanted. Choose the checkpoint's own ${INDEX}.`,
    ],
  ])("%s", (_, files, json, message) => {
    expect(() => openSafetensors(files, json)).toThrow(new Error(message));
  });

  it("an index of one file is as good as none", () => {
    const name = "model.safetensors";
    expect(openSafetensors([file(name, "a")], { weight_map: { a: name } }).tensors.size).toBe(1);
  });
});
