import { describe, expect, it } from "vitest";
import { BLOCK, type PackedFormat, wordCount } from "../../src/engine/packed.ts";
import { fitsBlocks, packRows, unpackWords } from "../../src/engine/packWords.ts";
import { normal } from "./harness.ts";

const SHAPE: [number, number] = [5, 96];
const FORMATS: PackedFormat[] = ["f16", "int8", "int4"];

function throughWords(values: Float32Array, shape: [number, number], format: PackedFormat): Float32Array {
  const words = new Int32Array(wordCount(format, shape));
  packRows(values, 0, words, shape, format);
  return unpackWords(words, shape, format);
}

describe.each(FORMATS)("%s", (format) => {
  const values = normal(SHAPE, 1).values as Float32Array;

  it("keeps every value to within half a step of its block", () => {
    const found = throughWords(values, SHAPE, format);
    for (let from = 0; from < values.length; from += BLOCK) {
      const most = Math.max(...values.subarray(from, from + BLOCK).map(Math.abs));
      for (let i = from; i < from + BLOCK; i++) {
        // int4 has -8 but no 8: a value of the other sign and nearly the same magnitude is off by a whole step.
        const allowed = { f16: Math.abs(values[i]) / 2048, int8: most / 254, int4: most / 8 }[format];
        expect(Math.abs(found[i] - values[i])).toBeLessThanOrEqual(allowed * 1.0001);
      }
    }
  });

  it("packs what it has unpacked into the same values", () => {
    const once = throughWords(values, SHAPE, format);
    expect(throughWords(once, SHAPE, format)).toEqual(once);
  });

  it("can be filled in rows at a time", () => {
    const whole = new Int32Array(wordCount(format, SHAPE));
    packRows(values, 0, whole, SHAPE, format);
    const parts = new Int32Array(whole.length);
    packRows(values.subarray(0, 2 * 96), 0, parts, SHAPE, format);
    packRows(values.subarray(2 * 96), 2, parts, SHAPE, format);
    expect(parts).toEqual(whole);
  });

  it("stores zeros as zeros", () => {
    expect(throughWords(new Float32Array(64), [2, 32], format)).toEqual(new Float32Array(64));
  });

  it("refuses rows that are no whole blocks", () => {
    expect(fitsBlocks(format, 97)).toBe(false);
    expect(() => throughWords(new Float32Array(97), [1, 97], format)).toThrow("wants whole rows");
  });
});

it("lays values out as packed.ts says", () => {
  const ramp = Float32Array.from({ length: 32 }, (_, i) => i - 8);
  const words = (format: PackedFormat) => {
    const found = new Int32Array(wordCount(format, [1, 32]));
    packRows(
      ramp.map((x) => Math.min(x, 7)),
      0,
      found,
      [1, 32],
      format,
    );
    return found;
  };
  const scale = (word: number) => new Float32Array(Int32Array.of(word).buffer)[0];
  expect([words("int4")[0] >>> 0, scale(words("int4")[4])]).toEqual([0x76543210, 1]);
  expect(words("int8")[0] & 0xff).toBe(-127 & 0xff);
  expect(scale(words("int8")[8])).toBeCloseTo(8 / 127, 7);
  expect(words("f16")[0] >>> 0).toBe(0xc700c800); // -8, -7
});

it("halves are rounded to even, down to the smallest and up to the largest", () => {
  const cases = [1 + 2 ** -11, 1 + 3 * 2 ** -11, 2 ** -24, 2 ** -25, 1.5 * 2 ** -24, 2047.9 * 2 ** -25, 65_504, 1e6];
  const wanted = [1, 1 + 2 ** -9, 2 ** -24, 0, 2 ** -23, 2 ** -14, 65_504, 65_504];
  expect([...throughWords(Float32Array.from(cases), [1, 8], "f16")]).toEqual(wanted);
});
