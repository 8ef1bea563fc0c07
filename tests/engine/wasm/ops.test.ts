// Every operation's WebAssembly kernels, forward and backward, against its definition and autograd on the cpu backend.

import { describe, expect, it } from "vitest";
import { matmul, matmulReference } from "../../../src/engine/ops/matmul.ts";
import { swiGlu } from "../../../src/engine/ops/swiGlu.ts";
import * as tf from "../../../src/engine/tf.ts";
import {
  activate,
  expectAgreement,
  expectSameBits,
  normal,
  run,
  toTensor,
  useBackend,
  type Comparison,
} from "../harness.ts";
import { poison } from "./poison.ts";

/** Agrees with the reference in memory that held NaN, and gives the same bits again. */
async function expectKernel(comparison: Comparison): Promise<void> {
  await expectAgreement("wasm", { ...comparison, poison });
  const { inputs, trained, op } = comparison;
  expectSameBits(await run(inputs, trained, op, poison), await run(inputs, trained, op));
}

describe("matmul on wasm", () => {
  it.each([
    [1, 1, 1],
    [4, 8, 2], // one whole tile
    [5, 9, 3], // one past the tile
    [3, 7, 257], // inner size past one block
    [129, 515, 5], // rows and columns past one block
    [33, 40, 300],
  ])("agrees with its reference for [%i, %i] over %i, in every layout", async (M, N, K) => {
    for (const [transposeA, transposeB] of [
      [false, false],
      [false, true],
      [true, false],
      [true, true],
    ]) {
      await expectKernel({
        inputs: {
          a: normal(transposeA ? [K, M] : [M, K], 1),
          b: normal(transposeB ? [N, K] : [K, N], 2),
        },
        trained: ["a", "b"],
        op: ({ a, b }) => matmul(a, b, transposeA, transposeB),
        reference: ({ a, b }) => matmulReference(a, b, transposeA, transposeB),
      });
    }
  });

  it("gives zeros where the inner size is 0", async () => {
    await activate("wasm");
    poison();
    const c = matmul(tf.zeros([3, 0]), tf.zeros([0, 9]));
    expect([...(await c.data())]).toEqual(new Array(27).fill(0));
  });
});

describe("a value that is not a number", () => {
  useBackend("wasm");

  it("reaches the result, so that a spoiled step is seen", async () => {
    const spoiled = (shape: number[]) =>
      toTensor({ ...normal(shape, 1), values: normal(shape, 1).values.fill(NaN, 2, 3) });
    const whole = (shape: number[]) => toTensor(normal(shape, 2));
    const results = {
      swiGlu: swiGlu(spoiled([9]), whole([9])),
      matmul: matmul(spoiled([2, 5]), whole([5, 3])),
    };
    for (const [name, y] of Object.entries(results))
      expect([name, (await y.data()).some(Number.isNaN)]).toEqual([name, true]);
  });
});

describe("the exponential of the kernels", () => {
  useBackend("wasm");

  it("is right to a relative error of 2e-7", async () => {
    // silu(-x) / -x = sigmoid(-x) = 1 / (1 + e^x): where x is large, the exponential alone.
    const xs = Float32Array.from({ length: 4001 }, (_, i) => 20 + (i * 60) / 4000);
    const y = await swiGlu(tf.tensor1d(xs).neg(), tf.tensor1d(xs.map((x) => -1 / x))).data();
    const worst = xs.reduce((most, x, i) => Math.max(most, Math.abs(y[i] * (1 + Math.exp(x)) - 1)), 0);
    expect(worst).toBeLessThan(4e-7); // The division, 1 / x and two products round too.
  });
});
