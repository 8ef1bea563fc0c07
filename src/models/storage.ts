// How a model's matrices are stored: float32, or small and frozen; large tables in pieces that the device can bind.

import { largestPieceBytes, phantom } from "../engine/memory.ts";
import { isPacked, type Matrix, type PackedFormat, wordCount } from "../engine/packed.ts";
import { fitsBlocks, packedFrom, packRows, unpackWords } from "../engine/packing.ts";
import * as tf from "../engine/tf.ts";

export type Storage = "f32" | PackedFormat;

/** A matrix, or its rows in several pieces, in order, where one would be more than the device binds. */
export type Table = Matrix | Matrix[];

/**
 * Hands out a tensor of the checkpoint by name; the shape is what the config makes of it. With `rows`, from and to, only
 * those of a matrix: large ones are never held in float32 as a whole if they are stored small.
 */
export type ReadWeight = (name: string, shape: number[], rows?: [from: number, to: number]) => Float32Array;

/** Makes the tensors of a tree from a checkpoint. */
export interface Maker {
  /** What stays float32 however the rest is stored: norms, biases, the router. */
  plain: (name: string, shape: number[]) => tf.Tensor;
  /** What is put together from several tensors of the checkpoint. */
  stacked: (shape: number[], values: (read: ReadWeight) => Float32Array) => tf.Tensor;
  matrix: (name: string, shape: [number, number]) => Matrix;
  /** The embedding, the head. */
  table: (name: string, shape: [number, number]) => Table;
}

/** Makes the tree that a checkpoint holds, its matrices as they are to be stored. */
export function makerOf(read: ReadWeight, storage: Storage, mostBytes = largestPieceBytes()): Maker {
  return {
    plain: (name, shape) => tf.tensor(read(name, shape), shape, "float32"),
    stacked: (shape, values) => tf.tensor(values(read), shape, "float32"),
    matrix: (name, shape) => readPiece(read, storage, name, shape, [0, shape[0]]),
    table: (name, shape) =>
      inPieces(storage, shape, mostBytes, (from, to) => readPiece(read, storage, name, shape, [from, to])),
  };
}

/** Makes a tree of the same shapes that takes no memory, for plans. */
export function phantomMaker(storage: Storage, mostBytes = largestPieceBytes()): Maker {
  const matrix = (shape: [number, number]): Matrix =>
    isStoredSmall(storage, shape)
      ? { format: storage, shape, words: phantom([wordCount(storage, shape)], "int32") }
      : phantom(shape);
  return {
    plain: (_, shape) => phantom(shape),
    stacked: (shape) => phantom(shape),
    matrix: (_, shape) => matrix(shape),
    table: (_, shape) => inPieces(storage, shape, mostBytes, (from, to) => matrix([to - from, shape[1]])),
  };
}

/** A matrix whose rows are no whole blocks of the format stays float32. */
function isStoredSmall(storage: Storage, [, columns]: [number, number]): storage is PackedFormat {
  return storage !== "f32" && fitsBlocks(storage, columns);
}

/** As many pieces of as many rows as are needed; the last may have fewer. */
export function inPieces(
  storage: Storage,
  shape: [number, number],
  mostBytes: number,
  make: (from: number, to: number) => Matrix,
): Table {
  const pieces = Math.ceil(storedBytes(storage, shape) / mostBytes);
  if (pieces === 1) return make(0, shape[0]);
  const rows = Math.ceil(shape[0] / pieces);
  const starts = Array.from({ length: Math.ceil(shape[0] / rows) }, (_, i) => i * rows);
  return starts.map((from) => make(from, Math.min(shape[0], from + rows)));
}

function readPiece(
  read: ReadWeight,
  storage: Storage,
  name: string,
  shape: [number, number],
  [from, to]: [number, number],
): Matrix {
  const columns = shape[1];
  const own: [number, number] = [to - from, columns];
  const readRows = (first: number, last: number) =>
    first === 0 && last === shape[0] ? read(name, shape) : read(name, shape, [first, last]);
  if (!isStoredSmall(storage, shape)) return tf.tensor2d(readRows(from, to), own, "float32");
  const words = new Int32Array(wordCount(storage, own));
  const most = Math.max(1, Math.floor(MOST_VALUES_AT_ONCE / columns));
  for (let row = from; row < to; row += most) {
    packRows(readRows(row, Math.min(to, row + most)), row - from, words, own, storage);
  }
  return packedFrom(words, own, storage);
}

const MOST_VALUES_AT_ONCE = 1 << 22; // 16 MiB of float32 while a matrix is being packed.

/** Bytes of a matrix that is stored so. */
export function storedBytes(storage: Storage, shape: [number, number]): number {
  return 4 * (isStoredSmall(storage, shape) ? wordCount(storage, shape) : shape[0] * shape[1]);
}

export function piecesOf(table: Table): Matrix[] {
  return Array.isArray(table) ? table : [table];
}

/** The tensors that a table lies in. */
export function tensorsOf(table: Table): tf.Tensor[] {
  return piecesOf(table).map((piece) => (isPacked(piece) ? piece.words : piece));
}

/** Rows and columns of the whole. */
export function tableShape(table: Table): number[] {
  if (!Array.isArray(table)) return table.shape.slice();
  return [table.reduce((sum, { shape }) => sum + shape[0]!, 0), table[0].shape[1]!];
}

/** The values, row by row, as float32 on the processor. */
export async function tableValues(table: Table): Promise<Float32Array> {
  const pieces = await Promise.all(piecesOf(table).map(matrixValues));
  if (pieces.length === 1) return pieces[0];
  const all = new Float32Array(pieces.reduce((sum, { length }) => sum + length, 0));
  let start = 0;
  for (const piece of pieces) {
    all.set(piece, start);
    start += piece.length;
  }
  return all;
}

async function matrixValues(matrix: Matrix): Promise<Float32Array> {
  if (!isPacked(matrix)) return (await matrix.data()) as Float32Array;
  return unpackWords((await matrix.words.data()) as Int32Array, matrix.shape, matrix.format);
}

/** The float32 tensor that `name` is. Throws where it is stored small or in pieces: such weights are frozen. */
export function plainTensor(name: string, table: Table): tf.Tensor {
  if (Array.isArray(table)) {
    throw new Error(
      `${name} lies in ${table.length} pieces, which are frozen: train adapters, or take a smaller model.`,
    );
  }
  if (isPacked(table)) {
    throw new Error(
      `${name} is stored as ${table.format} and frozen: train adapters on this model, or load it as f32 to change its weights.`,
    );
  }
  return table;
}
