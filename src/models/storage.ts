// How a model's matrices are stored: float32, or small and frozen; large tables in pieces that the device can bind.

import { largestPieceBytes, phantom } from "../engine/memory.ts";
import { isPacked, type Matrix, type PackedFormat, wordCount } from "../engine/packed.ts";
import { packedFrom } from "../engine/packing.ts";
import { fitsBlocks, packedRows, placeRows, unpackWords } from "../engine/packWords.ts";
import * as tf from "../engine/tf.ts";

export type Storage = "f32" | PackedFormat;

/** A matrix, or its rows in several pieces, in order, where one would be more than the device binds. */
export type Table = Matrix | Matrix[];

/**
 * Hands out a tensor of the checkpoint by name; the shape is what the config makes of it. With `rows`, from and to, only
 * those of a matrix: large ones are never held in float32 as a whole if they are stored small.
 */
export type ReadWeight = (name: string, shape: number[], rows?: [from: number, to: number]) => Float32Array;

/** Hands out rows from..to-1 as packedRows has them, where the checkpoint is kept in this format; else null. */
export type ReadPacked = (name: string, format: PackedFormat, rows: [from: number, to: number]) => Int32Array | null;

interface Reader {
  read: ReadWeight;
  packed: ReadPacked;
}

/** A matrix that the checkpoint has in parts. */
export interface Stack {
  /** The whole's name in the tree. */
  name: string;
  parts: { name: string; shape: [number, number] }[];
  /** The parts lie side by side; else one below the other. */
  beside: boolean;
}

/** Makes the tensors of a tree from a checkpoint. */
export interface Maker {
  /** What stays float32 however the rest is stored: norms, biases, the router. */
  plain: (name: string, shape: number[]) => tf.Tensor;
  /** Matrices that the checkpoint has in parts, as many of each: read part by part, the first of each, the second of each. */
  stacks: (stacks: Stack[]) => Matrix[];
  matrix: (name: string, shape: [number, number]) => Matrix;
  /** The embedding, the head. */
  table: (name: string, shape: [number, number]) => Table;
}

/** Makes the tree that a checkpoint holds, its matrices as they are to be stored. */
export function makerOf(
  read: ReadWeight,
  storage: Storage,
  packed: ReadPacked = () => null,
  mostBytes = largestPieceBytes(),
): Maker {
  const reader = { read, packed };
  return {
    plain: (name, shape) => tf.tensor(read(name, shape), shape, "float32"),
    stacks: (stacks) => readStacks(reader, storage, stacks),
    matrix: (name, shape) => readPiece(reader, storage, name, shape, [0, shape[0]]),
    table: (name, shape) =>
      inPieces(storage, shape, mostBytes, (from, to) => readPiece(reader, storage, name, shape, [from, to])),
  };
}

/** Makes a tree of the same shapes that takes no memory, for plans. */
export function phantomMaker(storage: Storage, mostBytes = largestPieceBytes()): Maker {
  const matrix = (stored: Storage, shape: [number, number]): Matrix =>
    stored === "f32" ? phantom(shape) : { format: stored, shape, words: phantom([wordCount(stored, shape)], "int32") };
  const own = (shape: [number, number]) => matrix(storedAs(storage, [shape[1]]), shape);
  return {
    plain: (_, shape) => phantom(shape),
    stacks: (stacks) => stacks.map((stack) => matrix(stackedAs(storage, stack), stackShape(stack))),
    matrix: (_, shape) => own(shape),
    table: (_, shape) => inPieces(storage, shape, mostBytes, (from, to) => own([to - from, shape[1]])),
  };
}

/**
 * How a matrix is stored whose rows consist of parts of these lengths. Where they are no whole blocks of 32, as pruning
 * may leave them, f16 takes the place of int8 and int4; where they are odd, float32 that of all.
 */
export function storedAs(storage: Storage, lengths: number[]): Storage {
  const fits = (format: PackedFormat) => lengths.every((length) => fitsBlocks(format, length));
  if (storage === "f32" || fits(storage)) return storage;
  return fits("f16") ? "f16" : "f32";
}

function stackedAs(storage: Storage, { parts, beside }: Stack): Storage {
  const lengths = parts.map(({ shape }) => shape[1]);
  return storedAs(storage, beside ? lengths : lengths.slice(0, 1));
}

/** Rows and columns of the whole. */
export function stackShape({ parts, beside }: Stack): [number, number] {
  const [rows, columns] = parts[0].shape;
  const all = parts.reduce((sum, { shape }) => sum + shape[beside ? 1 : 0], 0);
  return beside ? [rows, all] : [all, columns];
}

/** One part at a time is held in float32, unless the whole is stored so. */
function readStacks(reader: Reader, storage: Storage, stacks: Stack[]): Matrix[] {
  const wholes = stacks.map((stack) => emptyStack(reader, stackedAs(storage, stack), stack));
  for (const i of stacks[0].parts.keys()) for (const whole of wholes) whole.put(i);
  return wholes.map(({ made }) => made());
}

/** A matrix to be put together: its parts go in in order. */
function emptyStack({ read, packed }: Reader, stored: Storage, stack: Stack) {
  const { parts, beside } = stack;
  const shape = stackShape(stack);
  const [rows, columns] = shape;
  let next: [row: number, column: number] = [0, 0];
  const moveOn = ([own, wide]: [number, number]): void => {
    next = beside ? [0, next[1] + wide] : [next[0] + own, 0];
  };
  if (stored !== "f32") {
    const words = new Int32Array(wordCount(stored, shape));
    const put = (i: number): void => {
      const { name, shape: own } = parts[i];
      const kept = packed(name, stored, [0, own[0]]) ?? packedRows(read(name, own), own[1], stored);
      placeRows(kept, own[1], words, shape, stored, next);
      moveOn(own);
    };
    return { put, made: (): Matrix => packedFrom(words, shape, stored) };
  }
  const values = new Float32Array(rows * columns);
  const put = (i: number): void => {
    const { name, shape: own } = parts[i];
    const part = read(name, own);
    for (let row = 0; row < own[0]; row++) {
      values.set(part.subarray(row * own[1], (row + 1) * own[1]), (next[0] + row) * columns + next[1]);
    }
    moveOn(own);
  };
  return { put, made: (): Matrix => tf.tensor2d(values, shape, "float32") };
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
  { read, packed }: Reader,
  storage: Storage,
  name: string,
  shape: [number, number],
  [from, to]: [number, number],
): Matrix {
  const columns = shape[1];
  const own: [number, number] = [to - from, columns];
  const stored = storedAs(storage, [columns]);
  const readRows = (first: number, last: number) =>
    first === 0 && last === shape[0] ? read(name, shape) : read(name, shape, [first, last]);
  if (stored === "f32") return tf.tensor2d(readRows(from, to), own, "float32");
  const words = new Int32Array(wordCount(stored, own));
  for (const [first, last] of inRows(from, to, columns)) {
    const rows = packed(name, stored, [first, last]) ?? packedRows(readRows(first, last), columns, stored);
    placeRows(rows, columns, words, own, stored, [first - from, 0]);
  }
  return packedFrom(words, own, stored);
}

/** Rows from..to-1 of so many columns, as many at a time as may be held in float32. */
export function* inRows(from: number, to: number, columns: number): Generator<[from: number, to: number]> {
  const most = Math.max(1, Math.floor(MOST_VALUES_AT_ONCE / columns));
  for (let row = from; row < to; row += most) yield [row, Math.min(to, row + most)];
}

const MOST_VALUES_AT_ONCE = 1 << 22; // 16 MiB of float32 while a matrix is being packed.

/** Bytes of a matrix that is to be stored so. */
export function storedBytes(storage: Storage, shape: [number, number]): number {
  const stored = storedAs(storage, [shape[1]]);
  return 4 * (stored === "f32" ? shape[0] * shape[1] : wordCount(stored, shape));
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
