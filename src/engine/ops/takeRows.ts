// Rows of a table by index: the embedding.

import { allocate, groupsFor, launch } from "../launch.ts";
import { defineOp, hasKernel, type Inputs, runOp } from "../op.ts";
import * as tf from "../tf.ts";
import { at, cpu, make, run } from "../wasm/heap.ts";
import { withScratch } from "../wgsl.ts";
import { elements, FORMAT_CODES, scalesAt } from "./matmulText.ts";
import {
  type Part,
  partsOf,
  plainTable,
  type Table,
  type TableAttributes,
  tableAttributes,
  tableInputs,
  tableShape,
} from "./table.ts";

// V rows of the table, D columns.

/**
 * table: [V, D], rows: int32 [...] -> [..., D]. The gradient adds up rows taken more than once, in a fixed order. A table
 * that is packed or in parts has none.
 */
export function takeRows(table: Table, rows: tf.Tensor): tf.Tensor {
  const [V, D] = tableShape("takeRows", table);
  if (rows.dtype !== "int32") throw new Error(`takeRows: rows are ${rows.dtype} [${rows.shape}], wanted int32`);
  if (!hasKernel("TakeRows")) return tf.gather(plainTable(table), rows);
  return runOp("TakeRows", { ...tableInputs(table), rows }, { ...tableAttributes(table), V, D });
}

interface Attributes extends TableAttributes {
  V: number;
  D: number;
}

defineOp<Attributes>({
  name: "TakeRows",
  saves: ["rows"],
  wasm: (inputs, attributes) => {
    const { V, D } = attributes;
    const { rows } = inputs;
    const y = make([...rows.shape, D]);
    const count = tf.util.sizeFromShape(rows.shape);
    const [rowsAt, to] = [at(rows), at(y)];
    const parts = partsOf(inputs, attributes).map(({ tensor, format, ...part }) => {
      return { ...part, from: at(tensor), code: format ? FORMAT_CODES[format] : -1 };
    });
    run(() => {
      const wrong = cpu().firstOutside(rowsAt, count, V);
      if (wrong >= 0) {
        throw new Error(`takeRows: row ${cpu().integerAt(rowsAt, wrong)} is not among the table's ${V}`);
      }
      for (const { from, code, rows: own, start } of parts) {
        cpu().takeRows(from, code, own, start, rowsAt, to, count, D);
      }
    });
    return y;
  },
  webgpu: (inputs, attributes) => {
    const y = allocate([...inputs.rows.shape, attributes.D]);
    for (const part of partsOf(inputs, attributes)) takePart(part, inputs, y, attributes);
    return y;
  },
  gradient: ([dy], [rows], { V }) => ({
    table: () => runOp("TakeRowsGradient", { dy, rows }, { V }),
  }),
});

/** Those of the rows that are in one part. */
function takePart(
  { tensor, format, rows: own, start }: Part,
  { rows }: Inputs,
  y: tf.TensorInfo,
  { V, D }: Attributes,
) {
  const size = tf.util.sizeFromShape(y.shape);
  launch({
    name: "takeRows",
    source: takeText(elements({ name: "table", vectors: false, format }, "value")),
    reads: { table: tensor, rows },
    writes: { y },
    sizes: { size, D, V, own, start, valueScales: format ? scalesAt(format, tensor) : 0 },
    numbers: { none: Number.NaN },
    workgroups: groupsFor(size),
  });
}

/** A row that the table lacks comes as NaN, from its first part. */
const takeText = (value: string): string => /* wgsl */ `
  ${value}
  fn main(group: u32, thread: u32) {
    let i = group * THREADS + thread;
    if (i >= u.size) { return; }
    let row = rows[i / u.D];
    let known = row >= 0 && row < i32(u.V);
    let place = select(0u, u32(row), known) - u.start; // Past all rows for those before the part.
    if (known && place < u.own) { y[i] = valueone(place * u.D + i % u.D); }
    if (!known && u.start == 0u) { y[i] = u.none; }
  }
`;

/** dy: [..., D], rows: int32 [...] -> [V, D], zero where no row was taken. */
defineOp<{ V: number }>({
  name: "TakeRowsGradient",
  wasm: ({ dy, rows }, { V }) => {
    const D = dy.shape.at(-1);
    const dtable = make([V, D]);
    const count = tf.util.sizeFromShape(rows.shape);
    const addresses = [at(dy), at(rows), at(dtable)] as const;
    run(() => cpu().takeRowsGradient(...addresses, count, D, V));
    return dtable;
  },
  webgpu: ({ dy, rows }, { V }) => {
    const D = dy.shape.at(-1);
    const dtable = allocate([V, D]);
    const count = tf.util.sizeFromShape(rows.shape);
    const size = Math.max(V * D, 2 * V);
    withScratch(
      [2, V],
      (ends) => {
        launch({
          name: "clearTable",
          source: CLEAR,
          reads: {},
          writes: { dtable, ends },
          sizes: { size: V * D, V, count },
          workgroups: groupsFor(size),
        });
        launch({
          name: "findEnds",
          source: FIND_ENDS,
          reads: { rows },
          writes: { ends },
          atomics: ["ends"],
          sizes: { count, V },
          workgroups: groupsFor(count),
        });
        launch({
          name: "takeRowsGradient",
          source: ADD_UP,
          reads: { dy, rows, ends },
          writes: { dtable },
          sizes: { count, D, V },
          workgroups: count,
        });
      },
      "int32",
    );
    return dtable;
  },
});

/** Zeros in the table, and in `ends`, for each of its rows, what is after and before every token. */
const CLEAR = /* wgsl */ `
  fn main(group: u32, thread: u32) {
    let i = group * THREADS + thread;
    if (i < u.size) { dtable[i] = 0.0; }
    if (i < u.V) { ends[i] = i32(u.count); }
    if (i >= u.V && i < 2u * u.V) { ends[i] = -1; }
  }
`;

/** ends: the first and the last token that took each row. */
const FIND_ENDS = /* wgsl */ `
  fn main(group: u32, thread: u32) {
    let i = group * THREADS + thread;
    if (i >= u.count || rows[i] < 0 || rows[i] >= i32(u.V)) { return; }
    atomicMin(&ends[rows[i]], i32(i));
    atomicMax(&ends[i32(u.V) + rows[i]], i32(i));
  }
`;

/** One workgroup per token; that of the first to take a row adds up all who took it, in their order, to the last. */
const ADD_UP = /* wgsl */ `
  fn main(group: u32, thread: u32) {
    if (group >= u.count) { return; }
    let row = rows[group];
    if (row < 0 || row >= i32(u.V) || ends[row] != i32(group)) { return; }
    let last = u32(ends[i32(u.V) + row]);
    let start = u32(row) * u.D;
    for (var c = thread; c < u.D; c += THREADS) { dtable[start + c] = dy[group * u.D + c]; }
    for (var i = group + 1u; i <= last; i++) {
      if (rows[i] != row) { continue; }
      for (var c = thread; c < u.D; c += THREADS) { dtable[start + c] += dy[i * u.D + c]; }
    }
  }
`;
