// What the browser tests rely on: without these, the tests beside this one would pass on something else than they say.

import { expect, it } from "vitest";
import * as tf from "../../src/engine/tf.ts";

it("has WebGPU, in software at least", async () => {
  const adapter = await navigator.gpu.requestAdapter();
  expect(adapter).not.toBeNull();
});

it("has a private file system", async () => {
  const root = await navigator.storage.getDirectory();
  expect(root.kind).toBe("directory");
});

it("has one TensorFlow.js core, with gradients", async () => {
  await import("@tensorflow/tfjs-backend-cpu");
  await tf.setBackend("cpu");
  const gradient = tf.grad((x) => tf.matMul(x, x).sum())(tf.tensor2d([1, 2, 3, 4], [2, 2]));
  expect([...(await gradient.data())]).toEqual([7, 11, 9, 13]);
});
