// Joining rows, and parting their gradient, against the definition and autograd.

import { describe, expect, it } from "vitest";
import { join, joinReference } from "../../src/engine/ops/join.ts";
import * as tf from "../../src/engine/tf.ts";
import { activate, type Comparison, normal } from "./harness.ts";
import { expectKernel, KERNEL_BACKENDS } from "./poison.ts";

const compute: Pick<Comparison, "trained" | "op" | "reference" | "tolerance"> = {
  trained: ["a", "b"],
  op: ({ a, b }) => join(a, b),
  reference: ({ a, b }) => joinReference(a, b),
  tolerance: 0, // Nothing is computed.
};

describe.each(KERNEL_BACKENDS)("join on %s", (backend) => {
  it.each([
    [
      [3, 5, 7],
      [3, 5, 4],
    ],
    [
      [2, 64],
      [2, 65],
    ],
    [
      [1, 1],
      [1, 130],
    ],
  ])("agrees with its definition on [%s] and [%s]", async (a, b) => {
    await expectKernel(backend, { inputs: { a: normal(a, 1), b: normal(b, 2) }, ...compute });
  });
});

it("is refused where the rows are not as many", () => {
  expect(() => join(tf.zeros([3, 2]), tf.zeros([2, 2]))).toThrow("join: a is [3,2], b is [2,2]");
});

it("is right past the workgroups that a grid axis holds", async () => {
  await activate("webgpu");
  const rows = 65_536 * 16 + 1;
  const values = (width: number) => Float32Array.from({ length: rows * width }, (_, i) => (i % 8191) / 8);
  const [a, b] = [values(3), values(1)];
  const tensors = [tf.tensor2d(a, [rows, 3]), tf.tensor2d(b, [rows, 1])];
  const y = join(tensors[0], tensors[1]);
  const found = (await y.data()) as Float32Array;
  expect(found.every((value, i) => value === (i % 4 < 3 ? a[Math.floor(i / 4) * 3 + (i % 4)] : b[i >> 2]))).toBe(true);
  tf.dispose([...tensors, y]);
});
