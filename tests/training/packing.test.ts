// Several sequences in one row: the same loss and the same gradients as of each in a row of its own.

import { describe, expect, it } from "vitest";
import { makeBatch } from "../../src/data/batches.ts";
import { record } from "../../src/engine/record.ts";
import * as tf from "../../src/engine/tf.ts";
import type { Model } from "../../src/models/decoder.ts";
import { disposeModel, namedWeights } from "../../src/models/weights.ts";
import type { Batch, Example } from "../../src/protocol/data.ts";
import { type LossAndGradients, lossAndGradients } from "../../src/training/accumulate.ts";
import { lossInput, overwriteInput } from "../../src/training/loss.ts";
import { createOptimizer, DEFAULT_OPTIMIZER, disposeOptimizer } from "../../src/training/optimizer.ts";
import { createStepper, shapeOf } from "../../src/training/step.ts";
import { useBackend } from "../engine/harness.ts";
import { contents, expectNear, expectNoLeak, FAMILIES, tinyIds, tinyModel } from "../models/tiny.ts";

const COMPILING = 180_000; // Milliseconds: a software GPU on a busy machine takes its time over new texts.

const SHAPE = { lengthMultiple: 4, positionMultiple: 8, maxLength: 64 };
/** In two rows of 16; the others too. */
const [LENGTHS, OTHERS] = [
  [9, 4, 14, 6, 4],
  [10, 3, 13, 6, 5],
];
/** In one row of 36, which has more tokens than the model has positions. */
const LONG = [9, 3, 14, 7, 5];

/** Sums in another order: some ten roundings of 1.2e-7, as a part of the largest. */
const TOLERANCE = 5e-6;

function examples(model: Model, lengths = LENGTHS): Example[] {
  return tinyIds(model, lengths).map((ids) => {
    return { ids: Int32Array.from(ids), weights: Float32Array.from(ids, (_, t) => (t % 3 === 1 ? 0 : 1 + (t % 2))) };
  });
}

const packedBatch = (model: Model, lengths = LENGTHS): Batch =>
  makeBatch(examples(model, lengths), { ...SHAPE, packing: true });

function trained(model: Model) {
  return namedWeights(model).filter(({ name }) => !name.endsWith("e_score_correction_bias"));
}

async function bitsOf({ value, gradients }: LossAndGradients): Promise<Buffer> {
  const parts = [];
  for (const tensor of [value, ...gradients]) parts.push(Buffer.from((await tensor.data()).slice().buffer));
  return Buffer.concat(parts);
}

describe.each(FAMILIES)("rows of several sequences of %s", (family) => {
  describe.each(["cpu", "wasm", "webgpu"] as const)("on %s", (backend) => {
    useBackend(backend);
    const model = () =>
      tinyModel(family, { num_hidden_layers: backend === "webgpu" ? 2 : 3, max_position_embeddings: 16 });

    it.each([
      ["two rows", LENGTHS, 2],
      ["one row", LONG, 1],
    ])("in %s have the loss and every gradient of a row for each", async (_, lengths, count) => {
      const own = model();
      const leaves = trained(own);
      const tensors = leaves.map(({ tensor }) => tensor);
      await expectNoLeak(async () => {
        const rows = examples(own, lengths);
        const [packed, padded] = [makeBatch(rows, { ...SHAPE, packing: true }), makeBatch(rows, SHAPE)];
        expect(packed.rows).toBe(count);
        const results = [packed, padded].map((batch) =>
          tf.tidy(() => lossAndGradients(own, [lossInput(batch)], tensors)),
        );
        const [[loss, ...gradients], [wantedLoss, ...wanted]] = await Promise.all(
          results.map(({ value, gradients: all }) => Promise.all([value, ...all].map((tensor) => tensor.data()))),
        );
        expectNear(loss, wantedLoss, TOLERANCE);
        leaves.forEach((__, i) => expectNear(gradients[i], wanted[i], TOLERANCE));
        expect(Math.max(...wanted.map((gradient) => Math.max(...gradient)))).toBeGreaterThan(1e-3);
        tf.dispose(results as unknown as tf.TensorContainer[]);
      });
      disposeModel(own);
    });

    it(
      "give the same bits directly, recorded, and with layers computed again",
      async () => {
        const own = model();
        const leaves = trained(own).map(({ tensor }) => tensor);
        await expectNoLeak(async () => {
          const [first, second] = [packedBatch(own), packedBatch(own, OTHERS)];
          expect(shapeOf(second)).toBe(shapeOf(first));
          expect(second.packed).not.toEqual(first.packed);
          const direct = async (batch: Batch, recompute = false) => {
            const result = tf.tidy(() => lossAndGradients(own, [lossInput(batch)], leaves, { recompute }));
            const bits = await bitsOf(result);
            tf.dispose(result as unknown as tf.TensorContainer);
            return bits;
          };
          const input = lossInput(first);
          const recording = await record(() => lossAndGradients(own, [input], leaves) as unknown as tf.NamedTensorMap);
          const replayed = () => bitsOf(recording.replay() as unknown as LossAndGradients);
          const wanted = await direct(first);
          expect((await replayed()).equals(wanted)).toBe(true);
          expect((await direct(first, true)).equals(wanted)).toBe(true);
          overwriteInput(input, second);
          expect((await replayed()).equals(await direct(second))).toBe(true);
          recording.dispose();
          tf.dispose(input as unknown as tf.TensorContainer);
        });
        disposeModel(own);
      },
      COMPILING,
    );
  });
});

describe("a step", () => {
  useBackend("wasm");

  it("of packed rows after one of padded rows of the same sizes is recorded anew", async () => {
    const [model, alone] = [tinyModel("qwen2"), tinyModel("qwen2")];
    const packed = packedBatch(model);
    const padded: Batch = { ...packed, packed: undefined };
    const [both, one] = [model, alone].map((own) => createOptimizer(trained(own), DEFAULT_OPTIMIZER));
    const [stepper, fresh] = [createStepper(model, both), createStepper(alone, one)];
    const before = await stepper.step([padded], { learningRate: 0 });
    const after = await stepper.step([packed], { learningRate: 0 });
    const wanted = await fresh.step([packed], { learningRate: 0 });
    expect(after.loss).toBe(wanted.loss);
    expect(after.loss).not.toBe(before.loss);
    expect(contents(model)).toEqual(contents(alone));
    for (const own of [stepper, fresh]) own.dispose();
    for (const own of [both, one]) disposeOptimizer(own);
    for (const own of [model, alone]) disposeModel(own);
  });
});
