import * as fc from "fast-check";
import { describe, expect, it } from "vitest";
import { type BlockSize, readBlockSize } from "../../src/formats/blockScales.ts";
import { sourceOf } from "../../src/formats/bytes.ts";
import { eightBitValues } from "../../src/formats/numbers.ts";
import { openSafetensors, packSafetensors, type TensorToWrite } from "../../src/formats/safetensors.ts";
import { watched } from "./checkpointFiles.ts";

const bytes = fc
  .integer({ min: 0, max: 2 ** 30 })
  .map((seed) => (i: number) => (Math.imul(seed + i, 2_654_435_761) >>> 13) & 255);

function matrix(
  shape: number[],
  byte: (i: number) => number,
  dtype: TensorToWrite["dtype"] = "F8_E4M3",
): TensorToWrite {
  const size = shape.reduce((product, n) => product * n, 1);
  return { name: "a.weight", dtype, shape, data: Uint8Array.from({ length: size }, (_, i) => byte(i)) };
}

function scales(shape: number[], name = "a.weight_scale_inv"): TensorToWrite {
  const values = Float32Array.from({ length: shape.reduce((product, n) => product * n, 1) }, (_, i) => 0.1 + i);
  return { name, dtype: "F32", shape, data: new Uint8Array(values.buffer) };
}

function open(tensors: TensorToWrite[], block?: BlockSize) {
  return openSafetensors([sourceOf(packSafetensors(tensors), "model.safetensors")], undefined, block);
}

describe("a matrix of eight-bit floats", () => {
  it("is each value times the scale of its block, all rows or some", () => {
    fc.assert(
      fc.property(
        fc.tuple(fc.integer({ min: 1, max: 9 }), fc.integer({ min: 1, max: 9 })),
        fc.tuple(fc.integer({ min: 1, max: 4 }), fc.integer({ min: 1, max: 4 })),
        fc.constantFrom("F8_E4M3" as const, "F8_E5M2" as const),
        bytes,
        fc.tuple(fc.nat(9), fc.nat(9)),
        ([rows, columns], block, dtype, byte, [a, b]) => {
          const across = Math.ceil(columns / block[1]);
          const weights = open(
            [matrix([rows, columns], byte, dtype), scales([Math.ceil(rows / block[0]), across])],
            block,
          );
          expect([...weights.tensors.keys()]).toEqual(["a.weight"]);
          const table = eightBitValues(dtype);
          const wanted = Float32Array.from({ length: rows * columns }, (_, i) => {
            const [down, right] = [Math.floor(i / columns / block[0]), Math.floor((i % columns) / block[1])];
            return table[byte(i)] * Math.fround(0.1 + down * across + right);
          });
          expect(weights.read("a.weight")).toEqual(wanted);
          const [from, to] = [Math.min(a, b, rows), Math.min(Math.max(a, b), rows)];
          expect(weights.read("a.weight", [from, to])).toEqual(wanted.slice(from * columns, to * columns));
        },
      ),
    );
  });

  it("has blocks of 128 by 128 unless the config says otherwise", () => {
    const weights = open([matrix([130, 129], () => 0x38), scales([2, 2])]);
    const values = weights.read("a.weight", [127, 129]);
    expect([values[0], values[127], values[128], values[129], values[257]]).toEqual(
      [0.1, 0.1, 1.1, 2.1, 3.1].map(Math.fround),
    );
    expect(readBlockSize({})).toEqual([128, 128]);
    expect(readBlockSize({ quantization_config: { weight_block_size: [64, 32] } })).toEqual([64, 32]);
    expect(() => readBlockSize({ quantization_config: { weight_block_size: [0, 32] } })).toThrow(
      "config.json: weight_block_size is [0,32]; two whole numbers are wanted. Choose another checkpoint.",
    );
  });

  it("is read with the scales of its own rows only", () => {
    const file = watched(packSafetensors([matrix([6, 4], (i) => i), scales([3, 2])]), "model.safetensors");
    openSafetensors([file], undefined, [2, 2]).read("a.weight", [3, 4]);
    expect(file.reads.slice(2).map(([from, to]) => to - from)).toEqual([4, 8]);
  });

  it("may lie in another file than its scales", () => {
    const name = (n: number) => `model-0000${n}-of-00002.safetensors`;
    const files = [matrix([1, 2], () => 0x38), scales([1, 1])].map((tensor, i) =>
      sourceOf(packSafetensors([tensor]), name(i + 1)),
    );
    const index = { weight_map: { "a.weight": name(1), "a.weight_scale_inv": name(2) } };
    expect([...openSafetensors(files, index).read("a.weight")]).toEqual([0.1, 0.1].map(Math.fround));
  });

  it("leaves the scales of other types among the tensors", () => {
    const weights = open([{ ...matrix([1, 1], () => 0, "U8") }, scales([1, 1])]);
    expect(weights.tensors.has("a.weight_scale_inv")).toBe(true);
  });
});

const BEFORE = "Choose the checkpoint before quantisation.";
const BELONGS = "Choose the config.json that belongs to the checkpoint.";

describe("eight-bit floats are refused by name", () => {
  it.each<[string, TensorToWrite[], string]>([
    [
      "without scales",
      [matrix([2, 2], () => 0)],
      `"a.weight", F8_E4M3 [2,2], has no scales: "a.weight_scale_inv" is missing. ${BEFORE}`,
    ],
    [
      "with scales under another name",
      [matrix([2, 2], () => 0, "F8_E5M2"), scales([1, 1], "a.weight_scale")],
      `"a.weight", F8_E5M2 [2,2], has no scales: "a.weight_scale_inv" is missing. ${BEFORE}`,
    ],
    [
      "if they are no matrix",
      [matrix([4], () => 0), scales([1])],
      `"a.weight", F8_E4M3 [4], is no matrix, and scales are read for matrices. ${BEFORE}`,
    ],
    [
      "with scales for blocks of another size",
      [matrix([4, 2], () => 0), scales([4, 2])],
      `"a.weight_scale_inv", F32 [4,2], should be F32 [1,1], a scale for each block of 128 by 128 of "a.weight" [4,2]. ${BELONGS}`,
    ],
    [
      "with scales of another type",
      [matrix([1, 1], () => 0), { ...scales([1, 1]), dtype: "I32" }],
      `"a.weight_scale_inv", I32 [1,1], should be F32 [1,1], a scale for each block of 128 by 128 of "a.weight" [1,1]. ${BELONGS}`,
    ],
  ])("%s", (_, tensors, message) => {
    expect(() => open(tensors)).toThrow(new Error(message));
  });
});
