// Every operation's WGSL kernels, forward and backward, against its definition and autograd on the cpu backend.

import { afterEach, beforeAll, describe, expect, it } from "vitest";
import { gpuErrors } from "../../../src/engine/device.ts";
import { matmul, matmulReference } from "../../../src/engine/ops/matmul.ts";
import { rmsNorm, rmsNormReference } from "../../../src/engine/ops/rmsNorm.ts";
import { rotate, rotateReference, type RotaryLayout } from "../../../src/engine/ops/rotate.ts";
import { swiGlu, swiGluReference } from "../../../src/engine/ops/swiGlu.ts";
import * as tf from "../../../src/engine/tf.ts";
import {
  activate,
  expectAgreement,
  expectSameBits,
  floats,
  integers,
  normal,
  run,
  type Comparison,
} from "../harness.ts";
import { poison } from "./poison.ts";

beforeAll(() => activate("webgpu"));

afterEach(() => {
  expect(gpuErrors()).toEqual({ count: 0, latest: null });
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

describe("rmsNorm on webgpu", () => {
  it.each([
    [1, 2],
    [3, 65],
    [70, 4],
    [5, 96],
    [3, 300], // a workgroup for each row
    [35_000, 2], // more rows than a grid axis holds
  ])("agrees with its reference on [2, %i, %i]", async (rows, width) => {
    await expectKernel({
      inputs: { x: normal([2, rows, width], 1, 3), weight: normal([width], 2) },
      trained: ["x", "weight"],
      op: ({ x, weight }) => rmsNorm(x, weight, 1e-6),
      reference: ({ x, weight }) => rmsNormReference(x, weight, 1e-6),
    });
  });

  it("stays finite on rows of zeros", async () => {
    await expectKernel({
      inputs: { x: { ...normal([2, 5], 1), values: new Float32Array(10) }, weight: normal([5], 2) },
      trained: ["x", "weight"],
      op: ({ x, weight }) => rmsNorm(x, weight, 1e-6),
      reference: ({ x, weight }) => rmsNormReference(x, weight, 1e-6),
    });
  });
});

describe("swiGlu on webgpu", () => {
  it.each([[1], [7], [130]])("agrees with its reference on [3, %i]", async (width) => {
    await expectKernel({
      inputs: { gate: normal([3, width], 1, 4), up: normal([3, width], 2) },
      trained: ["gate", "up"],
      op: ({ gate, up }) => swiGlu(gate, up),
      reference: ({ gate, up }) => swiGluReference(gate, up),
    });
  });

  it("is right where the exponential ends", async () => {
    await expectKernel({
      inputs: { gate: floats([9], [-200, -100, -88, -60, 0, 60, 88, 100, 200]), up: normal([9], 2) },
      trained: ["gate", "up"],
      op: ({ gate, up }) => swiGlu(gate, up),
      reference: ({ gate, up }) => swiGluReference(gate, up),
    });
  });
});

describe("rotate on webgpu", () => {
  const cases: [RotaryLayout, number, number][] = [
    ["interleaved", 2, 5],
    ["interleaved", 8, 8],
    ["interleaved", 14, 17],
    ["half", 2, 5],
    ["half", 8, 8],
    ["half", 14, 17],
  ];
  it.each(cases)("agrees with its reference, %s, the last %i of %i entries", async (layout, P, D) => {
    await expectKernel({
      inputs: {
        x: normal([2, 3, 5, D], 1),
        positions: integers([2, 3], 7, 2),
        cos: normal([7, P / 2], 3),
        sin: normal([7, P / 2], 4),
      },
      trained: ["x"],
      op: ({ x, positions, cos, sin }) => rotate(x, positions, { cos, sin, layout }),
      reference: ({ x, positions, cos, sin }) => rotateReference(x, positions, { cos, sin, layout }),
    });
  });

  it("gives NaN for a position that the table lacks", async () => {
    const table = { cos: tf.ones([4, 1]), sin: tf.zeros([4, 1]), layout: "half" } as const;
    const y = rotate(tf.ones([1, 3, 1, 2]), tf.tensor2d([[3, 4, -1]], [1, 3], "int32"), table);
    expect([...(await y.data())]).toEqual([1, 1, NaN, NaN, NaN, NaN]);
  });
});
