import { expect, it } from "vitest";
import { gpuBackend, gpuErrors } from "../../../src/engine/device.ts";
import { add } from "../../../src/engine/ops/add.ts";
import * as tf from "../../../src/engine/tf.ts";
import { normal, toTensor, useBackend } from "../harness.ts";

useBackend("webgpu");

it("gives back what no tensor uses, and what is computed afterwards is right", async () => {
  const backend = gpuBackend();
  const errors = gpuErrors().count;
  const { values } = normal([1000], 1);
  const twice = values.map((value) => 2 * value);
  const x = toTensor({ shape: [1000], dtype: "float32", values });
  tf.dispose([add(x, x), add(x, x)]);
  expect(backend.trimPool()).toBeGreaterThanOrEqual(2 * 4000);
  expect(backend.trimPool()).toBe(0);
  const { numBytesAllocated, numBytesUsed } = backend.bufferManager as unknown as Record<string, number>;
  expect(numBytesAllocated).toBe(numBytesUsed);
  const sum = add(x, x);
  expect(await sum.data()).toEqual(twice);
  tf.dispose([x, sum]);
  expect(backend.trimPool()).toBeGreaterThanOrEqual(2 * 4000);
  expect(gpuErrors().count).toBe(errors);
});
