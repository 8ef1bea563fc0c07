// Rows of a table by index: the embedding, and the choice of the tokens that carry loss.

import { defineOp, hasKernel, runOp } from "../op.ts";
import * as tf from "../tf.ts";
import { at, cpu, make, view } from "../wasm/heap.ts";

/** table: [V, D], rows: int32 [...] -> [..., D]. The gradient adds up rows taken more than once, in a fixed order. */
export function takeRows(table: tf.Tensor, rows: tf.Tensor): tf.Tensor {
  if (table.rank !== 2 || rows.dtype !== "int32") {
    throw new Error(`takeRows: table is [${table.shape}], rows are ${rows.dtype} [${rows.shape}], wanted int32`);
  }
  if (!hasKernel("TakeRows")) return tf.gather(table, rows as tf.Tensor1D);
  return runOp("TakeRows", { table, rows }, { tableRows: table.shape[0]! });
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
    const wrong = cpu().takeRows(at(table), at(rows), at(y), tf.util.sizeFromShape(rows.shape), D, tableRows);
    if (wrong >= 0) throw new Error(`takeRows: row ${view(rows)[wrong]} is not among the table's ${tableRows}`);
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
    const D = dy.shape.at(-1)!;
    const dtable = make([tableRows, D]);
    cpu().takeRowsGradient(at(dy), at(rows), at(dtable), tf.util.sizeFromShape(rows.shape), D, tableRows);
    return dtable;
  },
});
