// Rows of a table, whole, packed or in parts, and the gradient, which adds up rows taken more than once.

import { describe, expect, it } from "vitest";
import type { Table } from "../../src/engine/ops/table.ts";
import { takeRows } from "../../src/engine/ops/takeRows.ts";
import { pack } from "../../src/engine/packing.ts";
import * as tf from "../../src/engine/tf.ts";
import { integers, normal, type Tensors, useBackend } from "./harness.ts";
import { expectKernel, KERNEL_BACKENDS } from "./poison.ts";

describe.each(KERNEL_BACKENDS)("takeRows on %s", (backend) => {
  useBackend(backend);

  it.each([
    [1, 1, 33],
    [5, 7, 33],
    [40, 96, 33], // wider than a workgroup; some rows are not taken
    [3, 2, 70_000], // more tokens than a grid axis holds workgroups
  ])("agrees with its reference for a table of [%i, %i], %i rows taken", async (V, D, count) => {
    await expectKernel(backend, {
      inputs: { table: normal([V, D], 1), rows: integers([count], V, 2) },
      trained: ["table"],
      op: ({ table, rows }) => takeRows(table, rows),
      reference: ({ table, rows }) => tf.gather(table, rows),
    });
  });

  it.each([null, "f16", "int8", "int4"] as const)("takes rows of a table in parts, stored as %s", async (format) => {
    const parts = [4, 4, 3].map((rows, i): [Float32Array, [number, number]] => {
      return [normal([rows, 64], i).values as Float32Array, [rows, 64]];
    });
    const table = (): Table =>
      parts.map(([values, shape]) => (format ? pack(values, shape, format) : tf.tensor2d(values, shape)));
    const take = ({ rows }: Tensors) => takeRows(table(), rows);
    await expectKernel(backend, { inputs: { rows: integers([3, 9], 11, 2) }, trained: [], op: take, reference: take });
  });

  it("finds a row that the table lacks", async () => {
    const rows = tf.tensor1d([2, 3, -1], "int32");
    if (backend === "wasm") {
      expect(() => takeRows(tf.ones([3, 1]), rows)).toThrow("takeRows: row 3 is not among the table's 3");
      expect(() => takeRows(tf.ones([4, 1]), rows)).toThrow(/row -1 is not/);
    } else expect([...(await takeRows(tf.ones([3, 1]), rows).data())]).toEqual([1, NaN, NaN]);
  });

  it("refuses what is no table", () => {
    const rows = tf.tensor1d([0], "int32");
    expect(() => takeRows(tf.ones([3]), rows)).toThrow("takeRows: parts are [3]");
    expect(() => takeRows([tf.ones([3, 2]), tf.ones([4, 2])], rows)).toThrow("takeRows: parts are [3,2], [4,2]");
    expect(() => takeRows(tf.ones([3, 2]), tf.tensor1d([0]))).toThrow("rows are float32 [1], wanted int32");
  });
});
