import * as fc from "fast-check";
import { describe, expect, it } from "vitest";
import { sourceOf } from "../../src/formats/bytes.ts";
import { BLOCKS, type BlockType, bytesOf } from "../../src/formats/ggufBlocks.ts";
import {
  type GgufTensorToWrite,
  type Metadata,
  type MetadataValue,
  readGgufFile,
  writeGgufFile,
} from "../../src/formats/ggufFile.ts";
import { collect } from "./collect.ts";

async function written(metadata: Metadata, tensors: GgufTensorToWrite[] = []): Promise<Uint8Array> {
  const { sink, bytes } = collect();
  await writeGgufFile(metadata, tensors, sink);
  return bytes();
}

const read = (bytes: Uint8Array) => readGgufFile(sourceOf(bytes, "x.gguf"));

const word = fc.string({ unit: "grapheme", maxLength: 12 });
const u64 = fc.bigInt({ min: 0n, max: 2n ** 64n - 1n });
const i64 = fc.bigInt({ min: -(2n ** 63n), max: 2n ** 63n - 1n });
const numbers = {
  u8: [fc.integer({ min: 0, max: 255 }), Uint8Array],
  i8: [fc.integer({ min: -128, max: 127 }), Int8Array],
  u16: [fc.integer({ min: 0, max: 65_535 }), Uint16Array],
  i16: [fc.integer({ min: -32_768, max: 32_767 }), Int16Array],
  u32: [fc.integer({ min: 0, max: 2 ** 32 - 1 }), Uint32Array],
  i32: [fc.integer({ min: -(2 ** 31), max: 2 ** 31 - 1 }), Int32Array],
  f32: [fc.float(), Float32Array],
  f64: [fc.double(), Float64Array],
} as const;
/** Values and lists of every type that metadata have. */
const values: fc.Arbitrary<MetadataValue>[] = [
  ...Object.entries(numbers).flatMap(([type, [number, list]]) => [
    (number as fc.Arbitrary<number>).map((value) => ({ type, value }) as MetadataValue),
    fc
      .array(number as fc.Arbitrary<number>)
      .map((all) => ({ type: "array", of: type, value: list.from(all) }) as MetadataValue),
  ]),
  u64.map((value) => ({ type: "u64", value })),
  i64.map((value) => ({ type: "i64", value })),
  fc.array(u64).map((all) => ({ type: "array", of: "u64", value: BigUint64Array.from(all) })),
  fc.array(i64).map((all) => ({ type: "array", of: "i64", value: BigInt64Array.from(all) })),
  fc.boolean().map((value) => ({ type: "bool", value })),
  fc.array(fc.boolean()).map((value) => ({ type: "array", of: "bool", value })),
  word.map((value) => ({ type: "string", value })),
  fc.array(word).map((value) => ({ type: "array", of: "string", value })),
];
const metadata = fc
  .uniqueArray(fc.tuple(word, fc.oneof(...values)), { selector: ([key]) => key })
  .map((entries) => new Map(entries.filter(([key]) => key !== "general.alignment")));

const tensor = fc
  .record({
    name: fc.string({ maxLength: 30 }),
    type: fc.constantFrom(...(Object.keys(BLOCKS) as BlockType[])),
    outer: fc.array(fc.integer({ min: 0, max: 3 }), { maxLength: 3 }),
    blocks: fc.nat(2),
    fill: fc.nat(255),
  })
  .map(({ name, type, outer, blocks, fill }) => {
    const shape = [...outer, blocks * BLOCKS[type].values];
    const data = new Uint8Array(
      bytesOf(
        type,
        shape.reduce((product, size) => product * size, 1),
      ),
    ).fill(fill);
    return { name, type, shape, data };
  });

const toWrite = (all: { name: string; type: BlockType; shape: number[]; data: Uint8Array }[]) =>
  all.map(({ data, ...rest }) => ({ ...rest, pieces: () => [data.subarray(0, 5), data.subarray(5)] }));

describe("a written file", () => {
  it("reads back with every type of metadata and tensor", async () => {
    await fc.assert(
      fc.asyncProperty(metadata, fc.uniqueArray(tensor, { selector: ({ name }) => name }), async (entries, all) => {
        const bytes = await written(entries, toWrite(all));
        const file = read(bytes);
        expect(file.metadata).toEqual(entries);
        expect([...file.tensors.keys()]).toEqual(all.map(({ name }) => name));
        for (const { name, type, shape, data } of all) {
          const found = file.tensors.get(name)!;
          expect([found.type, found.shape, found.begin % 32]).toEqual([type, shape, 0]);
          expect(bytes.subarray(found.begin, found.begin + found.size)).toEqual(data);
        }
      }),
    );
  });

  it("is, byte by byte, what the format says", async () => {
    const entries: Metadata = new Map([["a", { type: "u32", value: 7 }]]);
    const data = Uint8Array.of(0, 0, 0x80, 0x3f, 0, 0, 0, 0x40); // 1, 2
    const bytes = await written(entries, [{ name: "t", type: "F32", shape: [1, 2], pieces: () => [data] }]);
    expect(
      Buffer.from(bytes)
        .toString("hex")
        .match(/.{1,16}/g),
    ).toEqual([
      "4747554603000000", // GGUF, version 3
      "0100000000000000", // one tensor
      "0100000000000000", // one entry
      "0100000000000000", // of a name of one byte
      "6104000000070000", // a, u32, 7
      "0001000000000000", //     the name of one byte
      "0074020000000200", // t of two axes, the inner one 2
      "0000000000000100", //     the outer one 1
      "0000000000000000", //     F32
      "0000000000000000", //     at the beginning of the data
      "0000000000000000", // up to a multiple of 32
      "0000000000000000",
      "0000803f00000040",
      "0000000000000000",
      "0000000000000000",
      "0000000000000000",
    ]);
  });

  it("is refused for a name that llama.cpp cannot hold, and for bytes that are no whole tensor", async () => {
    const one = { type: "F32" as const, shape: [2], pieces: () => [new Uint8Array(8)] };
    await expect(written(new Map(), [{ ...one, name: "n".repeat(64) }])).rejects.toThrow("longer than the 63 bytes");
    await expect(written(new Map(), [{ ...one, name: "t", shape: [3] }])).rejects.toThrow(
      '"t", F32 [3], takes 12 bytes and 8 were written.',
    );
  });
});

/** Pieces of a header. */
const bytesOfNumbers = (...list: (number | bigint | string)[]) =>
  Buffer.concat(
    list.map((each) => {
      if (typeof each === "number") return Buffer.from(Uint32Array.of(each).buffer);
      if (typeof each === "bigint") return Buffer.from(BigUint64Array.of(each).buffer);
      return Buffer.concat([Buffer.from(BigUint64Array.of(BigInt(each.length)).buffer), Buffer.from(each)]);
    }),
  );
const header = (tensors: bigint, entries: bigint, ...rest: (number | bigint | string)[]) =>
  new Uint8Array(bytesOfNumbers(0x46554747, 3, tensors, entries, ...rest));
const long = 2n ** 62n;

describe("a damaged file is refused in a sentence:", () => {
  it.each([
    ["too short", Uint8Array.of(1), /has 1 bytes and should have at least 4/],
    ["something else", new Uint8Array(64), /does not begin with "GGUF"/],
    ["version 1", new Uint8Array(bytesOfNumbers(0x46554747, 1, 0n, 0n)), /of version 1, and GGUF of version 2 or 3/],
    ["the other order of bytes", new Uint8Array(bytesOfNumbers(0x46554747, 0x03000000, 0n, 0n)), /another kind of/],
    ["a count beyond counting", header(long, 0n), /impossible count/],
    ["more entries than fit", header(0n, 1_000_000n), /1000000 entries of metadata, which its 24 bytes cannot hold/],
    ["more tensors than fit", header(1_000_000n, 0n), /1000000 tensors, which/],
    ["a longer text than the file", header(0n, 1n, 1000n, 0n), /has 40 bytes and should have at least 1032/],
    ["a list longer than the file", header(0n, 1n, "key", 9, 8, 1_000_000n), /1000000 texts in "key", which/],
    ["numbers beyond the file", header(0n, 1n, "key", 9, 4, 1_000_000n), /should have at least 4000051/],
    ["lists in lists", header(0n, 1n, "key", 9, 9, 0n), /arrays within the array "key"/],
    ["an unknown value", header(0n, 1n, "key", 13, 0n), /"key" a value of the unknown type 13/],
    ["one key twice", header(0n, 2n, "key", 4, 1, "key", 4, 1), /names "key" twice/],
    ["an odd alignment", header(0n, 1n, "general.alignment", 4, 24), /general.alignment 24, and a power of two/],
    ["no axes", header(1n, 0n, "t", 0, 0, 0n, 0n), /gives "t" 0 axes/],
    ["too many axes", header(1n, 0n, "t", 5, 0, 0n, 0n), /gives "t" 5 axes/],
    ["an unread type", header(1n, 0n, "t", 1, 256n, 10, 0n), /"t" is stored as Q2_K; supported are F32, F16, Q4_0/],
    ["an unknown type", header(1n, 0n, "t", 1, 256n, 99, 0n), /"t" is stored as type 99/],
    ["part of a block", header(1n, 0n, "t", 1, 33n, 8, 0n), /"t", Q8_0, the shape \[33\], which is no whole number/],
    ["a shape beyond counting", header(1n, 0n, "t", 2, 2n ** 50n, 2n ** 50n, 0, 0n), /no whole number of blocks/],
    ["data cut off", header(1n, 0n, "t", 1, 8n, 0, 0n), /should hold "t" up to byte 96 and has 57 bytes/],
    ["a hole", header(1n, 0n, "t", 1, 8n, 0, 32n), /puts "t" at 32 of the data, and 0 is where it belongs/],
    ["an overlap", header(2n, 0n, "t", 1, 0n, 0, 0n, "u", 1, 8n, 0, 64n, 0n), /puts "u" at 64 of the data, and 0 is/],
    ["one tensor twice", header(2n, 0n, "t", 1, 0n, 0, 0n, "t", 1, 0n, 0, 0n, 0n), /names the tensor "t" twice/],
    ["no UTF-8", header(0n, 1n, 1n, 0xff, 0, 0), /a text that is no UTF-8/],
  ])("%s", (_, bytes, message) => {
    expect(() => read(bytes)).toThrow(message);
    expect(() => read(bytes)).toThrow(/\.$/);
  });

  it("never in another way, whichever byte is wrong", async () => {
    const good = await written(
      new Map<string, MetadataValue>([
        ["general.architecture", { type: "string", value: "qwen2" }],
        ["list", { type: "array", of: "string", value: ["a", "bc"] }],
        ["count", { type: "u64", value: 3n }],
      ]),
      toWrite([
        { name: "a.weight", type: "Q8_0", shape: [2, 32], data: new Uint8Array(68) },
        { name: "b", type: "F32", shape: [3], data: new Uint8Array(12) },
      ]),
    );
    fc.assert(
      fc.property(fc.nat(good.length - 1), fc.nat(255), fc.boolean(), (at, value, cut) => {
        const bad = cut ? good.slice(0, at) : good.map((byte, i) => (i === at ? value : byte));
        try {
          read(bad);
        } catch (error) {
          expect((error as Error).constructor).toBe(Error);
          expect((error as Error).message).toMatch(/\.$/);
        }
      }),
      { numRuns: 3000 },
    );
  });
});
