// Rows of a table by index: the embedding, and the choice of the tokens that carry loss.

import { allocate, groupsFor, launch } from "../launch.ts";
import { defineOp, hasKernel, runOp } from "../op.ts";
import * as tf from "../tf.ts";
import { at, cpu, make, run, view } from "../wasm/heap.ts";
import { withScratch } from "../wgsl.ts";

/** table: [V, D], rows: int32 [...] -> [..., D]. The gradient adds up rows taken more than once, in a fixed order. */
export function takeRows(table: tf.Tensor, rows: tf.Tensor): tf.Tensor {
  if (table.rank !== 2 || rows.dtype !== "int32") {
    throw new Error(`takeRows: table is [${table.shape}], rows are ${rows.dtype} [${rows.shape}], wanted int32`);
  }
  if (!hasKernel("TakeRows")) return tf.gather(table, rows);
  return runOp("TakeRows", { table, rows }, { tableRows: table.shape[0] });
}

interface Attributes {
  tableRows: number;
}

defineOp<Attributes>({
  name: "TakeRows",
  saves: ["rows"],
  wasm: ({ table, rows }, { tableRows }) => {
    const D = table.shape[1];
    const y = make([...rows.shape, D]);
    const count = tf.util.sizeFromShape(rows.shape);
    const addresses = [at(table), at(rows), at(y)] as const;
    run(() => {
      const wrong = cpu().takeRows(...addresses, count, D, tableRows);
      if (wrong >= 0) throw new Error(`takeRows: row ${view(rows)[wrong]} is not among the table's ${tableRows}`);
    });
    return y;
  },
  webgpu: ({ table, rows }, { tableRows }) => {
    const D = table.shape[1];
    const y = allocate([...rows.shape, D]);
    const size = tf.util.sizeFromShape(y.shape);
    launch({
      name: "takeRows",
      source: TAKE,
      reads: { table, rows },
      writes: { y },
      sizes: { size, D, tableRows },
      numbers: { none: Number.NaN },
      workgroups: groupsFor(size),
    });
    return y;
  },
  gradient: ([dy], [rows], { tableRows }) => ({
    table: () => runOp("TakeRowsGradient", { dy, rows }, { tableRows }),
  }),
});

/** dy: [..., D], rows: int32 [...] -> [tableRows, D], zero where no row was taken. */
defineOp<Attributes>({
  name: "TakeRowsGradient",
  wasm: ({ dy, rows }, { tableRows }) => {
    const D = dy.shape.at(-1);
    const dtable = make([tableRows, D]);
    const count = tf.util.sizeFromShape(rows.shape);
    const addresses = [at(dy), at(rows), at(dtable)] as const;
    run(() => cpu().takeRowsGradient(...addresses, count, D, tableRows));
    return dtable;
  },
  webgpu: ({ dy, rows }, { tableRows }) => {
    const D = dy.shape.at(-1);
    const dtable = allocate([tableRows, D]);
    const count = tf.util.sizeFromShape(rows.shape);
    const size = tableRows * D;
    launch({ name: "zero", source: ZERO, reads: {}, writes: { dtable }, sizes: { size }, workgroups: groupsFor(size) });
    withScratch(
      [count],
      (next) => {
        const links = { reads: { rows }, writes: { next }, sizes: { count }, workgroups: groupsFor(count) };
        launch({ name: "linkEqualRows", source: LINK, ...links });
        launch({
          name: "takeRowsGradient",
          source: ADD_UP,
          reads: { dy, rows, next },
          writes: { dtable },
          sizes: { count, D, tableRows },
          workgroups: groupsFor(count * D),
        });
      },
      "int32",
    );
    return dtable;
  },
});

/** A row that the table lacks comes as NaN. */
const TAKE = /* wgsl */ `
  fn main(group: u32, thread: u32) {
    let i = group * THREADS + thread;
    if (i >= u.size) { return; }
    let row = rows[i / u.D];
    let known = row >= 0 && row < i32(u.tableRows);
    y[i] = select(u.none, table[select(0u, u32(row), known) * u.D + i % u.D], known);
  }
`;

const ZERO = /* wgsl */ `
  fn main(group: u32, thread: u32) {
    let i = group * THREADS + thread;
    if (i < u.size) { dtable[i] = 0.0; }
  }
`;

// Tokens that took the same row form a chain in their order: next[i] is the token after i, or `count` after the last;
// negative (-1 - next) where i is the first of its chain. No two threads then write to one place, and the order of the
// additions is fixed.
const LINK = /* wgsl */ `
  fn main(group: u32, thread: u32) {
    let i = group * THREADS + thread;
    if (i >= u.count) { return; }
    var before = 0u;
    while (before < i && rows[before] != rows[i]) { before++; }
    var after = i + 1u;
    while (after < u.count && rows[after] != rows[i]) { after++; }
    next[i] = select(i32(after), -1 - i32(after), before == i);
  }
`;

const ADD_UP = /* wgsl */ `
  fn main(group: u32, thread: u32) {
    let at = group * THREADS + thread;
    if (at >= u.count * u.D) { return; }
    let first = at / u.D;
    let column = at % u.D;
    let row = rows[first];
    if (next[first] >= 0 || row < 0 || row >= i32(u.tableRows)) { return; }
    var sum = dy[at];
    for (var i = u32(-1 - next[first]); i < u.count; i = u32(next[i])) { sum += dy[i * u.D + column]; }
    dtable[u32(row) * u.D + column] = sum;
  }
`;
