// Multi-token prediction against its equations, written out sequence by sequence in plain operations.

import { describe, expect, it } from "vitest";
import { makeBatch } from "../../src/data/batches.ts";
import { valueAndGradients } from "../../src/engine/gradients.ts";
import { record } from "../../src/engine/record.ts";
import * as tf from "../../src/engine/tf.ts";
import { decoderLayer, hiddenStates, type Model } from "../../src/models/decoder.ts";
import { disposeModel } from "../../src/models/weights.ts";
import type { Batch, Example } from "../../src/protocol/data.ts";
import { type LossAndGradients, lossAndGradients } from "../../src/training/accumulate.ts";
import { lossInput, mtpOf, overwriteInput } from "../../src/training/loss.ts";
import { createOptimizer, DEFAULT_OPTIMIZER, disposeOptimizer } from "../../src/training/optimizer.ts";
import { createStepper } from "../../src/training/step.ts";
import { trainableWeights } from "../../src/training/trainable.ts";
import { activate, useBackend } from "../engine/harness.ts";
import { contents, expectNear, expectNoLeak, tinyIds, tinyModel } from "./tiny.ts";

const COMPILING = 180_000; // Milliseconds: a software GPU on a busy machine takes its time over new texts.

const SHAPE = { lengthMultiple: 4, positionMultiple: 8, maxLength: 64 };
const LAMBDA = 0.3;
/** The shortest sequences are too short for the second depth, and for both. */
const [LENGTHS, OTHERS] = [
  [9, 4, 3, 2, 7],
  [8, 5, 2, 3, 7],
];

const mtpModel = (depths: number, changes = {}): Model =>
  tinyModel("deepseek", { num_nextn_predict_layers: depths, num_hidden_layers: 2, ...changes });

function examples(model: Model, lengths = LENGTHS): Example[] {
  return tinyIds(model, lengths).map((ids) => {
    return { ids: Int32Array.from(ids), weights: Float32Array.from(ids, (_, t) => [1, 2, 1, 0][t % 4]) };
  });
}

/** DeepSeek-V3, eq. 21 to 25, the decoder layers apart, which are checked against the reference elsewhere. */
function definition(model: Model, all: Example[]): { main: tf.Scalar; total: tf.Scalar } {
  const { rmsNormEps: eps, hiddenSize: D, vocabSize } = model.config;
  const total = all.reduce((sum, { weights }) => weights.subarray(1).reduce((own, weight) => own + weight, sum), 0);
  const scaled = (x: tf.Tensor, weight: tf.Tensor) => x.div(x.square().mean(-1, true).add(eps).sqrt()).mul(weight);
  const embedding = model.embedTokens as tf.Tensor2D;
  /** Mean loss of states h[i] that predict the tokens at i + ahead. */
  const crossEntropy = (h: tf.Tensor, { ids, weights }: Example, ahead: number) => {
    const logits = tf.matMul(h as tf.Tensor2D, (model.lmHead ?? embedding) as tf.Tensor2D, false, true);
    const own = tf.logSoftmax(logits).mul(tf.oneHot(tf.tensor1d(ids.slice(ahead), "int32"), vocabSize));
    return own
      .sum(-1)
      .mul(tf.tensor1d(weights.slice(ahead)))
      .sum()
      .neg()
      .div(total);
  };
  const losses = all.map((one) => {
    const T = one.ids.length - 1;
    let h = hiddenStates(model, { ids: tf.tensor2d(one.ids.slice(0, T), [1, T], "int32") }).reshape([T, D]);
    const main = crossEntropy(h, one, 1);
    const further = model.mtp.slice(0, T - 1).map((module, i) => {
      const [k, rows] = [i + 1, T - i - 1];
      const next = tf.gather(embedding, tf.tensor1d(one.ids.slice(k, k + rows), "int32"));
      const [e, before] = [scaled(next, module.enorm.weight), scaled(h.slice([0, 0], [rows, D]), module.hnorm.weight)];
      const z = tf.matMul(tf.concat([e, before], 1), module.ehProj.weight as tf.Tensor, false, true);
      const positions = tf.tensor2d([...Array(rows).keys()], [1, rows], "int32");
      h = decoderLayer(module.layer, z.reshape([1, rows, D]), model, { positions }).reshape([rows, D]);
      return crossEntropy(scaled(h, module.sharedHeadNorm.weight), one, k + 1);
    });
    return { main, further };
  });
  const main = tf.addN(losses.map((one) => one.main)) as tf.Scalar;
  const further = losses.flatMap((one) => one.further).reduce((sum, loss) => sum.add(loss));
  return { main, total: main.add(further.mul(LAMBDA / model.mtp.length)) };
}

/** Loss and gradients by name, read back. */
async function read({ value, gradients }: LossAndGradients): Promise<Float32Array[]> {
  const values = await Promise.all([value, ...gradients].map(async (tensor) => (await tensor.data()).slice()));
  tf.dispose([value, ...gradients]);
  return values as Float32Array[];
}

function bits(all: ArrayBufferView[]): Buffer {
  return Buffer.concat(all.map(({ buffer, byteOffset, byteLength }) => Buffer.from(buffer, byteOffset, byteLength)));
}

async function wantedOf(depths: number, changes: object): Promise<Float32Array[]> {
  await activate("cpu");
  const model = mtpModel(depths, changes);
  const leaves = trainableWeights(model, true).map(({ tensor }) => tensor);
  const result = tf.tidy(() => {
    const main = definition(model, examples(model)).main;
    const { gradients } = valueAndGradients(() => definition(model, examples(model)).total, leaves);
    return { value: main, gradients };
  });
  disposeModel(model);
  return read(result);
}

describe.each(["cpu", "wasm", "webgpu"] as const)("multi-token prediction on %s", (backend) => {
  it.each([
    [1, false, { tie_word_embeddings: false }],
    [2, false, {}],
    [2, true, {}],
  ])("%i layers deep, in packed rows %s, has the gradients of the definition", async (depths, packing, changes) => {
    const wanted = await wantedOf(depths, changes);
    await activate(backend);
    const model = mtpModel(depths, changes);
    const leaves = trainableWeights(model, true);
    await expectNoLeak(async () => {
      const batch = makeBatch(examples(model), { ...SHAPE, packing });
      const tensors = leaves.map(({ tensor }) => tensor);
      const input = () => lossInput(batch, mtpOf(model, LAMBDA));
      const found = await read(tf.tidy(() => lossAndGradients(model, [input()], tensors)));
      expectNear(found[0], wanted[0], 1e-5); // Told is the loss of the next token.
      leaves.forEach((_, i) => expectNear(found[i + 1], wanted[i + 1], 2e-5));
    });
    const largest = (name: string) =>
      Math.max(...wanted[1 + leaves.findIndex((one) => one.name === name)].map(Math.abs));
    for (const part of ["eh_proj", "enorm", "hnorm", "self_attn.o_proj", "shared_head.norm"]) {
      for (let k = 0; k < depths; k++) expect(largest(`model.layers.${2 + k}.${part}.weight`)).toBeGreaterThan(1e-5);
    }
    disposeModel(model);
  });

  it(
    "gives the same bits directly, recorded, and with layers computed again",
    async () => {
      await activate(backend);
      const model = backend === "webgpu" ? mtpModel(1, { num_hidden_layers: 1 }) : mtpModel(2);
      const leaves = trainableWeights(model, true).map(({ tensor }) => tensor);
      const mtp = mtpOf(model, LAMBDA);
      await expectNoLeak(async () => {
        const [first, second] = [LENGTHS, OTHERS].map((lengths) =>
          makeBatch(examples(model, lengths), { ...SHAPE, packing: true }),
        );
        const direct = (batch: Batch, recompute = false) =>
          read(tf.tidy(() => lossAndGradients(model, [lossInput(batch, mtp)], leaves, { recompute })));
        const input = lossInput(first, mtp);
        const recording = await record(() => lossAndGradients(model, [input], leaves) as unknown as tf.NamedTensorMap);
        const replayed = async () => {
          const { value, gradients } = recording.replay() as unknown as LossAndGradients;
          return Promise.all([value, ...gradients].map(async (tensor) => (await tensor.data()).slice()));
        };
        const wanted = bits(await direct(first));
        expect(bits(await replayed()).equals(wanted)).toBe(true);
        expect(bits(await direct(first, true)).equals(wanted)).toBe(true);
        overwriteInput(input, second, mtp);
        expect(bits(await replayed()).equals(bits(await direct(second)))).toBe(true);
        recording.dispose();
        tf.dispose(input as unknown as tf.TensorContainer);
      });
      disposeModel(model);
    },
    COMPILING,
  );
});

describe("training with multi-token prediction", () => {
  useBackend("wasm");

  it("in several batches has the gradients of one", async () => {
    const model = mtpModel(2);
    const leaves = trainableWeights(model, true).map(({ tensor }) => tensor);
    const mtp = mtpOf(model, LAMBDA);
    const all = examples(model);
    const totalWeight = all.reduce((sum, { weights }) => weights.subarray(1).reduce((a, b) => a + b, sum), 0);
    const shape = { ...SHAPE, totalWeight };
    const [whole, parts] = [[all], [all.slice(0, 2), all.slice(2)]].map((split) =>
      split.map((own) => makeBatch(own, shape)),
    );
    const of = (batches: Batch[]) =>
      read(
        tf.tidy(() =>
          lossAndGradients(
            model,
            batches.map((batch) => lossInput(batch, mtp)),
            leaves,
          ),
        ),
      );
    const [one, several] = [await of(whole), await of(parts)];
    one.forEach((values, i) => expectNear(several[i], values, 3e-6));
    disposeModel(model);
  });

  it("moves the layers that predict further, balances their routers, and tells the loss of the next token", async () => {
    const [model, plain] = [mtpModel(1), mtpModel(1)];
    const before = contents(model);
    const batch = makeBatch(examples(model), SHAPE);
    const steppers = [model, plain].map((own, i) => {
      const optimizer = createOptimizer(trainableWeights(own, i === 0), DEFAULT_OPTIMIZER);
      return { optimizer, stepper: createStepper(own, optimizer, { balance: true, mtpWeight: i === 0 ? LAMBDA : 0 }) };
    });
    const losses = [];
    for (const { stepper } of steppers) {
      losses.push((await stepper.step([batch], { learningRate: 1e-2, balanceSpeed: 0.01 })).loss);
    }
    expect(losses[0]).toBe(losses[1]);
    const movedBy = (own: Model) =>
      [...contents(own)].filter(([name, values]) => values.some((value, i) => value !== before.get(name)![i])).length;
    const further = [...before.keys()].filter((name) => name.startsWith("model.layers.2.")).length;
    expect(movedBy(model)).toBe(before.size);
    expect(movedBy(plain)).toBe(before.size - further);
    for (const { optimizer, stepper } of steppers) {
      stepper.dispose();
      disposeOptimizer(optimizer);
    }
    for (const own of [model, plain]) disposeModel(own);
  });

  it("is refused where the model has no layer for it", () => {
    const model = tinyModel("deepseek");
    const optimizer = createOptimizer(trainableWeights(model), DEFAULT_OPTIMIZER);
    expect(() => createStepper(model, optimizer, { mtpWeight: LAMBDA })).toThrow(
      "The model has no multi-token prediction layer (num_nextn_predict_layers is 0). Train it without mtpWeight.",
    );
    expect(mtpOf(model, 0)).toBeUndefined();
    disposeOptimizer(optimizer);
    disposeModel(model);
  });
});
