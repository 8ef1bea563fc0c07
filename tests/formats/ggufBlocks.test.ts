import * as fc from "fast-check";
import { describe, expect, it } from "vitest";
import { BLOCKS, type BlockType, decodeBlocks, encodeBlocks } from "../../src/formats/ggufBlocks.ts";

const HALF = { one: [0x00, 0x3c], half: [0x00, 0x38], quarter: [0x00, 0x34], minusTwo: [0x00, 0xc0] };
const counting = (length: number) => Array.from({ length }, (_, i) => i);

/** Two blocks of weights of ordinary sizes. */
const weights = fc
  .tuple(
    fc.integer({ min: -12, max: 6 }),
    fc.array(fc.float({ min: -1, max: 1, noNaN: true }), { minLength: 64, maxLength: 64 }),
  )
  .map(([exponent, values]) => Float32Array.from(values, (value) => value * 2 ** exponent));

const largest = (values: Float32Array) => values.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
const scaleOf = (block: Uint8Array) => decodeBlocks("F16", block.slice(0, 2))[0];

describe("blocks of weights", () => {
  it.each(["F32", "F16"] as const)("%s: what was decoded encodes to the same bytes", (type) => {
    fc.assert(
      fc.property(weights, (values) => {
        const bytes = encodeBlocks(type, values);
        expect(encodeBlocks(type, decodeBlocks(type, bytes))).toEqual(bytes);
        if (type === "F32") expect(decodeBlocks(type, bytes)).toEqual(values);
      }),
    );
  });

  it.each(["Q8_0", "Q4_0"] as const)("%s: what was decoded encodes to the same bytes", (type) => {
    fc.assert(
      fc.property(weights, (values) => {
        const bytes = encodeBlocks(type, values);
        const size = BLOCKS[type].bytes;
        // A scale that float16 has no bits for is zero, or has lost some: its blocks are not fixed points.
        fc.pre([bytes, bytes.subarray(size)].every((block) => Math.abs(scaleOf(block)) >= 2 ** -14));
        expect(encodeBlocks(type, decodeBlocks(type, bytes))).toEqual(bytes);
      }),
    );
  });

  it("Q8_0: no value is off by more than half a step and the rounding of the scale", () => {
    fc.assert(
      fc.property(weights, (all) => {
        const values = all.subarray(0, 32);
        const bytes = encodeBlocks("Q8_0", values);
        const step = largest(values) / 127;
        const bound = step / 2 + 127 * Math.abs(scaleOf(bytes) - step) + 1e-6 * step;
        decodeBlocks("Q8_0", bytes).forEach((value, i) => {
          expect(Math.abs(value - values[i])).toBeLessThanOrEqual(bound);
        });
      }),
    );
  });

  it("Q4_0: no value is off by more than a step and the rounding of the scale, most by half a step", () => {
    fc.assert(
      fc.property(weights, (all) => {
        const values = all.subarray(0, 32);
        const bytes = encodeBlocks("Q4_0", values);
        const step = largest(values) / 8;
        const rounding = 8 * Math.abs(Math.abs(scaleOf(bytes)) - step) + 1e-6 * step;
        decodeBlocks("Q4_0", bytes).forEach((value, i) => {
          // The largest value is -8 steps; on the other side there are only 7.
          const most = Math.abs(values[i]) <= 7.5 * step ? step / 2 : step;
          expect(Math.abs(value - values[i])).toBeLessThanOrEqual(most + rounding);
        });
      }),
    );
  });

  it("Q8_0 rounds half away from zero", () => {
    const values = new Float32Array(32);
    values.set([127, 2.5, -2.5, 0.5, -0.5, 1.49, -126.5]);
    const bytes = encodeBlocks("Q8_0", values);
    expect([...bytes.subarray(0, 2)]).toEqual(HALF.one);
    expect([...new Int8Array(bytes.buffer, 2, 7)]).toEqual([127, 3, -3, 1, -1, 1, -127]);
  });

  it("Q4_0 gives the value of the largest size the number -8, whatever its sign", () => {
    const values = new Float32Array(32);
    values.set([16, -14, 1, -16 + 2 ** -10]);
    values[16] = 15; // Beside value 0, in the upper half of its byte.
    const bytes = encodeBlocks("Q4_0", values);
    expect([...bytes.subarray(0, 2)]).toEqual(HALF.minusTwo);
    expect([...bytes.subarray(2, 6)]).toEqual([0x10, 0x8f, 0x88, 0x8f]);
    expect([...decodeBlocks("Q4_0", bytes).subarray(0, 4)]).toEqual([16, -14, 0, -14]);
  });

  it("a block of zeros is zeros", () => {
    for (const type of ["Q8_0", "Q4_0"] as const) {
      expect(decodeBlocks(type, encodeBlocks(type, new Float32Array(32))).every((value) => value === 0)).toBe(true);
    }
  });

  it("refuse what is no number, and what float16 has no room for", () => {
    expect(() => encodeBlocks("Q8_0", new Float32Array(32).fill(NaN))).toThrow("A weight is NaN.");
    expect(() => encodeBlocks("F32", Float32Array.of(Infinity))).toThrow("A weight is Infinity.");
    expect(() => encodeBlocks("F16", Float32Array.of(1e5))).toThrow("does not fit F16");
    expect(() => encodeBlocks("Q4_0", new Float32Array(32).fill(1e6))).toThrow("does not fit F16");
  });
});

describe("blocks written by hand decode to what the format says", () => {
  const decoded = (type: BlockType, ...bytes: number[]) => {
    expect(bytes.length).toBe(BLOCKS[type].bytes);
    return [...decodeBlocks(type, Uint8Array.from(bytes))];
  };
  const nibbles = counting(16).map((i) => i | ((15 - i) << 4)); // 0..15, then 15..0

  it("Q4_0: d * (q - 8)", () => {
    const want = counting(16).map((i) => 0.5 * (i - 8));
    expect(decoded("Q4_0", ...HALF.half, ...nibbles)).toEqual([...want, ...want.toReversed()]);
  });

  it("Q4_1: d * q + m", () => {
    const want = counting(16).map((i) => 0.5 * i - 2);
    expect(decoded("Q4_1", ...HALF.half, ...HALF.minusTwo, ...nibbles)).toEqual([...want, ...want.toReversed()]);
  });

  it("Q5_0 and Q5_1: a fifth bit each", () => {
    const fifth = [0x01, 0x80, 0x00, 0xc0]; // Of values 0, 15, 30 and 31.
    const q = [...counting(16), ...counting(16).toReversed()].map(
      (low, i) => low + ([0, 15, 30, 31].includes(i) ? 16 : 0),
    );
    expect(decoded("Q5_0", ...HALF.half, ...fifth, ...nibbles)).toEqual(q.map((each) => 0.5 * (each - 16)));
    expect(decoded("Q5_1", ...HALF.half, ...HALF.one, ...fifth, ...nibbles)).toEqual(q.map((each) => 0.5 * each + 1));
  });

  it("Q8_0: d * q, signed", () => {
    const q = counting(32).map((i) => 8 * i - 128);
    expect(decoded("Q8_0", ...HALF.quarter, ...q.map((each) => each & 255))).toEqual(q.map((each) => 0.25 * each));
  });

  // Eight sub-blocks, their six-bit numbers packed by hand.
  const scales = [1, 2, 3, 63, 16, 33, 5, 62];
  const mins = [0, 1, 2, 63, 33, 4, 61, 17];
  const packed = [65, 130, 3, 255, 128, 1, 194, 127, 16, 65, 213, 30];
  const low = counting(128).map((i) => ((i >> 5) + 1) | ((15 - (i >> 5)) << 4));
  const inSubBlock = (j: number) => (j % 2 === 0 ? (j >> 1) + 1 : 15 - (j >> 1));

  it("Q4_K: d * scale * q - dmin * min", () => {
    const want = counting(256).map((i) => 0.5 * scales[i >> 5] * inSubBlock(i >> 5) - 0.25 * mins[i >> 5]);
    expect(decoded("Q4_K", ...HALF.half, ...HALF.quarter, ...packed, ...low)).toEqual(want);
  });

  it("Q5_K: the same with a fifth bit", () => {
    const high = counting(32).map((i) => (i === 3 ? 0b10000101 : 0));
    const q = (i: number) => inSubBlock(i >> 5) + (i % 32 === 3 && [0, 2, 7].includes(i >> 5) ? 16 : 0);
    const want = counting(256).map((i) => 0.5 * scales[i >> 5] * q(i) - 0.25 * mins[i >> 5]);
    expect(decoded("Q5_K", ...HALF.half, ...HALF.quarter, ...packed, ...high, ...low)).toEqual(want);
  });

  it("Q6_K: d * scale * (q - 32), sixteen signed scales", () => {
    const lows = counting(128).map((i) => (i % 16) | ((15 - (i % 16)) << 4));
    const highs = counting(64).map((i) => i * 5 + 27);
    const sixteen = counting(16).map((i) => 3 * i - 20);
    // Value 161 is the second half's place 33: its second quarter, l = 1: byte 64 + 32 + 1, low four; high byte 32 + 1, bits 2 and 3.
    const q161 = (97 % 16) | ((((33 * 5 + 27) >> 2) & 3) << 4);
    // Value 100 is the first half's fourth quarter, l = 4: byte 32 + 4, high four; high byte 4, bits 6 and 7.
    const q100 = (15 - (36 % 16)) | ((((4 * 5 + 27) >> 6) & 3) << 4);
    const values = decoded(
      "Q6_K",
      ...lows,
      ...highs.map((each) => each & 255),
      ...sixteen.map((each) => each & 255),
      ...HALF.half,
    );
    expect(values[161]).toBe(0.5 * sixteen[10] * (q161 - 32));
    expect(values[100]).toBe(0.5 * sixteen[6] * (q100 - 32));
  });

  it("BF16: the upper half of float32", () => {
    expect(decoded("BF16", 0x80, 0x3f)).toEqual([1]);
  });
});
