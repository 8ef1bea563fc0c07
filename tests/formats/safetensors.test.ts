import { existsSync, readdirSync, readFileSync } from "node:fs";
import * as fc from "fast-check";
import { describe, expect, it } from "vitest";
import {
  type Dtype,
  decodeToFloat32,
  encodeFloat32,
  readIndex,
  readMetadata,
  readSafetensors,
  type TensorToWrite,
  writeSafetensors,
} from "../../src/formats/safetensors.ts";

const BYTES: Record<string, number> = { U8: 1, I16: 2, F16: 2, BF16: 2, F32: 4, I64: 8 };

const tensor = fc
  .tuple(
    fc.string({ unit: "binary" }).filter((name) => name !== "__metadata__"),
    fc.constantFrom("U8", "I16", "F16", "BF16", "F32", "I64"),
    fc.array(fc.nat(3), { maxLength: 3 }),
  )
  .chain(([name, dtype, shape]) => {
    const size = shape.reduce((product, n) => product * n, 1) * BYTES[dtype];
    return fc
      .uint8Array({ minLength: size, maxLength: size })
      .map((data): TensorToWrite => ({ name, dtype: dtype as Dtype, shape, data }));
  });
const tensors = fc.uniqueArray(tensor, { selector: ({ name }) => name, maxLength: 6 });

/** A file from a header as text and the bytes of its data. */
function file(header: string, dataSize: number): Uint8Array {
  const json = new TextEncoder().encode(header);
  const bytes = new Uint8Array(8 + json.length + dataSize);
  new DataView(bytes.buffer).setBigUint64(0, BigInt(json.length), true);
  bytes.set(json, 8);
  return bytes;
}

const entry = (begin: number, end: number, size = end - begin): string =>
  `{"dtype":"U8","shape":[${size}],"data_offsets":[${begin},${end}]}`;

function encode(dtype: "F16" | "BF16", ...values: number[]): number[] {
  return [...new Uint16Array(encodeFloat32(Float32Array.from(values), dtype).buffer)];
}

/** The array's bytes at an odd place of a buffer. */
function shifted(array: ArrayBufferView): Uint8Array {
  const bytes = new Uint8Array(array.byteLength + 1).subarray(1);
  bytes.set(new Uint8Array(array.buffer));
  return bytes;
}

describe("a written file", () => {
  it("reads back as the same tensors, in whatever buffer it lies", () => {
    fc.assert(
      fc.property(tensors, fc.nat(7), (all, shift) => {
        const written = writeSafetensors(all);
        const moved = new Uint8Array(written.length + shift).subarray(shift);
        moved.set(written);
        const read = [...readSafetensors(moved)].map(([name, { dtype, shape, data }]) => [
          name,
          dtype,
          shape,
          [...data],
        ]);
        const wanted = all.map(({ name, dtype, shape, data }) => [name, dtype, shape, [...data]]);
        expect(new Set(read.map((row) => JSON.stringify(row)))).toEqual(
          new Set(wanted.map((row) => JSON.stringify(row))),
        );
      }),
    );
  });

  it("begins each tensor at a multiple of its type's size", () => {
    fc.assert(
      fc.property(tensors, (all) => {
        const read = [...readSafetensors(writeSafetensors(all)).values()];
        expect(read.every(({ dtype, data }) => data.byteOffset % BYTES[dtype] === 0)).toBe(true);
      }),
    );
  });

  it("says that its format is PyTorch's, beside what it is given", () => {
    expect(readMetadata(writeSafetensors([], { step: "3" }))).toEqual({ format: "pt", step: "3" });
  });

  it("is refused for two tensors of one name, and for too few bytes", () => {
    const one = { name: "a", dtype: "F32" as const, shape: [1], data: new Uint8Array(4) };
    expect(() => writeSafetensors([one, one])).toThrow('Two tensors are called "a"');
    expect(() => writeSafetensors([{ ...one, shape: [2] }])).toThrow('"a", F32 [2], takes 8 bytes and 4 were given');
  });
});

describe("a damaged file is refused in a sentence:", () => {
  it.each([
    ["cut off before the header", new Uint8Array(3), /at least 8 bytes and this one 3/],
    ["a huge header", Uint8Array.from([1, 2, 3, 4, 5, 6, 7, 8]), /no safetensors file/],
    ["cut off in the header", file("{}", 0).subarray(0, 9), /should have 2 bytes and only 1/],
    ["no JSON", file("{a}", 0), /no JSON/],
    ["no UTF-8", file("{}", 0).map((byte, i) => (i === 8 ? 0xff : byte)), /no JSON/],
    ["not an object", file("[1]", 0), /JSON object and is \[1\]/],
    ["spaces before the header", file(" {}", 0), /JSON object/],
    ["one name twice", file(`{"a":${entry(0, 1)},"a":${entry(0, 1)}}`, 1), /names "a" twice/],
    [
      "one name twice, spelled differently",
      file(`{"a":${entry(0, 1)},"\\u0061":${entry(0, 1)}}`, 1),
      /names "a" twice/,
    ],
    ["an overlap", file(`{"a":${entry(0, 2)},"b":${entry(1, 3)}}`, 3), /"b" overlaps "a"/],
    ["a hole", file(`{"a":${entry(0, 1)},"b":${entry(2, 3)}}`, 3), /1 bytes before "b" belong to no tensor/],
    ["bytes left over", file(`{"a":${entry(0, 1)}}`, 3), /2 bytes at the end belong to no tensor/],
    ["data cut off", file(`{"a":${entry(0, 4)}}`, 3), /should lie within the 3 bytes/],
    ["offsets the wrong way round", file(`{"a":${entry(2, 1, 1)}}`, 2), /said to be at \[2,1\]/],
    ["another size than the shape's", file(`{"a":${entry(0, 2, 3)}}`, 2), /"a", U8 \[3\], takes 3 bytes and has 2/],
    ["an unknown type", file('{"a":{"dtype":"F6","shape":[],"data_offsets":[0,1]}}', 1), /type "F6"; one of BOOL/],
    ["a broken shape", file('{"a":{"dtype":"U8","shape":[1.5],"data_offsets":[0,1]}}', 1), /the shape \[1.5\]/],
    ["a shape past counting", file('{"a":{"dtype":"U8","shape":[9e15,9],"data_offsets":[0,1]}}', 1), /the shape/],
    ["metadata that are no texts", file('{"__metadata__":{"n":1}}', 0), /__metadata__ should map names to texts/],
  ])("%s", (_, bytes, message) => {
    expect(() => readSafetensors(bytes)).toThrow(message);
  });

  it("never in another way, whichever byte is wrong", () => {
    const good = writeSafetensors([
      { name: "layer.weight", dtype: "F32", shape: [2, 3], data: new Uint8Array(24) },
      { name: "layer.bias", dtype: "F16", shape: [3], data: new Uint8Array(6) },
    ]);
    fc.assert(
      fc.property(fc.nat(good.length - 1), fc.nat(255), fc.boolean(), (at, value, cut) => {
        const bad = cut ? good.slice(0, at) : good.map((byte, i) => (i === at ? value : byte));
        try {
          readSafetensors(bad);
        } catch (error) {
          expect((error as Error).constructor).toBe(Error); // A sentence of ours, no TypeError or RangeError.
          expect((error as Error).message).toMatch(/\.$/);
        }
      }),
      { numRuns: 2000 },
    );
  });

  it("but empty tensors, scalars and files without tensors are as good as any", () => {
    const header = `{"e":${entry(1, 1)},"s":{"dtype":"U8","shape":[],"data_offsets":[0,1]}}  `;
    expect(readSafetensors(file(header, 1)).get("e")?.data).toHaveLength(0);
    expect(readSafetensors(file("{}", 0)).size).toBe(0);
  });
});

describe("16-bit floats", () => {
  const everyPattern = Uint16Array.from({ length: 65_536 }, (_, bits) => bits);

  it.each(["F16", "BF16"] as const)("%s: every pattern decodes and encodes to itself, NaN to a NaN", (dtype) => {
    const values = decodeToFloat32(dtype, new Uint8Array(everyPattern.buffer));
    const back = new Uint16Array(encodeFloat32(values, dtype).buffer);
    const wrong = everyPattern.filter((bits, i) =>
      Number.isNaN(values[i])
        ? !Number.isNaN(decodeToFloat32(dtype, new Uint8Array(back.slice(i, i + 1).buffer))[0])
        : back[i] !== bits,
    );
    expect([...wrong]).toEqual([]);
  });

  it.each([
    ["F16", 0x3c00, 1, 1 + 2 ** -10],
    ["F16", 0x0001, 2 ** -24, 2 ** -23], // Subnormal.
    ["F16", 0x03ff, 1023 * 2 ** -24, 2 ** -14], // Where subnormals end.
    ["BF16", 0x3f80, 1, 1 + 2 ** -7],
  ] as const)(
    "%s: between two neighbours the nearer wins, a tie goes to the even one (%d)",
    (dtype, bits, low, high) => {
      const middle = (low + high) / 2;
      const nudge = (high - low) / 64;
      const even = bits % 2 === 0 ? bits : bits + 1;
      expect(encode(dtype, middle - nudge, middle, middle + nudge, -middle)).toEqual([
        bits,
        even,
        bits + 1,
        even | 0x8000,
      ]);
    },
  );

  it("round to the nearest of all float16 values", () => {
    const sorted = decodeToFloat32("F16", new Uint8Array(everyPattern.slice(0, 0x7c00).buffer));
    fc.assert(
      fc.property(fc.float({ min: 0, max: 65_504, noNaN: true }), (value) => {
        const [bits] = encode("F16", value);
        const error = Math.abs(sorted[bits] - value);
        expect(error).toBeLessThanOrEqual(Math.abs((sorted[bits + 1] ?? Infinity) - value));
        expect(error).toBeLessThanOrEqual(Math.abs((sorted[bits - 1] ?? -Infinity) - value));
      }),
    );
  });

  it("refuse a finite value beyond them and keep infinities", () => {
    expect(() => encode("F16", 65_520)).toThrow("The value 65520 does not fit F16. Store these weights as F32.");
    expect(() => encode("BF16", 3.4e38)).toThrow("does not fit BF16");
    expect(encode("F16", 65_519, Infinity, -Infinity)).toEqual([0x7bff, 0x7c00, 0xfc00]);
  });
});

it("decodes other types by value, from any offset", () => {
  expect([...decodeToFloat32("F64", shifted(Float64Array.of(0.1, -2)))]).toEqual([Math.fround(0.1), -2]);
  expect([...decodeToFloat32("I32", shifted(Int32Array.of(-7, 9)))]).toEqual([-7, 9]);
  expect([...decodeToFloat32("I64", shifted(BigInt64Array.of(-7n)))]).toEqual([-7]);
  expect([...decodeToFloat32("I8", Uint8Array.of(255))]).toEqual([-1]);
  expect([...decodeToFloat32("F32", shifted(Float32Array.of(1.5)))]).toEqual([1.5]);
  // Node's small buffers lie in one shared buffer.
  expect([...decodeToFloat32("F32", Buffer.from(new Uint8Array(Float32Array.of(2.5).buffer)))]).toEqual([2.5]);
  expect(() => decodeToFloat32("F8_E4M3", Uint8Array.of(1))).toThrow("Weights of type F8_E4M3 cannot be read");
  expect(() => decodeToFloat32("F32", Uint8Array.of(1))).toThrow("1 bytes are no whole number of F32 values");
});

describe("the reference checkpoints", () => {
  const models = readdirSync("tests/fixtures").filter((name) => existsSync(`tests/fixtures/${name}/config.json`));

  it.each(models)("%s: written again, its tensors are the same bytes", (model) => {
    const folder = `tests/fixtures/${model}`;
    for (const name of readdirSync(folder).filter((each) => each.endsWith(".safetensors"))) {
      const tensors = readSafetensors(readFileSync(`${folder}/${name}`));
      const again = readSafetensors(writeSafetensors([...tensors].map(([name, stored]) => ({ name, ...stored }))));
      expect(tensors.size).toBeGreaterThan(0);
      for (const [name, { dtype, shape, data }] of tensors) {
        const copy = again.get(name);
        expect([copy?.dtype, copy?.shape]).toEqual([dtype, shape]);
        expect(Buffer.from(copy!.data).equals(data)).toBe(true);
      }
    }
  });

  it("in two files: the index says which tensor is where", () => {
    const folder = "tests/fixtures/qwen2-tiny-bf16";
    const { fileOf, files } = readIndex(JSON.parse(readFileSync(`${folder}/model.safetensors.index.json`, "utf8")));
    expect(files).toEqual(["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]);
    for (const name of files) {
      const here = [...fileOf].filter(([, file]) => file === name).map(([tensor]) => tensor);
      expect([...readSafetensors(readFileSync(`${folder}/${name}`)).keys()].toSorted()).toEqual(here.toSorted());
    }
  });
});

describe("an index is refused", () => {
  it.each([
    [{}, /should have a "weight_map" from tensors to files and has nothing/],
    [{ weight_map: { a: 1 } }, /puts "a" into 1/],
    [{ weight_map: { a: "../b.safetensors" } }, /the name of a .safetensors file is wanted/],
  ])("when it is %j", (json, message) => {
    expect(() => readIndex(json)).toThrow(message);
  });
});
