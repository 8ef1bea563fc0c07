// The tensors of a GGUF file <-> those of the checkpoint, some rows at a time.

import type { Weights } from "./bytes.ts";
import { BLOCKS, type BlockType, bytesOf, decodeBlocks, encodeBlocks, type WrittenType } from "./ggufBlocks.ts";
import type { Placement } from "./ggufNames.ts";

/** A tensor's blocks in the file's order, a few rows at a time. */
export function* piecesOf(placement: Placement, type: WrittenType, weights: Weights): Generator<Uint8Array> {
  for (const values of rowsOf(placement, weights)) yield encodeNamed(placement.name, type, values);
}

function encodeNamed(name: string, type: WrittenType, values: Float32Array): Uint8Array {
  try {
    return encodeBlocks(type, values);
  } catch (error) {
    throw new Error(`"${name}" cannot be written as ${type}: ${(error as Error).message}`, { cause: error });
  }
}

const MOST_VALUES = 1 << 21; // 8 MiB of float32 at a time.

function* rowsOf({ kind, from, fromShape, shape }: Placement, weights: Weights): Generator<Float32Array> {
  if (kind === "keys" || kind === "values") {
    yield* headsOf(kind, from[0], fromShape, shape, weights);
    return;
  }
  const [rows, columns = 1] = fromShape;
  const step = Math.max(1, Math.floor(MOST_VALUES / columns));
  for (const name of from) {
    if (fromShape.length === 1) yield weights.read(name);
    else for (let row = 0; row < rows; row += step) yield weights.read(name, [row, Math.min(rows, row + step)]);
  }
}

/** kv_b_proj has for each head its key rows, then its value rows. */
function* headsOf(
  kind: "keys" | "values",
  name: string,
  [rows, latent]: number[],
  shape: number[],
  weights: Weights,
): Generator<Float32Array> {
  const heads = shape[0];
  const perHead = rows / heads;
  const own = kind === "keys" ? shape[2] : shape[1];
  for (let head = 0; head < heads; head++) {
    const first = head * perHead + (kind === "keys" ? 0 : perHead - own);
    const values = weights.read(name, [first, first + own]); // [own, latent]
    yield kind === "keys" ? transposed(values, own, latent) : values;
  }
}

function transposed(values: Float32Array, rows: number, columns: number): Float32Array {
  const out = new Float32Array(values.length);
  for (let r = 0; r < rows; r++) for (let c = 0; c < columns; c++) out[c * rows + r] = values[r * columns + c];
  return out;
}

/** A tensor of the file as it is stored, to be read by rows of its last axis. */
export interface Stored {
  type: BlockType;
  /** Its bytes from..to-1. */
  bytes: (from: number, to: number) => Uint8Array;
}

/** The checkpoint's tensors out of a file's. Only the blocks of the rows that are asked for are read and decoded. */
export function weightsOf(placements: Placement[], stored: (name: string) => Stored): Weights {
  const tensors = new Map<string, { shape: number[]; dtype: string }>();
  const readers = new Map<string, (from: number, to: number) => Float32Array>();
  for (const placement of placements) {
    const { name, kind, from, fromShape } = placement;
    const { type } = stored(name);
    for (const [i, hfName] of from.entries()) {
      tensors.set(hfName, { shape: fromShape, dtype: type });
      if (kind === "keys" || kind === "values") continue;
      const [rows, columns] = rowsAndColumns(fromShape);
      readers.set(hfName, (first, last) => decodeRows(stored(name), columns, i * rows + first, i * rows + last));
    }
    if (kind !== "keys") continue;
    const values = placements.find((other) => other.kind === "values" && other.from[0] === from[0])!;
    readers.set(from[0], (first, last) => joinHeads(placement, values, stored, first, last));
  }
  return { tensors, read: (name, rows) => readChecked(name, tensors, readers, rows) };
}

function readChecked(
  name: string,
  tensors: Map<string, { shape: number[] }>,
  readers: Map<string, (from: number, to: number) => Float32Array>,
  rows: [number, number] | undefined,
): Float32Array {
  const reader = readers.get(name);
  if (!reader) throw new Error(`The file has no tensor ${name}. Choose a file of the model that is asked for.`);
  const { shape } = tensors.get(name)!;
  const [from, to] = rows ?? [0, shape[0]];
  if (from < 0 || to > shape[0] || from > to) {
    throw new Error(`Rows ${from} to ${to} of ${name} were asked for, which has ${shape[0]}.`);
  }
  if (shape.length === 1) return reader(0, 1).subarray(from, to);
  return reader(from, to);
}

/** A vector is one row. */
function rowsAndColumns(shape: number[]): [rows: number, columns: number] {
  return shape.length === 1 ? [1, shape[0]] : [shape[0], shape[1]];
}

function decodeRows({ type, bytes }: Stored, columns: number, from: number, to: number): Float32Array {
  const row = bytesOf(type, columns);
  return decodeBlocks(type, bytes(from * row, to * row));
}

/** Rows from..to-1 of kv_b_proj. */
function joinHeads(
  keys: Placement,
  values: Placement,
  stored: (name: string) => Stored,
  from: number,
  to: number,
): Float32Array {
  const [, latent, K] = keys.shape;
  const V = values.shape[1];
  const out = new Float32Array((to - from) * latent);
  const put = (head: number, first: number, rows: Float32Array) => {
    const start = Math.max(0, from - head - first);
    const end = Math.min(rows.length / latent, to - head - first);
    if (start < end) out.set(rows.subarray(start * latent, end * latent), (head + first + start - from) * latent);
  };
  for (let h = Math.floor(from / (K + V)); h * (K + V) < to; h++) {
    const head = h * (K + V);
    put(head, 0, transposed(decodeRows(stored(keys.name), K, h * latent, (h + 1) * latent), latent, K));
    put(head, K, decodeRows(stored(values.name), latent, h * V, (h + 1) * V));
  }
  return out;
}

/** Whether rows of a tensor are whole blocks of a type. */
export function fitsBlocks({ shape }: Placement, type: BlockType): boolean {
  return shape.at(-1)! % BLOCKS[type].values === 0;
}
