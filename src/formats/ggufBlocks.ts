// The types that GGUF stores weights in <-> float32. Quantised types are blocks of a scale (and more) and small integers.
//
// Layouts are those of ggml/src/ggml-common.h, arithmetic that of the reference rows in ggml-quants.c of llama.cpp.

import { decodeToFloat32, encodeFloat32 } from "./numbers.ts";

/** Each type's number in a file, how many values a block has and how many bytes. */
export const BLOCKS = {
  F32: { id: 0, values: 1, bytes: 4 },
  F16: { id: 1, values: 1, bytes: 2 },
  Q4_0: { id: 2, values: 32, bytes: 18 },
  Q4_1: { id: 3, values: 32, bytes: 20 },
  Q5_0: { id: 6, values: 32, bytes: 22 },
  Q5_1: { id: 7, values: 32, bytes: 24 },
  Q8_0: { id: 8, values: 32, bytes: 34 },
  Q4_K: { id: 12, values: 256, bytes: 144 },
  Q5_K: { id: 13, values: 256, bytes: 176 },
  Q6_K: { id: 14, values: 256, bytes: 210 },
  BF16: { id: 30, values: 1, bytes: 2 },
} as const;

export type BlockType = keyof typeof BLOCKS;

/** The types that are written. */
export type WrittenType = "F32" | "F16" | "Q8_0" | "Q4_0";

/** Bytes of so many values, which must fill whole blocks. */
export function bytesOf(type: BlockType, values: number): number {
  return (values / BLOCKS[type].values) * BLOCKS[type].bytes;
}

/** Whole blocks -> their values. */
export function decodeBlocks(type: BlockType, data: Uint8Array): Float32Array {
  if (type === "F32" || type === "F16" || type === "BF16") return decodeToFloat32(type, data);
  const { values, bytes } = BLOCKS[type];
  const out = new Float32Array((data.length / bytes) * values);
  const decode = DECODERS[type];
  for (let at = 0, to = 0; at < data.length; at += bytes, to += values) decode(data, at, out, to);
  return out;
}

/**
 * Values -> blocks, as many as they fill; their number must be a multiple of the block's.
 *
 * Throws for a value that is not finite, and for one that the type has no room for.
 */
export function encodeBlocks(type: WrittenType, values: Float32Array): Uint8Array {
  for (const value of values) {
    if (!Number.isFinite(value)) throw new Error(`A weight is ${value}. Export a checkpoint from before it diverged.`);
  }
  if (type === "F32" || type === "F16") return encodeFloat32(values, type);
  const { values: per, bytes } = BLOCKS[type];
  const count = values.length / per;
  const out = new Uint8Array(count * bytes);
  const scales = new Float32Array(count);
  const encode = type === "Q8_0" ? encodeQ8 : encodeQ4;
  for (let b = 0; b < count; b++) scales[b] = encode(values, b * per, out, b * bytes + 2);
  const halves = encodeFloat32(scales, "F16");
  for (let b = 0; b < count; b++) out.set(halves.subarray(2 * b, 2 * b + 2), b * bytes);
  return out;
}

type Decoder = (data: Uint8Array, at: number, out: Float32Array, to: number) => void;

const DECODERS: Record<Exclude<BlockType, "F32" | "F16" | "BF16">, Decoder> = {
  Q4_0: (data, at, out, to) => nibbles(data, at + 2, out, to, half(data, at), -8, 0),
  Q4_1: (data, at, out, to) => nibbles(data, at + 4, out, to, half(data, at), 0, half(data, at + 2)),
  Q5_0: (data, at, out, to) => fiveBits(data, at + 2, out, to, half(data, at), -16, 0),
  Q5_1: (data, at, out, to) => fiveBits(data, at + 4, out, to, half(data, at), 0, half(data, at + 2)),
  Q8_0: (data, at, out, to) => {
    const d = half(data, at);
    for (let i = 0; i < 32; i++) out[to + i] = d * signed(data[at + 2 + i]);
  },
  Q4_K: (data, at, out, to) => superBlock(data, at, out, to, at + 16, null),
  Q5_K: (data, at, out, to) => superBlock(data, at, out, to, at + 48, at + 16),
  Q6_K: decodeQ6K,
};

/** 16 bytes: the low halves are values 0 to 15, the high ones 16 to 31. value = d * (q + shift) + min */
function nibbles(data: Uint8Array, at: number, out: Float32Array, to: number, d: number, shift: number, min: number) {
  for (let i = 0; i < 16; i++) {
    out[to + i] = Math.fround(d * ((data[at + i] & 15) + shift)) + min;
    out[to + 16 + i] = Math.fround(d * ((data[at + i] >> 4) + shift)) + min;
  }
}

/** 4 bytes with the fifth bit of each value, then as above. */
function fiveBits(data: Uint8Array, at: number, out: Float32Array, to: number, d: number, shift: number, min: number) {
  for (let i = 0; i < 32; i++) {
    const low = i < 16 ? data[at + 4 + i] & 15 : data[at + 4 + i - 16] >> 4;
    const high = (data[at + (i >> 3)] >> (i & 7)) & 1;
    out[to + i] = Math.fround(d * (low + 16 * high + shift)) + min;
  }
}

/**
 * Eight sub-blocks of 32 values with a scale and a minimum of six bits each: value = d * scale * q - dmin * min.
 * `high`: where the fifth bits lie, one byte for the same value of each sub-block.
 */
function superBlock(data: Uint8Array, at: number, out: Float32Array, to: number, low: number, high: number | null) {
  const [d, dmin] = [half(data, at), half(data, at + 2)];
  for (let j = 0; j < 8; j++) {
    const [scale, min] = scaleAndMin(data, at + 4, j);
    const [step, offset] = [Math.fround(d * scale), Math.fround(dmin * min)];
    const from = low + 32 * (j >> 1);
    for (let i = 0; i < 32; i++) {
      const q = j % 2 === 0 ? data[from + i] & 15 : data[from + i] >> 4;
      const fifth = high === null ? 0 : (data[high + i] >> j) & 1;
      out[to + 32 * j + i] = Math.fround(step * (q + 16 * fifth)) - offset;
    }
  }
}

/** Twelve bytes hold eight scales and eight minima: the first four of each whole, the others in two parts. */
function scaleAndMin(data: Uint8Array, at: number, j: number): [scale: number, min: number] {
  if (j < 4) return [data[at + j] & 63, data[at + j + 4] & 63];
  const low = data[at + j + 4];
  return [(low & 15) | ((data[at + j - 4] >> 6) << 4), (low >> 4) | ((data[at + j] >> 6) << 4)];
}

/** 128 bytes of low fours, 64 of high twos, 16 signed scales, d. value = d * scale * (q - 32) */
function decodeQ6K(data: Uint8Array, at: number, out: Float32Array, to: number): void {
  const d = half(data, at + 208);
  for (let i = 0; i < 256; i++) {
    const [part, place] = [i >> 7, i & 127]; // Two halves alike, each in four quarters of 32.
    const [quarter, l] = [place >> 5, place & 31];
    const byte = data[at + 64 * part + 32 * (quarter & 1) + l];
    const low = quarter < 2 ? byte & 15 : byte >> 4;
    const high = (data[at + 128 + 32 * part + l] >> (2 * quarter)) & 3;
    const scale = signed(data[at + 192 + (i >> 4)]);
    out[to + i] = Math.fround(d * scale) * ((low | (high << 4)) - 32);
  }
}

/** d = max|x| / 127; q rounds half away from zero, unlike Math.round. Returns d. */
function encodeQ8(values: Float32Array, from: number, out: Uint8Array, at: number): number {
  let most = 0;
  for (let i = 0; i < 32; i++) most = Math.max(most, Math.abs(values[from + i]));
  const d = Math.fround(most / 127);
  const inverse = d === 0 ? 0 : Math.fround(1 / d);
  for (let i = 0; i < 32; i++) {
    const x = Math.fround(values[from + i] * inverse);
    out[at + i] = Math.sign(x) * Math.floor(Math.abs(x) + 0.5);
  }
  return d;
}

/** The value of the largest size, m, becomes -8: d = m / -8. Returns d. */
function encodeQ4(values: Float32Array, from: number, out: Uint8Array, at: number): number {
  let most = 0;
  for (let i = 0; i < 32; i++) if (Math.abs(values[from + i]) > Math.abs(most)) most = values[from + i];
  const d = Math.fround(most / -8);
  const inverse = d === 0 ? 0 : Math.fround(1 / d);
  const q = (i: number) => Math.min(15, Math.trunc(Math.fround(Math.fround(values[i] * inverse) + 8.5)));
  for (let i = 0; i < 16; i++) out[at + i] = q(from + i) | (q(from + 16 + i) << 4);
  return d;
}

/** The value of every float16, made once. */
let halves: Float32Array | undefined;

function half(data: Uint8Array, at: number): number {
  halves ??= decodeToFloat32("F16", new Uint8Array(Uint16Array.from({ length: 65_536 }, (_, bits) => bits).buffer));
  return halves[data[at] | (data[at + 1] << 8)];
}

function signed(byte: number): number {
  return (byte << 24) >> 24;
}
