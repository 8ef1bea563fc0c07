// Every operation's WGSL kernels, forward and backward, against its definition and autograd on the cpu backend.

import { afterEach, beforeAll, beforeEach, describe, expect, it } from "vitest";
import { gpuErrors } from "../../../src/engine/device.ts";
import { matmul, matmulReference } from "../../../src/engine/ops/matmul.ts";
import { activate, expectAgreement, expectSameBits, normal, run, type Comparison } from "../harness.ts";
import { poison } from "./poison.ts";

beforeAll(() => activate("webgpu"));

let errorsBefore = 0;
beforeEach(() => {
  errorsBefore = gpuErrors().count;
});
afterEach(() => {
  const { count, latest } = gpuErrors();
  expect(count - errorsBefore, String(latest)).toBe(0);
});

/** Agrees with the reference in recycled buffers that held NaN, and gives the same bits as in fresh ones. */
async function expectKernel(comparison: Comparison): Promise<void> {
  const { inputs, trained, op } = comparison;
  await activate("webgpu");
  const fresh = await run(inputs, trained, op);
  await expectAgreement("webgpu", { ...comparison, poison });
  expectSameBits(await run(inputs, trained, op, poison), fresh);
}

describe("matmul on webgpu", () => {
  it.each([
    [1, 1, 1],
    [2, 4, 3],
    [17, 33, 5], // one past a tile
    [64, 32, 2], // one whole tile
    [65, 35, 70],
    [130, 5, 33],
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
});
