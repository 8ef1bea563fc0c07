// The head's scores, whole and in parts.

import { describe, expect, it } from "vitest";
import { headLogits } from "../../src/engine/ops/headLogits.ts";
import { plainTable, type Table } from "../../src/engine/ops/table.ts";
import { pack } from "../../src/engine/packing.ts";
import * as tf from "../../src/engine/tf.ts";
import { normal, type Plain, useBackend } from "./harness.ts";
import { expectKernel, KERNEL_BACKENDS } from "./poison.ts";

describe.each(KERNEL_BACKENDS)("headLogits on %s", (backend) => {
  useBackend(backend);

  it.each([null, "f16", "int8", "int4"] as const)(
    "agrees with its reference for parts stored as %s",
    async (format) => {
      const parts = [5, 5, 2].map((rows, i): Plain => normal([rows, 64], i));
      const head = (): Table =>
        parts.map(({ values, shape }) => {
          const size = shape as [number, number];
          return format ? pack(values as Float32Array, size, format) : tf.tensor2d(values, size);
        });
      for (const M of [1, 9]) {
        await expectKernel(backend, {
          inputs: { h: normal([M, 64], 7) },
          trained: [],
          op: ({ h }) => headLogits(h, head()),
          reference: ({ h }) => tf.matMul(h, plainTable(head()), false, true),
        });
      }
    },
  );

  it("passes gradients through a whole head", async () => {
    await expectKernel(backend, {
      inputs: { h: normal([3, 5], 1), weight: normal([7, 5], 2) },
      trained: ["h", "weight"],
      op: ({ h, weight }) => headLogits(h, weight),
      reference: ({ h, weight }) => tf.matMul(h, weight, false, true),
    });
  });

  it("refuses a head of another width", () => {
    expect(() => headLogits(tf.ones([2, 3]), tf.ones([4, 2]))).toThrow("headLogits: h is [2,3], the head [4,2]");
  });
});
