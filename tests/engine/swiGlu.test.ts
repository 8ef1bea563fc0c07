// SwiGLU's kernels, forward and backward, against the definition and autograd.

import { describe, expect, it } from "vitest";
import { swiGlu, swiGluReference } from "../../src/engine/ops/swiGlu.ts";
import * as tf from "../../src/engine/tf.ts";
import { activate, type Comparison, floats, normal } from "./harness.ts";
import { expectKernel, KERNEL_BACKENDS } from "./poison.ts";

const compute: Pick<Comparison, "trained" | "op" | "reference"> = {
  trained: ["gate", "up"],
  op: ({ gate, up }) => swiGlu(gate, up),
  reference: ({ gate, up }) => swiGluReference(gate, up),
};

describe.each(KERNEL_BACKENDS)("swiGlu on %s", (backend) => {
  it.each([
    [3, 1],
    [3, 7],
    [3, 130],
  ])("agrees with its definition on [%i, %i]", async (rows, width) => {
    const inputs = { gate: normal([rows, width], 1, 4), up: normal([rows, width], 2) };
    await expectKernel(backend, { inputs, ...compute });
  });

  it("is right where the exponential ends", async () => {
    const gate = floats([9], [-200, -100, -88, -60, 0, 60, 88, 100, 200]);
    await expectKernel(backend, { inputs: { gate, up: normal([9], 2) }, ...compute });
  });
});

it("is right past the workgroups that a grid axis holds", async () => {
  await activate("webgpu");
  const size = 65_536 * 64 + 1;
  const gate = Float32Array.from({ length: size }, (_, i) => (i % 97) / 10 - 5);
  const up = Float32Array.from({ length: size }, (_, i) => (i % 89) / 10);
  const [z, v] = [tf.tensor1d(gate), tf.tensor1d(up)];
  const y = (await swiGlu(z, v).data()) as Float32Array;
  const worst = y.reduce((most, found, i) => {
    const wanted = (gate[i] / (1 + Math.exp(-gate[i]))) * up[i];
    return Math.max(most, Math.abs(found - wanted));
  }, 0);
  expect(worst).toBeLessThan(1e-5);
});
