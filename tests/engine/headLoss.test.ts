// The head with its cross-entropy: loss and gradients against the definition, over chunks and parts.

import { afterEach, describe, expect, it } from "vitest";
import { valueAndGradients } from "../../src/engine/gradients.ts";
import { headLossWorkspace } from "../../src/engine/ops/headChunks.ts";
import { headLoss, headLossReference } from "../../src/engine/ops/headLoss.ts";
import type { Table } from "../../src/engine/ops/table.ts";
import { pack } from "../../src/engine/packing.ts";
import * as tf from "../../src/engine/tf.ts";
import {
  expectAgreement,
  floats,
  integers,
  normal,
  type Plain,
  type Tensors,
  toTensor,
  useBackend,
} from "./harness.ts";
import { expectKernel, KERNEL_BACKENDS, poison } from "./poison.ts";

const { elements } = headLossWorkspace;

describe.each(KERNEL_BACKENDS)("headLoss on %s", (backend) => {
  useBackend(backend);
  afterEach(() => {
    headLossWorkspace.elements = elements;
  });

  const whole = (t: Tensors): Table => t.weight;
  const op =
    (head = whole) =>
    (t: Tensors) =>
      headLoss(t.h, head(t), t.targets, t.weights);
  const reference =
    (head = whole) =>
    (t: Tensors) =>
      headLossReference(t.h, head(t), t.targets, t.weights);

  it.each([
    [1, 1, 2],
    [5, 3, 7],
    [64, 4, 64], // whole tiles
    [257, 2, 9], // one past a block
    [3, 9, 515],
    [35, 1, 8193], // more than a block of words, two blocks of tokens, wide rows of threads
  ])("agrees with its reference for %i tokens of width %i, %i words, some rows of weight 0", async (M, D, V) => {
    const comparison = { inputs: inputs(M, D, V), op: op(), reference: reference() };
    await expectKernel(backend, { ...comparison, trained: ["h", "weight"] });
    await expectKernel(backend, { ...comparison, trained: ["h"] }); // A frozen head.
  });

  it("has a loss for each of more rows than a grid axis holds", async () => {
    const comparison = { inputs: inputs(65_537, 1, 2), trained: [], tolerance: 1e-4 }; // The sum is long.
    await expectAgreement(backend, { ...comparison, op: op(), reference: reference() });
  });

  it("is the same in chunks of tokens, the last one shorter", async () => {
    headLossWorkspace.elements = 20; // Two rows of seven words, then one.
    await expectKernel(backend, {
      inputs: inputs(5, 3, 7),
      trained: ["h", "weight"],
      op: op(),
      reference: reference(),
    });
  });

  it("is the same with the head in parts, the last one shorter", async () => {
    headLossWorkspace.elements = 40;
    const { weight: _, ...own } = inputs(7, 3, 11);
    const parts = { a: normal([4, 3], 5), b: normal([4, 3], 6), c: normal([3, 3], 7) };
    const head = (t: Tensors): Table => [t.a, t.b, t.c];
    const comparison = { inputs: { ...own, ...parts }, trained: ["h"], op: op(head), reference: reference(head) };
    await expectKernel(backend, comparison);
  });

  it.each(["f16", "int8", "int4"] as const)("takes a frozen head that is stored as %s, in parts", async (format) => {
    const { weight: _, ...own } = inputs(7, 64, 11);
    const matrices = [4, 4, 3].map((rows, i): [Float32Array, [number, number]] => {
      const { values } = normal([rows, 64], 5 + i);
      return [values as Float32Array, [rows, 64]];
    });
    const head = (): Table => matrices.map(([values, shape]) => pack(values, shape, format));
    await expectKernel(backend, { inputs: own, trained: ["h"], op: op(head), reference: reference(head) });
  });

  it("stays right with large logits", async () => {
    await expectKernel(backend, {
      inputs: {
        h: normal([4, 6], 1, 30),
        weight: normal([300, 6], 2, 10),
        targets: integers([4], 300, 3),
        weights: floats([4], [0.25, 0.25, 0.25, 0.25]),
      },
      trained: ["h", "weight"],
      op: op(),
      reference: reference(),
      tolerance: 1e-4, // Logits of several hundred keep five digits after the point in float32.
    });
  });

  it("honours the gradient that comes from outside", async () => {
    const comparison = { inputs: inputs(5, 3, 7), trained: ["h", "weight"] };
    const outside = (loss: tf.Tensor) => loss.mul(0.3).add(loss.square());
    await expectKernel(backend, {
      ...comparison,
      op: (t) => outside(op()(t)),
      reference: (t) => outside(reference()(t)),
    });
  });

  it("gives a gradient to a weight that is computed from what is differentiated by", async () => {
    const doubled = (t: Tensors): Table => t.weight.mul(2);
    const comparison = { inputs: inputs(4, 6, 9), op: op(doubled), reference: reference(doubled) };
    await expectKernel(backend, { ...comparison, trained: ["weight"] });
  });

  it("does not scale gradients where the loss itself is differentiated", async () => {
    const [h, weight, targets, weights] = Object.values(inputs(3, 2, 5)).map(toTensor);
    const runKernel = tf.engine().runKernel.bind(tf.engine());
    const kernels: string[] = [];
    tf.engine().runKernel = (name, ...rest) => {
      kernels.push(name);
      return runKernel(name, ...rest) as never;
    };
    valueAndGradients(() => headLoss(h, weight, targets, weights), [h, weight]);
    delete (tf.engine() as Partial<ReturnType<typeof tf.engine>>).runKernel;
    expect(kernels.filter((name) => name !== tf.Identity)).toEqual(["HeadLoss"]);
  });

  it("gives the same derivative as a difference of the loss", async () => {
    const [h, weight] = [toTensor(normal([2, 3], 1)), toTensor(normal([5, 3], 2))];
    const [targets, weights] = [tf.tensor1d([1, 4], "int32"), tf.tensor1d([0.5, 0.5])];
    const { gradients } = valueAndGradients(() => headLoss(h, weight, targets, weights), [h]);
    const step = 1e-2;
    const change = (by: number) => h.add(tf.tensor2d([by, 0, 0, 0, 0, 0], [2, 3]));
    const at = async (by: number) => (await headLoss(change(by), weight, targets, weights).data())[0];
    expect((await gradients[0].data())[0]).toBeCloseTo(((await at(step)) - (await at(-step))) / (2 * step), 4);
  });

  it("lets a value that is not a number reach the loss", async () => {
    const spoiled = { ...normal([2, 5], 1), values: normal([2, 5], 1).values.fill(NaN, 2, 3) };
    const targets = tf.tensor1d([0, 1], "int32");
    const loss = headLoss(toTensor(spoiled), toTensor(normal([7, 5], 2)), targets, tf.tensor1d([0.5, 0.5]));
    expect((await loss.data())[0]).toBeNaN();
  });

  it("finds a target that is no word, except in padding", async () => {
    const [h, weight, half] = [tf.ones([2, 3]), tf.ones([4, 3]), tf.tensor1d([0.5, 0.5])];
    const wrong = tf.tensor1d([1, -100], "int32");
    const loss = () => headLoss(h, weight, wrong, half);
    if (backend === "wasm") expect(loss).toThrow(/target -100 is not/);
    else expect((await loss().data())[0]).toBeNaN();
    poison(backend);
    expect((await headLoss(h, weight, wrong, tf.tensor1d([1, 0])).data())[0]).toBeCloseTo(Math.log(4), 6);
  });

  it("refuses what does not fit together", () => {
    const [h, targets, weights] = [tf.ones([2, 3]), tf.tensor1d([1, 1], "int32"), tf.ones([2])];
    expect(() => headLoss(h, tf.ones([4, 2]), targets, weights)).toThrow("h is [2,3], the head [4,2]");
    expect(() => headLoss(h, [tf.ones([2, 3]), tf.ones([4, 3])], targets, weights)).toThrow("parts are [2,3], [4,3]");
    expect(() => headLoss(h, tf.ones([4, 3]), targets, tf.ones([1]))).toThrow("weights are [1], for 2 rows of targets");
  });
});

function inputs(M: number, D: number, V: number): Record<string, Plain> {
  const weights = normal([M], 4);
  weights.values.forEach((w, m) => (weights.values[m] = m % 3 === 1 ? 0 : Math.abs(w)));
  return { h: normal([M, D], 1), weight: normal([V, D], 2), targets: integers([M], V, 3), weights };
}
