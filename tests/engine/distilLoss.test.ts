// Distillation from a teacher's largest log-probabilities, and the choice of them.

import { afterEach, describe, expect, it } from "vitest";
import { valueAndGradients } from "../../src/engine/gradients.ts";
import {
  distilLoss,
  distilLossReference,
  topLogProbabilities,
  topLogProbabilitiesReference,
} from "../../src/engine/ops/distilLoss.ts";
import { headLossWorkspace } from "../../src/engine/ops/headChunks.ts";
import type { Table } from "../../src/engine/ops/table.ts";
import * as tf from "../../src/engine/tf.ts";
import { activate, floats, ints, normal, type Plain, type Tensors, toTensor, useBackend } from "./harness.ts";
import { expectKernel, KERNEL_BACKENDS } from "./poison.ts";

const { elements } = headLossWorkspace;

describe.each(KERNEL_BACKENDS)("distilLoss on %s", (backend) => {
  useBackend(backend);
  afterEach(() => {
    headLossWorkspace.elements = elements;
  });

  const computation =
    (loss: typeof distilLoss, temperature: number, head = (t: Tensors): Table => t.weight) =>
    (t: Tensors) =>
      loss(t.h, head(t), { ids: t.ids, logProbabilities: t.logP, temperature }, t.weights);

  it.each([
    // M, D, V, k, temperature
    [1, 1, 2, 1, 1],
    [5, 3, 7, 3, 1],
    [9, 4, 130, 70, 2.5], // more of the teacher's words than threads, rows of weight 0
    [4, 3, 5, 5, 0.7], // all words: no rest
    [3, 2, 4099, 8, 1], // wide rows of threads
  ])(
    "agrees with its reference: %i tokens of width %i, %i words, %i of the teacher's, temperature %f",
    async (...sizes) => {
      const [M, D, V, k, temperature] = sizes;
      const comparison = {
        inputs: await inputs(M, D, V, k, temperature),
        op: computation(distilLoss, temperature),
        reference: computation(distilLossReference, temperature),
        tolerance: 1e-4, // What the teacher's words leave of 1 is a difference in float32.
      };
      await expectKernel(backend, { ...comparison, trained: ["h", "weight"] });
      await expectKernel(backend, { ...comparison, trained: ["h"] });
    },
  );

  it("is the same in chunks of tokens, with the head in parts", async () => {
    headLossWorkspace.elements = 25;
    const { weight, ...own } = await inputs(5, 3, 11, 4, 2);
    const head = (t: Tensors): Table => [0, 4, 8].map((row) => t.weight.slice([row, 0], [Math.min(4, 11 - row), 3]));
    await expectKernel(backend, {
      inputs: { ...own, weight },
      trained: ["h"],
      op: computation(distilLoss, 2, head),
      reference: computation(distilLossReference, 2, head),
      tolerance: 1e-4,
    });
  });

  it("is 0, and at rest, for a student that is its teacher", async () => {
    const [h, weight, weights] = [normal([4, 6], 1), normal([50, 6], 2), normal([4], 3)].map(toTensor);
    const teacher = topLogProbabilities(h, weight, 8, 1.5);
    const { value, gradients } = valueAndGradients(() => distilLoss(h, weight, teacher, weights), [h, weight]);
    for (const tensor of [value, ...gradients]) {
      expect(Math.max(...(await tensor.data()).map(Math.abs))).toBeLessThan(1e-5);
    }
  });

  it("finds a word of the teacher's that is none, except in padding", async () => {
    const [h, weight] = [tf.ones([2, 3]), tf.ones([4, 3])];
    const ids = tf.tensor2d([[1], [4]], [2, 1], "int32");
    const teacher = { ids, logProbabilities: tf.zeros([2, 1]), temperature: 1 };
    const loss = (weights: number[]) => distilLoss(h, weight, teacher, tf.tensor1d(weights));
    if (backend === "wasm")
      expect(() => loss([0.5, 0.5])).toThrow("distilLoss: target 4 is not in the vocabulary of 4");
    else expect((await loss([0.5, 0.5]).data())[0]).toBeNaN();
    expect((await loss([1, 0]).data())[0]).toBeCloseTo(Math.log(4), 5);
  });

  it("refuses what does not fit together", () => {
    const [h, weight, weights] = [tf.ones([2, 3]), tf.ones([4, 3]), tf.ones([2])];
    const teacher = { ids: tf.zeros([2, 1], "int32"), logProbabilities: tf.zeros([2, 2]), temperature: 1 };
    expect(() => distilLoss(h, weight, teacher, weights)).toThrow("ids are [2,1], log-probabilities [2,2]");
  });
});

describe.each(KERNEL_BACKENDS)("topLogProbabilities on %s", (backend) => {
  useBackend(backend);

  it.each([
    [1, 2, 1],
    [5, 70, 70],
    [3, 4099, 40],
  ])("agrees with its reference: %i tokens, %i words, the %i largest", async (M, V, k) => {
    const both = (top: typeof topLogProbabilities) => (t: Tensors) => {
      const { ids, logProbabilities } = top(t.h, t.weight, k, 1.5);
      return [ids, logProbabilities];
    };
    await expectKernel(backend, {
      inputs: { h: normal([M, 3], 1), weight: normal([V, 3], 2) },
      trained: [],
      op: both(topLogProbabilities),
      reference: both(topLogProbabilitiesReference as typeof topLogProbabilities),
    });
  });

  it("takes the first of equals first, though one thread has several", async () => {
    const scores = Array.from({ length: 200 }, (_, v) => ([1, 2, 65, 129].includes(v) ? 3 : 1));
    const { ids } = topLogProbabilities(tf.ones([1, 1]), tf.tensor2d(scores, [200, 1]), 7);
    expect([...(await ids.data())]).toEqual([1, 2, 65, 129, 0, 3, 4]);
  });

  it("refuses more than there are", () => {
    expect(() => topLogProbabilities(tf.ones([1, 1]), tf.ones([2, 1]), 3)).toThrow("k is 3 (wanted 1 to 2)");
  });
});

/** The k largest of another model's log-probabilities, and every third row of weight 0. */
async function inputs(M: number, D: number, V: number, k: number, temperature: number): Promise<Record<string, Plain>> {
  await activate("cpu");
  const logits = toTensor(normal([M, V], 5, 2)).div(temperature);
  const { values, indices } = tf.topk(logits.sub(tf.logSumExp(logits, -1, true)), k);
  const weights = normal([M], 4);
  weights.values.forEach((w, m) => (weights.values[m] = m % 3 === 1 ? 0 : Math.abs(w)));
  return {
    h: normal([M, D], 1),
    weight: normal([V, D], 2),
    ids: ints([M, k], [...(await indices.data())]),
    logP: floats([M, k], [...(await values.data())]),
    weights,
  };
}
