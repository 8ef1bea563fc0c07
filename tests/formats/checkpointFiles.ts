// Checkpoint files in memory, good and bad, for tests.

import * as fc from "fast-check";
import { type ByteSink, type ByteSource, sourceOf } from "../../src/formats/bytes.ts";
import { DTYPE_BYTES, type Dtype } from "../../src/formats/numbers.ts";
import type { StreamedTensor, TensorToWrite } from "../../src/formats/safetensors.ts";

/** Tensors of all types that stand for themselves, empty ones and scalars too, under any names. */
export const anyTensors: fc.Arbitrary<TensorToWrite[]> = fc.uniqueArray(
  fc
    .tuple(
      fc.string({ unit: "binary" }).filter((name) => name !== "__metadata__"),
      fc.constantFrom<Dtype>("BOOL", "U8", "I16", "F16", "BF16", "F32", "I64", "F64"),
      fc.array(fc.nat(3), { maxLength: 3 }),
    )
    .chain(([name, dtype, shape]) => {
      const size = shape.reduce((product, n) => product * n, DTYPE_BYTES[dtype]);
      return fc.uint8Array({ minLength: size, maxLength: size }).map((data) => ({ name, dtype, shape, data }));
    }),
  { selector: ({ name }) => name, maxLength: 6 },
);

/** A file from a header as text and the bytes of its data. */
export function fileOf(header: string, dataSize: number): Uint8Array {
  const json = new TextEncoder().encode(header);
  const bytes = new Uint8Array(8 + json.length + dataSize);
  new DataView(bytes.buffer).setBigUint64(0, BigInt(json.length), true);
  bytes.set(json, 8);
  return bytes;
}

/** A header's entry for bytes. */
export function entry(begin: number, end: number, size = end - begin): string {
  return `{"dtype":"U8","shape":[${size}],"data_offsets":[${begin},${end}]}`;
}

/** The tensor in pieces of one byte, of three, or whole. */
export function streamed({ name, dtype, shape, data }: TensorToWrite, pieces: 0 | 1 | 3): StreamedTensor {
  async function* cut() {
    for (let at = 0; at < data.length; at += pieces) yield data.subarray(at, at + pieces);
  }
  return { name, dtype, shape, bytes: () => (pieces === 0 ? data : cut()) };
}

export interface MemorySink extends ByteSink {
  bytes(): Uint8Array;
}

export function memorySink(): MemorySink {
  const parts: Uint8Array[] = [];
  return {
    write: async (part) => void parts.push(part.slice()),
    bytes: () => new Uint8Array(Buffer.concat(parts)),
  };
}

/** The source, and the ranges that were read from it. */
export function watched(bytes: Uint8Array, name: string): ByteSource & { reads: [number, number][] } {
  const source = sourceOf(bytes, name);
  const reads: [number, number][] = [];
  return {
    ...source,
    reads,
    read(from, to) {
      reads.push([from, to]);
      return source.read(from, to);
    },
  };
}
