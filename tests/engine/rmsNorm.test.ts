// RMSNorm alone, at the start of a residual block, and over part of a row: kernels against the definitions.

import { describe, expect, it } from "vitest";
import { valueAndGradients } from "../../src/engine/gradients.ts";
import {
  rmsNorm,
  rmsNormOfPart,
  rmsNormOfPartReference,
  rmsNormOfRows,
  rmsNormOfRowsReference,
  rmsNormReference,
  rmsNormWithPass,
} from "../../src/engine/ops/rmsNorm.ts";
import * as tf from "../../src/engine/tf.ts";
import {
  expectSameBits,
  floats,
  ints,
  normal,
  type Plain,
  run,
  type Tensors,
  toTensor,
  useBackend,
} from "./harness.ts";
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

  it.each([
    // N, M of them, of which the last are padding, width
    [1, 1, 0, 2],
    [7, 5, 2, 13],
    [9, 12, 3, 6], // all rows, and padding
    [140, 60, 7, 3], // blocks of rows
    [5, 4, 1, 300], // a workgroup for each row
  ])("rmsNormOfRows agrees with its reference: of %i rows %i, %i padding, width %i", async (N, M, padding, width) => {
    const { positions, places, mask } = rowsOf(N, M, padding);
    const comparison = {
      inputs: { x: normal([N, width], 1), weight: normal([width], 2), positions, places, mask },
      op: ({ x, weight, positions, places, mask }: Tensors) =>
        rmsNormOfRows(x, weight, EPS, { positions, places }).mul(mask),
      reference: ({ x, weight, positions, mask }: Tensors) =>
        rmsNormOfRowsReference(x, weight, EPS, positions).mul(mask),
    };
    await expectKernel(backend, { ...comparison, trained: ["x", "weight"] });
    await expectKernel(backend, { ...comparison, trained: ["x"] });
  });

  it.each([
    [130, 5],
    [4, 300],
    ...(backend === "webgpu" ? [[66_000, 2]] : []), // more rows than a grid axis holds
  ])("rmsNormOfRows of all %i rows in their order, width %i, is rmsNorm", async (N, width) => {
    const order = ints([N], [...Array(N).keys()]);
    const inputs = { x: normal([N, width], 1), weight: normal([width], 2), order };
    const [wanted, found] = [
      await run(inputs, ["x", "weight"], ({ x, weight }) => rmsNorm(x, weight, EPS)),
      await run(inputs, ["x", "weight"], ({ x, weight, order }) =>
        rmsNormOfRows(x, weight, EPS, { positions: order, places: order }),
      ),
    ];
    expectSameBits(found, wanted);
  });

  it("rmsNormOfRows gives no row the gradient of padding", async () => {
    const x = toTensor(normal([3, 4], 1));
    const rows = { positions: tf.tensor1d([2, 2, 0], "int32"), places: tf.tensor1d([-1, -1, 0], "int32") };
    const { gradients } = valueAndGradients(() => rmsNormOfRows(x, tf.ones([4]), EPS, rows).sum() as tf.Scalar, [x]);
    const found = [...(await gradients[0].data())];
    expect(found.slice(0, 8)).toEqual(Array(8).fill(0));
    const alone = x.slice([2, 0], [1, 4]);
    const [want] = valueAndGradients(() => rmsNorm(alone, tf.ones([4]), EPS).sum() as tf.Scalar, [alone]).gradients;
    expect(found.slice(8)).toEqual([...(await want.data())]);
  });

  it("rmsNormOfRows finds a position that is none", async () => {
    const rows = { positions: tf.tensor1d([1, 2], "int32"), places: tf.tensor1d([-1, 0], "int32") };
    const normed = () => rmsNormOfRows(tf.ones([2, 3]), tf.ones([3]), EPS, rows);
    if (backend === "wasm") expect(normed).toThrow("rmsNormOfRows: position 2 is not among the 2 rows");
    else expect([...(await normed().data())].map(Number.isNaN)).toEqual([false, false, false, true, true, true]);
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
    const [positions, places] = [tf.tensor1d([0], "int32"), tf.tensor1d([0], "int32")];
    expect(() => rmsNormOfRows(x, weight, EPS, { positions, places })).toThrow(/rmsNormOfRows: x is \[2,3\]/);
    expect(() => rmsNormOfRows(x, tf.ones([3]), EPS, { positions, places })).toThrow(/places are int32 \[1\]/);
  });
});

/** M of N rows, out of order; the last are padding, which is one of the others or of the rest and is masked. */
function rowsOf(N: number, M: number, padding: number): Record<"positions" | "places" | "mask", Plain> {
  const [taken, step] = [M - padding, N % 5 === 0 ? 3 : 5];
  const positions = Array.from({ length: M }, (_, m) => (m < taken ? (m * step + 1) % N : m % Math.min(2, N)));
  const places = new Array(N).fill(-1);
  positions.slice(0, taken).forEach((row, m) => (places[row] = m));
  const mask = Array.from({ length: M }, (_, m) => (m < taken ? 1 : 0));
  return { positions: ints([M], positions), places: ints([N], places), mask: floats([M, 1], mask) };
}
