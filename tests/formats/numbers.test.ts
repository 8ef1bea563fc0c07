import * as fc from "fast-check";
import { describe, expect, it } from "vitest";
import { decodeToFloat32, eightBitValues, encodeFloat32 } from "../../src/formats/numbers.ts";

function encode(dtype: "F16" | "BF16", ...values: number[]): number[] {
  return [...new Uint16Array(encodeFloat32(Float32Array.from(values), dtype).buffer)];
}

/** The array's bytes at an odd place of a buffer. */
function shifted(array: ArrayBufferView): Uint8Array {
  const bytes = new Uint8Array(array.byteLength + 1).subarray(1);
  bytes.set(new Uint8Array(array.buffer));
  return bytes;
}

describe("16-bit floats", () => {
  const everyPattern = Uint16Array.from({ length: 65_536 }, (_, bits) => bits);

  it.each(["F16", "BF16"] as const)("%s: every pattern decodes and encodes to itself, NaN to a NaN", (dtype) => {
    const values = decodeToFloat32(dtype, shifted(everyPattern));
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
    ["BF16", 0x0001, 2 ** -133, 2 ** -132], // Subnormal.
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

  it.each([
    ["F16", 0x7c00, 65_504],
    ["BF16", 0x7f80, 3.38e38],
  ] as const)(
    "%s: every number becomes the nearest there is, an even one if two are as near",
    (dtype, end, largest) => {
      const sorted = decodeToFloat32(dtype, new Uint8Array(everyPattern.slice(0, end).buffer));
      fc.assert(
        fc.property(fc.float({ min: 0, max: Math.fround(largest), noNaN: true }), (value) => {
          const [bits] = encode(dtype, value);
          const error = Math.abs(sorted[bits] - value);
          const others = [sorted[bits + 1] ?? Infinity, sorted[bits - 1] ?? -Infinity].map((x) => Math.abs(x - value));
          expect(error).toBeLessThanOrEqual(Math.min(...others));
          if (others.includes(error)) expect(bits % 2).toBe(0);
        }),
        { numRuns: 2000 },
      );
    },
  );

  it("refuse a finite value that rounds beyond them, and keep infinities and NaN", () => {
    expect(() => encode("F16", 1, 65_520)).toThrow("The value 65520 does not fit F16. Store these weights as F32.");
    expect(() => encode("F16", -1e30)).toThrow("does not fit F16");
    expect(() => encode("BF16", -(2 - 2 ** -8) * 2 ** 127)).toThrow("does not fit BF16"); // Half a step past the largest.
    expect(encode("F16", 65_504, 65_519, Infinity, -Infinity, NaN)).toEqual([0x7bff, 0x7bff, 0x7c00, 0xfc00, 0x7e00]);
    expect(encode("BF16", 3.3895e38, Infinity, -Infinity, NaN)).toEqual([0x7f7f, 0x7f80, 0xff80, 0x7fc0]);
  });

  it("encode a part of a larger array", () => {
    const part = Float32Array.of(9, 1, -2, 9).subarray(1, 3);
    expect([...encodeFloat32(part, "F32")]).toEqual([...new Uint8Array(Float32Array.of(1, -2).buffer)]);
    for (const dtype of ["F16", "BF16"] as const) {
      expect([...decodeToFloat32(dtype, encodeFloat32(part, dtype))]).toEqual([1, -2]);
    }
  });
});

describe("8-bit floats", () => {
  // Micikevicius et al., 2022, "FP8 formats for deep learning", table 1.
  it.each([
    ["F8_E4M3", { 0x01: 2 ** -9, 0x07: 0.875 * 2 ** -6, 0x08: 2 ** -6, 0x38: 1, 0x7e: 448, 0x7f: NaN, 0xff: NaN }],
    ["F8_E5M2", { 0x01: 2 ** -16, 0x04: 2 ** -14, 0x3c: 1, 0x7b: 57_344, 0x7c: Infinity, 0xfc: -Infinity, 0x7d: NaN }],
  ] as const)("%s has the values of its standard", (dtype, wanted) => {
    const values = eightBitValues(dtype);
    for (const [bits, value] of Object.entries(wanted)) expect(values[Number(bits)]).toBe(value);
    for (let bits = 0; bits < 128; bits++) expect(values[bits + 128]).toBe(-values[bits]);
  });
});

it("decodes other types by value, from any offset", () => {
  expect([...decodeToFloat32("F64", shifted(Float64Array.of(0.1, -2)))]).toEqual([Math.fround(0.1), -2]);
  expect([...decodeToFloat32("I32", shifted(Int32Array.of(-7, 9)))]).toEqual([-7, 9]);
  expect([...decodeToFloat32("U32", shifted(Uint32Array.of(2 ** 31)))]).toEqual([2 ** 31]);
  expect([...decodeToFloat32("I64", shifted(BigInt64Array.of(-7n)))]).toEqual([-7]);
  expect([...decodeToFloat32("U64", shifted(BigUint64Array.of(7n)))]).toEqual([7]);
  expect([...decodeToFloat32("I16", shifted(Int16Array.of(-7)))]).toEqual([-7]);
  expect([...decodeToFloat32("U16", shifted(Uint16Array.of(65_535)))]).toEqual([65_535]);
  expect([...decodeToFloat32("I8", Uint8Array.of(255))]).toEqual([-1]);
  expect([...decodeToFloat32("U8", Uint8Array.of(255))]).toEqual([255]);
  expect([...decodeToFloat32("BOOL", Uint8Array.of(1, 0))]).toEqual([1, 0]);
  expect([...decodeToFloat32("F32", shifted(Float32Array.of(1.5)))]).toEqual([1.5]);
  // Node's small buffers lie in one shared buffer.
  expect([...decodeToFloat32("F32", Buffer.from(new Uint8Array(Float32Array.of(2.5).buffer)))]).toEqual([2.5]);
});

it("hands out values of their own, which no later change of the bytes reaches", () => {
  const bytes = new Uint8Array(Float32Array.of(1.5).buffer);
  const values = decodeToFloat32("F32", bytes);
  bytes.fill(0);
  expect([...values]).toEqual([1.5]);
});

it("refuses what has no values of its own, and bytes that are no whole number of values", () => {
  expect(() => decodeToFloat32("F8_E4M3", Uint8Array.of(1))).toThrow(
    "Weights of type F8_E4M3 cannot be read; F32, F16 and BF16 can. Choose the checkpoint before quantisation.",
  );
  expect(() => decodeToFloat32("F32", Uint8Array.of(1))).toThrow("1 bytes are no whole number of values of 4 bytes.");
});
