// RMSNorm alone, at the start of a residual block, and over part of a row: kernels against the definitions.

import { describe, expect, it } from "vitest";
import { valueAndGradients } from "../../src/engine/gradients.ts";
import {
  rmsNorm,
  rmsNormOfPart,
  rmsNormOfPartReference,
  rmsNormReference,
  rmsNormWithPass,
} from "../../src/engine/ops/rmsNorm.ts";
import * as tf from "../../src/engine/tf.ts";
import { floats, normal, toTensor, useBackend } from "./harness.ts";
import { expectKernel, KERNEL_BACKENDS } from "./poison.ts";

const EPS = 1e-6;

describe.each(KERNEL_BACKENDS)("on %s", (backend) => {
  useBackend(backend);

  it.each([
    [1, 2],
    [3, 65],
    [70, 4],
    [5, 96],
    [3, 300], // a workgroup for each row
    ...(backend === "webgpu" ? [[35_000, 2]] : []), // more rows than a grid axis holds
  ])("rmsNorm agrees with its reference on [2, %i, %i]", async (rows: number, width: number) => {
    await expectKernel(backend, {
      inputs: { x: normal([2, rows, width], 1, 3), weight: normal([width], 2) },
      trained: ["x", "weight"],
      op: ({ x, weight }) => rmsNorm(x, weight, EPS),
      reference: ({ x, weight }) => rmsNormReference(x, weight, EPS),
    });
  });

  it("rmsNorm stays finite on rows of zeros", async () => {
    await expectKernel(backend, {
      inputs: { x: floats([2, 5], new Array(10).fill(0)), weight: normal([5], 2) },
      trained: ["x", "weight"],
      op: ({ x, weight }) => rmsNorm(x, weight, EPS),
      reference: ({ x, weight }) => rmsNormReference(x, weight, EPS),
    });
  });

  it.each([
    [1, 1],
    [7, 13],
    [3, 300],
  ])("rmsNormWithPass adds the gradients of both uses on [2, %i, %i]", async (rows, width) => {
    const inputs = { x: normal([2, rows, width], 1), weight: normal([width], 2), other: normal([2, rows, width], 3) };
    const comparison = {
      inputs,
      op: ({ x, weight, other }: Record<string, tf.Tensor>) => {
        const [passed, normed] = rmsNormWithPass(x, weight, EPS);
        return passed.mul(other).add(normed);
      },
      reference: ({ x, weight, other }: Record<string, tf.Tensor>) =>
        x.mul(other).add(rmsNormReference(x, weight, EPS)),
    };
    await expectKernel(backend, { ...comparison, trained: ["x", "weight"] });
    await expectKernel(backend, { ...comparison, trained: ["x"] });
  });

  it("rmsNormWithPass gives x itself, which lives on when x is disposed of", async () => {
    const x = toTensor(normal([2, 3], 1));
    const [passed, normed] = rmsNormWithPass(x, tf.ones([3]), EPS);
    expect(passed.dataId).toBe(x.dataId);
    x.dispose();
    normed.dispose();
    expect([...(await passed.data())]).toEqual([...normal([2, 3], 1).values]);
    passed.dispose();
  });

  it.each([
    [1, 1, 1],
    [7, 12, 3],
    [70, 3, 2],
    [3, 300, 40],
  ])("rmsNormOfPart agrees with its reference on [2, %i, %i+%i]", async (rows, width, rest) => {
    const comparison = {
      inputs: { x: normal([2, rows, width + rest], 1), weight: normal([width], 2) },
      op: ({ x, weight }: Record<string, tf.Tensor>) => rmsNormOfPart(x, weight, EPS),
      reference: ({ x, weight }: Record<string, tf.Tensor>) => rmsNormOfPartReference(x, weight, EPS),
    };
    await expectKernel(backend, { ...comparison, trained: ["x", "weight"] });
    await expectKernel(backend, { ...comparison, trained: ["x"] });
  });

  it("computes a weight's gradient also where the weight was computed from a leaf", async () => {
    const [x, weight] = [toTensor(normal([4, 5], 1)), toTensor(normal([5], 2))];
    const gradientBy = (norm: typeof rmsNorm) =>
      valueAndGradients(() => norm(x, weight.mul(2), EPS).sum() as tf.Scalar, [weight]).gradients[0].data();
    const [found, want] = [await gradientBy(rmsNorm), await gradientBy(rmsNormReference)];
    want.forEach((value, i) => expect(found[i]).toBeCloseTo(value, 4));
  });

  it("passes on a value that is not a number", async () => {
    const x = normal([2, 5], 1);
    x.values[2] = Number.NaN;
    expect((await rmsNorm(toTensor(x), tf.ones([5]), EPS).data()).some(Number.isNaN)).toBe(true);
  });

  it("refuses a weight of another width", () => {
    const [x, weight] = [tf.ones([2, 3]), tf.ones([4])];
    expect(() => rmsNorm(x, weight, EPS)).toThrow(/rmsNorm: x is \[2,3\], weight is \[4\]/);
    expect(() => rmsNormWithPass(x, weight, EPS)).toThrow(/rmsNormWithPass/);
    expect(() => rmsNormOfPart(x, tf.ones([3]), EPS)).toThrow(/rmsNormOfPart/);
  });
});
