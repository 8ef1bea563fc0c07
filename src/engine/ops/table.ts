// A table of rows, an embedding or the head: one matrix, or in parts by rows where that is more than the device binds.

import type { Inputs } from "../op.ts";
import { isPacked, type Matrix, type PackedFormat } from "../packed.ts";
import * as tf from "../tf.ts";
import { unpackedReference } from "./unpack.ts";

/** [V, D]. In parts of equally many rows each, but for the last. Only a whole, float32 table can have a gradient. */
export type Table = Matrix | Matrix[];

/** What an operation that has the table among its inputs is told of it. */
export interface TableAttributes {
  parts: { format: PackedFormat | null; rows: number }[];
}

/** A part as a kernel sees it. */
export interface Part {
  tensor: tf.TensorInfo;
  format: PackedFormat | null;
  rows: number;
  /** Rows of the parts before. */
  start: number;
}

function matricesOf(table: Table): Matrix[] {
  return Array.isArray(table) ? table : [table];
}

/** Its shape: [V, D]. Throws unless it is a table. */
export function tableShape(name: string, table: Table): [number, number] {
  const shapes = matricesOf(table).map(({ shape }) => shape);
  const [[most, width]] = shapes;
  const fits = shapes.every(([rows, columns], i) => {
    return columns === width && (i < shapes.length - 1 ? rows === most : rows! <= most!);
  });
  if (!fits || shapes.some((shape) => shape.length !== 2))
    throw new Error(`${name}: parts are [${shapes.join("], [")}]`);
  return [shapes.reduce((sum, [rows]) => sum + rows!, 0), width!];
}

/** The inputs `table`, `table1`, ...: of its parts, in order. */
export function tableInputs(table: Table): tf.NamedTensorMap {
  return Object.fromEntries(matricesOf(table).map((part, i) => [inputName(i), isPacked(part) ? part.words : part]));
}

function inputName(part: number): string {
  return part === 0 ? "table" : `table${part}`;
}

export function tableAttributes(table: Table): TableAttributes {
  const parts = matricesOf(table).map((part) => ({
    format: isPacked(part) ? part.format : null,
    rows: part.shape[0]!,
  }));
  return { parts };
}

export function partsOf(inputs: Inputs, { parts }: TableAttributes): Part[] {
  let start = 0;
  return parts.map(({ format, rows }, i) => {
    const part = { tensor: inputs[inputName(i)], format, rows, start };
    start += rows;
    return part;
  });
}

/** The whole in float32, for definitions in plain operations. */
export function plainTable(table: Table): tf.Tensor {
  const parts = matricesOf(table).map((part) => (isPacked(part) ? unpackedReference(part) : part));
  return parts.length === 1 ? parts[0] : tf.concat(parts, 0);
}
