// A checkpoint as a browser keeps it: converted once, each matrix in the form in which it is computed with.
//
// A safetensors file. A matrix that is stored small is there as I32 [rows, words of a row], under its name and its format
// ("model.layers.0.mlp.up_proj.weight:int4"), each row's values and then its scales; all else is F32.

import { type PackedFormat, wordCount } from "../engine/packed.ts";
import { packedRows } from "../engine/packWords.ts";
import type { ByteSink, ByteSource, Weights } from "../formats/bytes.ts";
import { decodeToFloat32 } from "../formats/numbers.ts";
import { byteSize, layOut, readHeader, type TensorForm } from "../formats/safetensorsHeader.ts";
import { inRows, type ReadPacked, type Storage, storedAs } from "./storage.ts";

/** Weights with those matrices that are kept small. */
export interface KeptWeights extends Weights {
  storage: Storage;
  packed: ReadPacked;
}

export interface Conversion {
  /** Bytes of the whole file. */
  size: number;
  /** The greatest number of bytes, at most this, after which the conversion can be taken up again. */
  resumable(bytes: number): number;
  /** Write what follows the first `from` bytes, which are `resumable`. */
  write(sink: ByteSink, from?: number): Promise<void>;
}

/** Convert a checkpoint's weights. The file is the same whenever and however often it is interrupted. */
export function conversionOf(weights: Weights, storage: Storage): Conversion {
  const tensors = [...weights.tensors].map(([name, { shape }]) => keptForm(name, shape, storage));
  const { head, ordered, size } = layOut(tensors);
  const ends = [head.length];
  for (const tensor of ordered) ends.push(ends.at(-1)! + byteSize(tensor));
  return {
    size,
    resumable: (bytes) => ends.findLast((end) => end <= bytes) ?? 0,
    async write(sink, from = 0) {
      if (from === 0) await sink.write(head);
      for (const [i, tensor] of ordered.entries()) {
        if (ends[i] < from) continue;
        for (const piece of piecesOf(weights, tensor)) await sink.write(piece);
      }
    },
  };
}

interface KeptForm extends TensorForm {
  /** In the file. */
  name: string;
  source: { name: string; shape: number[]; format: PackedFormat | null };
}

/** Norms, biases and the router stay float32, as the tree has them. */
function keptForm(name: string, shape: number[], storage: Storage): KeptForm {
  const matrix = shape.length === 2 && !name.endsWith("mlp.gate.weight");
  const stored = matrix ? storedAs(storage, [shape[1]]) : "f32";
  if (stored === "f32") return { name, dtype: "F32", shape, source: { name, shape, format: null } };
  const kept = [shape[0], wordCount(stored, [1, shape[1]])];
  return { name: `${name}:${stored}`, dtype: "I32", shape: kept, source: { name, shape, format: stored } };
}

/** A few rows at a time. */
function* piecesOf(weights: Weights, { source: { name, shape, format } }: KeptForm): Generator<Uint8Array> {
  if (shape.length === 0) yield bytesOf(weights.read(name));
  const columns = shape.slice(1).reduce((product, size) => product * size, 1);
  for (const rows of inRows(0, shape[0] ?? 0, columns)) {
    const values = weights.read(name, rows);
    yield bytesOf(format ? packedRows(values, columns, format) : values);
  }
}

function bytesOf({ buffer, byteOffset, byteLength }: Float32Array | Int32Array): Uint8Array {
  return new Uint8Array(buffer, byteOffset, byteLength);
}

/** Open a file that a conversion has written. Throws a sentence where it is not whole. */
export function openKept(file: ByteSource, storage: Storage): KeptWeights {
  const spans = readHeader(file);
  const tensors = new Map<string, { shape: number[]; dtype: string }>();
  for (const [kept, { shape, dtype }] of spans) {
    const [name, format] = kept.split(":") as [string, PackedFormat | undefined];
    tensors.set(name, { shape: format ? [shape[0], columnsOf(shape[1], format)] : shape, dtype: format ?? dtype });
  }
  const bytes = (kept: string, rows?: [number, number]): Uint8Array | null => {
    const span = spans.get(kept);
    if (!span) return null;
    const [from, to] = rows ?? [0, span.shape[0] ?? 1];
    const row = (span.to - span.from) / (span.shape[0] ?? 1);
    return file.read(span.from + from * row, span.from + to * row);
  };
  return {
    storage,
    tensors,
    read(name, rows) {
      const found = bytes(name, rows);
      if (!found) throw new Error(`${file.name} keeps ${name} small, or not at all. Import the checkpoint again.`);
      return decodeToFloat32("F32", found);
    },
    packed(name, format, rows) {
      const found = bytes(`${name}:${format}`, rows);
      return found && new Int32Array(found.slice().buffer);
    },
  };
}

/** Of a row of so many words. */
function columnsOf(words: number, format: PackedFormat): number {
  return (words * 32) / wordCount(format, [1, 32]);
}
