import { existsSync, readdirSync, readFileSync } from "node:fs";
import * as fc from "fast-check";
import { describe, expect, it } from "vitest";
import { sourceOf } from "../../src/formats/bytes.ts";
import { DTYPE_BYTES, decodeToFloat32 } from "../../src/formats/numbers.ts";
import {
  openSafetensors,
  packSafetensors,
  readSafetensors,
  type TensorToWrite,
  writeSafetensors,
} from "../../src/formats/safetensors.ts";
import { anyTensors, entry, fileOf, memorySink, streamed, watched } from "./checkpointFiles.ts";

/** What can be compared, in the order of names. */
function listed(tensors: TensorToWrite[]) {
  return tensors
    .map(({ name, dtype, shape, data }) => ({ name, dtype, shape, data: Buffer.from(data).toString("hex") }))
    .toSorted((a, b) => (a.name < b.name ? -1 : 1));
}

function reread(bytes: Uint8Array): TensorToWrite[] {
  return [...readSafetensors(bytes)].map(([name, stored]) => ({ name, ...stored }));
}

function headerOf(bytes: Uint8Array): Record<string, unknown> {
  const length = Number(new DataView(bytes.buffer).getBigUint64(0, true));
  return JSON.parse(new TextDecoder().decode(bytes.subarray(8, 8 + length)));
}

const one: TensorToWrite = { name: "a", dtype: "F32", shape: [1], data: new Uint8Array(4) };

describe("a written file", () => {
  it("reads back as the same tensors, in whatever buffer it lies", () => {
    fc.assert(
      fc.property(anyTensors, fc.nat(7), (tensors, shift) => {
        const written = packSafetensors(tensors);
        const moved = new Uint8Array(written.length + shift).subarray(shift);
        moved.set(written);
        expect(listed(reread(moved))).toEqual(listed(tensors));
      }),
    );
  });

  it("is the same, to the last byte, whole or in pieces, in memory or as a stream", async () => {
    await fc.assert(
      fc.asyncProperty(anyTensors, fc.constantFrom(0, 1, 3), async (tensors, pieces) => {
        const sink = memorySink();
        await writeSafetensors(
          tensors.map((tensor) => streamed(tensor, pieces)),
          sink,
          { step: "3" },
        );
        expect([...sink.bytes()]).toEqual([...packSafetensors(tensors, { step: "3" })]);
      }),
    );
  });

  it("gives as float32 what its bytes stand for, all rows or some", () => {
    fc.assert(
      fc.property(anyTensors, fc.nat(3), fc.nat(3), (tensors, a, b) => {
        const weights = openSafetensors([sourceOf(packSafetensors(tensors), "model.safetensors")]);
        expect(weights.tensors.size).toBe(tensors.length);
        for (const { name, dtype, shape, data } of tensors) {
          expect(weights.tensors.get(name)).toMatchObject({ dtype, shape });
          const values = decodeToFloat32(dtype, data);
          expect(weights.read(name)).toEqual(values);
          const [from, to] = [Math.min(a, b), Math.max(a, b)];
          if (to > (shape[0] ?? 1)) continue;
          const row = values.length / (shape[0] ?? 1) || 0;
          expect(weights.read(name, [from, to])).toEqual(values.slice(from * row, to * row));
        }
      }),
    );
  });

  it("begins each tensor at a multiple of its type's size", () => {
    fc.assert(
      fc.property(anyTensors, (tensors) => {
        const read = reread(packSafetensors(tensors));
        expect(read.every(({ dtype, data }) => data.byteOffset % DTYPE_BYTES[dtype] === 0)).toBe(true);
      }),
    );
  });

  it("keeps the order of tensors of one type", () => {
    const names = ["b", "c", "a"];
    const bytes = packSafetensors(names.map((name) => ({ ...one, name })));
    expect([...readSafetensors(bytes).keys()]).toEqual(names);
  });

  it("says that its format is PyTorch's, beside what it is given", () => {
    expect(headerOf(packSafetensors([], { step: "3" }))).toEqual({ __metadata__: { format: "pt", step: "3" } });
  });

  it("asks for a tensor's bytes when those before it are written", async () => {
    const asked: string[] = [];
    const written: string[] = [];
    const tensors = ["a", "b", "c"].map((name) => ({
      ...one,
      name,
      bytes: () => {
        asked.push(name);
        return Promise.resolve(one.data);
      },
    }));
    await writeSafetensors(tensors, { write: async () => void written.push(asked.join("")) });
    expect(written).toEqual(["", "a", "ab", "abc"]);
  });

  it("is refused for two tensors of one name, and for more or fewer bytes than a tensor takes", async () => {
    expect(() => packSafetensors([one, one])).toThrow('Two tensors are called "a". Give each its own name.');
    const metadata = { ...one, name: "__metadata__" };
    expect(() => packSafetensors([metadata])).toThrow('Two tensors are called "__metadata__".');
    expect(() => packSafetensors([{ ...one, shape: [2] }])).toThrow('"a", F32 [2], takes 8 bytes and 4 were given.');
    const sink = memorySink();
    const write = (given: number) => writeSafetensors([streamed({ ...one, data: new Uint8Array(given) }, 1)], sink);
    await expect(write(3)).rejects.toThrow('"a", F32 [1], takes 4 bytes and 3 were given.');
    const before = sink.bytes().length;
    await expect(write(6)).rejects.toThrow('"a", F32 [1], takes 4 bytes and more were given.');
    expect(sink.bytes().length - before).toBe(packSafetensors([one]).length); // Nothing beyond what its head tells of.
  });
});

describe("an opened checkpoint", () => {
  const values = Float32Array.from({ length: 15 }, (_, i) => i - 7);
  const bytes = packSafetensors([{ name: "w", dtype: "F32", shape: [5, 3], data: new Uint8Array(values.buffer) }]);

  it("reads its header and then only the rows that are asked for", () => {
    const file = watched(bytes, "model.safetensors");
    const start = bytes.length - 60;
    const weights = openSafetensors([file]);
    expect(file.reads).toEqual([
      [0, 8],
      [8, start],
    ]);
    expect([...weights.read("w", [1, 3])]).toEqual([-4, -3, -2, -1, 0, 1]);
    expect(file.reads.at(-1)).toEqual([start + 12, start + 36]);
  });

  it("reads tensors at any offset, as other programs may write them", () => {
    const header =
      '{"b":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"w":{"dtype":"F32","shape":[1],"data_offsets":[1,5]}}';
    const file = fileOf(header, 5);
    file.set(new Uint8Array(Float32Array.of(1.5).buffer), file.length - 4);
    expect([...openSafetensors([sourceOf(file, "model.safetensors")]).read("w")]).toEqual([1.5]);
  });

  it("refuses tensors and rows that it has not", () => {
    const weights = openSafetensors([sourceOf(bytes, "model.safetensors")]);
    expect(() => weights.read("v")).toThrow('The checkpoint has no tensor "v". Choose the weights that belong to it.');
    for (const rows of [
      [0, 6],
      [-1, 2],
      [3, 2],
      [0.5, 2],
    ] as [number, number][]) {
      expect(() => weights.read("w", rows)).toThrow(
        `"w", F32 [5,3], has 5 rows; rows ${rows[0]} to ${rows[1]} were asked for.`,
      );
    }
  });
});

const AGAIN = "Fetch or export the file again.";

describe("a damaged file is refused in a sentence:", () => {
  const header = (text: string, size = 0) => fileOf(text, size);
  const noObject = (why: string) => `F should have a JSON object as its header and has none (${why}). ${AGAIN}`;

  it.each<[string, Uint8Array, string]>([
    ["no bytes", new Uint8Array(), `F has 0 bytes, and a safetensors file at least 8. ${AGAIN}`],
    ["cut off in its length", new Uint8Array(3), `F has 3 bytes, and a safetensors file at least 8. ${AGAIN}`],
    [
      "a huge header",
      Uint8Array.from([1, 2, 3, 4, 5, 6, 7, 8]),
      `F says that its header has 578437695752307201 bytes, and at most 100000000 are allowed: it is no safetensors file. ${AGAIN}`,
    ],
    [
      "a header just past the limit",
      Uint8Array.from([1, 0xe1, 0xf5, 5, 0, 0, 0, 0]),
      `F says that its header has 100000001 bytes, and at most 100000000 are allowed: it is no safetensors file. ${AGAIN}`,
    ],
    [
      "a pointer in the file's place",
      new TextEncoder().encode("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"),
      "F is only git's pointer to the weights. Fetch the weights themselves with git lfs pull.",
    ],
    [
      "cut off in the header",
      header("{}").subarray(0, 9),
      `F should have a header of 2 bytes and only 1 are there. ${AGAIN}`,
    ],
    ["no header", header(""), noObject('it begins with ""')],
    ["not an object", header("[1]"), noObject('it begins with "[1]"')],
    ["a text", header('"a"'), noObject('it begins with "\\"a\\""')],
    ["spaces before the header", header(" {}"), noObject('it begins with " {}"')],
    ["nested too deep", header(`{"a":${"[".repeat(1e6)}`), noObject("it is nested too deep")],
    [
      "one name twice",
      header(`{"a":${entry(0, 1)},"a":${entry(0, 1)}}`, 1),
      `F names "a" twice in its header. ${AGAIN}`,
    ],
    [
      "one name twice, spelled differently",
      header(`{"a":${entry(0, 1)} , "\\u0061":${entry(0, 1)}}`, 1),
      `F names "a" twice in its header. ${AGAIN}`,
    ],
    [
      "a type twice",
      header('{"a":{"dtype":"U8","dtype":"I8","shape":[1],"data_offsets":[0,1]}}', 1),
      `F names "dtype" twice in its header. ${AGAIN}`,
    ],
    ["metadata twice", header('{"__metadata__":{"b":"1","b":"2"}}'), `F names "b" twice in its header. ${AGAIN}`],
    ["an overlap", header(`{"a":${entry(0, 2)},"b":${entry(1, 3)}}`, 3), `F: "b" overlaps "a". ${AGAIN}`],
    ["one place for two", header(`{"a":${entry(0, 2)},"b":${entry(0, 2)}}`, 2), `F: "b" overlaps "a". ${AGAIN}`],
    [
      "a hole",
      header(`{"a":${entry(0, 1)},"b":${entry(2, 3)}}`, 3),
      `F: 1 bytes before "b" belong to no tensor. ${AGAIN}`,
    ],
    [
      "a hole at the beginning",
      header(`{"a":${entry(1, 3)}}`, 3),
      `F: 1 bytes before "a" belong to no tensor. ${AGAIN}`,
    ],
    ["bytes left over", header(`{"a":${entry(0, 1)}}`, 3), `F: 2 bytes at the end belong to no tensor. ${AGAIN}`],
    ["data cut off", header(`{"a":${entry(0, 4)}}`, 3), `F should have 65 bytes and has 64: it is cut off. ${AGAIN}`],
    [
      "a tensor past the end of all files",
      header(`{"a":${entry(0, 9e15)}}`, 3),
      `F should have 9000000000000091 bytes and has 94: it is cut off. ${AGAIN}`,
    ],
    [
      "offsets the wrong way round",
      header(`{"a":${entry(2, 1, 1)}}`, 2),
      `F has "a" at [2,1]; where it begins and ends is wanted. ${AGAIN}`,
    ],
    [
      "three offsets",
      header('{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1,2]}}', 2),
      `F has "a" at [0,1,2]; where it begins and ends is wanted. ${AGAIN}`,
    ],
    [
      "negative offsets",
      header('{"a":{"dtype":"U8","shape":[1],"data_offsets":[-1,0]}}', 2),
      `F has "a" at [-1,0]; where it begins and ends is wanted. ${AGAIN}`,
    ],
    [
      "another size than the shape's",
      header(`{"a":${entry(0, 2, 3)}}`, 2),
      `F: "a", U8 [3], takes 3 bytes and has 2. ${AGAIN}`,
    ],
    [
      "another size than the type's",
      header('{"a":{"dtype":"BF16","shape":[2],"data_offsets":[0,8]}}', 8),
      `F: "a", BF16 [2], takes 4 bytes and has 8. ${AGAIN}`,
    ],
    [
      "an unknown type",
      header('{"a":{"dtype":"F4","shape":[],"data_offsets":[0,1]}}', 1),
      'F has "a" in the type "F4"; one of BOOL, U8, I8, F8_E4M3, F8_E5M2, F8_E8M0, U16, I16, F16, BF16, U32, I32, F32, U64, I64, F64 is wanted.',
    ],
    [
      "a type that is a word of the language",
      header('{"a":{"dtype":"toString","shape":[],"data_offsets":[0,1]}}', 1),
      'F has "a" in the type "toString"; one of BOOL, U8, I8, F8_E4M3, F8_E5M2, F8_E8M0, U16, I16, F16, BF16, U32, I32, F32, U64, I64, F64 is wanted.',
    ],
    [
      "a broken shape",
      header('{"a":{"dtype":"U8","shape":[1.5],"data_offsets":[0,1]}}', 1),
      `F has "a" in the shape [1.5]; a list of whole numbers is wanted. ${AGAIN}`,
    ],
    [
      "a shape past counting",
      header('{"a":{"dtype":"U8","shape":[9e15,9],"data_offsets":[0,1]}}', 1),
      `F has "a" in the shape [9000000000000000,9]; a list of whole numbers is wanted. ${AGAIN}`,
    ],
    [
      // 2^32 * 2^32 is 0 in 64 bits.
      "a shape whose size comes round to nothing",
      header('{"a":{"dtype":"U8","shape":[4294967296,4294967296],"data_offsets":[0,0]}}'),
      `F has "a" in the shape [4294967296,4294967296]; a list of whole numbers is wanted. ${AGAIN}`,
    ],
    [
      "no tensor",
      header('{"a":3}'),
      'F has "a" in the type nothing; one of BOOL, U8, I8, F8_E4M3, F8_E5M2, F8_E8M0, U16, I16, F16, BF16, U32, I32, F32, U64, I64, F64 is wanted.',
    ],
    [
      "metadata that are no texts",
      header('{"__metadata__":{"n":1}}'),
      `F should map names to texts in __metadata__ and has {"n":1}. ${AGAIN}`,
    ],
  ])("%s", (_, bytes, message) => {
    expect(() => openSafetensors([sourceOf(bytes, "F")])).toThrow(new Error(message));
  });

  it.each([
    ["no JSON", header("{a}"), /^F should have a JSON object as its header and has none \(.+\)\. Fetch/],
    ["a text without an end", header('{"a'), /^F should have a JSON object as its header and has none \(.+\)\. Fetch/],
    ["an escape without an end", header('{"a\\'), /^F should have a JSON object/],
    [
      "no UTF-8",
      header(`{"a":${entry(0, 0)}}`).map((byte, i) => (i === 10 ? 0xff : byte)),
      /^F should have a JSON object/,
    ],
    ["a byte order mark", header("\ufeff{}"), /^F should have a JSON object/],
  ])("%s", (_, bytes, message) => {
    expect(() => openSafetensors([sourceOf(bytes, "F")])).toThrow(message);
  });

  it("never in another way, whichever bytes are wrong", () => {
    const good = packSafetensors([
      { name: "layer.weight", dtype: "F32", shape: [2, 3], data: new Uint8Array(24) },
      { name: "layer.bias", dtype: "F16", shape: [3], data: new Uint8Array(6) },
    ]);
    fc.assert(
      fc.property(
        fc.array(fc.tuple(fc.nat(good.length - 1), fc.nat(255)), { maxLength: 3 }),
        fc.nat(),
        (wrong, cut) => {
          const bad = good.slice(0, cut % 2 === 0 ? good.length : cut % good.length);
          for (const [at, value] of wrong) bad[at] = value;
          expectSentenceOrSense(bad);
        },
      ),
      { numRuns: 3000 },
    );
  });

  it("never in another way, whatever the header holds", () => {
    const number = fc.oneof(fc.nat(9), fc.constantFrom(-1, -0, 0.5, 1e300, 2 ** 53, 2 ** 32, null, "1", [], {}));
    const tensor = fc.oneof(
      fc.record(
        {
          dtype: fc.constantFrom<unknown>("U8", "F16", "F32", "F8_E4M3", "F3", "__proto__", "toString", 1, null),
          shape: fc.oneof(fc.array(number, { maxLength: 3 }), number),
          data_offsets: fc.oneof(fc.tuple(number, number), number),
        },
        { requiredKeys: [] },
      ),
      number,
    );
    const name = fc.constantFrom("a", "b", "", "__metadata__", "__proto__", "constructor", "b_scale_inv", "\\", '"');
    fc.assert(
      fc.property(fc.dictionary(name, tensor), fc.nat(12), (entries, size) => {
        expectSentenceOrSense(fileOf(JSON.stringify(entries), size));
      }),
      { numRuns: 3000 },
    );
  });

  /** Opens and reads all it claims to have, or throws a sentence of ours: no TypeError or RangeError. */
  function expectSentenceOrSense(bytes: Uint8Array): void {
    try {
      const weights = openSafetensors([sourceOf(bytes, "F")]);
      for (const [name, { shape }] of weights.tensors) {
        expect(weights.read(name)).toHaveLength(shape.reduce((product, size) => product * size, 1));
      }
    } catch (error) {
      expect((error as Error).constructor).toBe(Error);
      expect((error as Error).message).toMatch(/^[A-Z"].*\.$/s);
    }
  }

  it("but empty tensors, scalars and files without tensors are as good as any", () => {
    const scalar = '"s":{"dtype":"U8","shape":[],"data_offsets":[0,1]}';
    for (const text of [`{"e":${entry(1, 1)},${scalar}}  `, `{${scalar},"e":${entry(0, 0)}}`]) {
      const weights = openSafetensors([sourceOf(fileOf(text, 1), "F")]);
      expect([weights.read("e"), weights.read("s")]).toEqual([new Float32Array(0), new Float32Array(1)]);
    }
    expect(readSafetensors(fileOf("{}", 0)).size).toBe(0);
  });
});

describe("a header takes time in line with its length:", () => {
  const COUNT = 100_000;
  const entries = Array.from({ length: COUNT }, (_, i) => `"${i}.w":${entry(i, i + 1)}`);

  it.each([
    ["100,000 tensors in the opposite order", entries.toReversed(), COUNT, null],
    ["the last of them a repetition", [...entries, entries[COUNT - 1]], COUNT, 'F names "99999.w" twice'],
    ["a name of many escapes", [`"${"\\\\".repeat(1e6)}":${entry(0, 1)}`], 1, null],
    ["a space of a million", [`"a"${" ".repeat(1e6)}:${" ".repeat(1e6)}${entry(0, 1)}`], 1, null],
  ])("%s", { timeout: 20_000 }, (_, parts, size, message) => {
    const open = () => openSafetensors([sourceOf(fileOf(`{${parts.join()}}`, size), "F")]).tensors.size;
    if (message) expect(open).toThrow(message);
    else expect(open()).toBe(parts.length);
  });
});

describe("the reference checkpoints", () => {
  const models = readdirSync("tests/fixtures").filter((name) => existsSync(`tests/fixtures/${name}/config.json`));

  it.each(models)("%s: written again, its tensors are the same bytes", (model) => {
    const folder = `tests/fixtures/${model}`;
    for (const name of readdirSync(folder).filter((each) => each.endsWith(".safetensors"))) {
      const tensors = reread(readFileSync(`${folder}/${name}`));
      expect(tensors.length).toBeGreaterThan(0);
      expect(listed(reread(packSafetensors(tensors)))).toEqual(listed(tensors));
    }
  });
});
