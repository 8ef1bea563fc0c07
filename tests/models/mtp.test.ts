import { expect, it } from "vitest";
import { valueAndGradients } from "../../src/engine/gradients.ts";
import * as tf from "../../src/engine/tf.ts";
import { decoderLayer, hiddenStates, languageModelLoss, type LossInput, type Model } from "../../src/models/decoder.ts";
import { mtpLoss } from "../../src/models/mtp.ts";
import { disposeModel, namedWeights } from "../../src/models/weights.ts";
import { activate } from "../engine/harness.ts";
import { expectNear, expectNoLeak, tinyIds, tinyModel } from "./tiny.ts";

const CHANGES = { num_nextn_predict_layers: 1, tie_word_embeddings: false };
const [B, T] = [2, 7];

/** Every hidden state at t < T - 2 predicts the token at t + 2, with odd weights. */
function input(ids: number[][]): LossInput {
  const places = ids.flatMap((row, b) => row.slice(2).map((target, t) => ({ position: b * T + t, target })));
  return {
    ids: tf.tensor2d(ids, undefined, "int32"),
    positions: tf.tensor1d(
      places.map(({ position }) => position),
      "int32",
    ),
    targets: tf.tensor1d(
      places.map(({ target }) => target),
      "int32",
    ),
    weights: tf.tensor1d(places.map((_, m) => (1 + (m % 3)) / 20)),
  };
}

/** DeepSeek-V3, eq. 21 to 24, row by row; the decoder layer itself is checked against the reference elsewhere. */
function definition(model: Model, h: tf.Tensor, { ids, positions, targets, weights }: LossInput): tf.Scalar {
  const [module] = model.mtp;
  const { hiddenSize: D, rmsNormEps: eps } = model.config;
  const scaled = (x: tf.Tensor, weight: tf.Tensor) => x.div(x.square().mean(-1, true).add(eps).sqrt()).mul(weight);
  const tokens = ids.arraySync() as number[][];
  const next = tokens.flatMap((row) => [...row.slice(1), row[T - 1]]);
  const embedded = tf.gather(model.embedTokens as tf.Tensor, tf.tensor1d(next, "int32")).reshape([B, T, D]);
  const both = tf.concat([scaled(embedded, module.enorm.weight), scaled(h, module.hnorm.weight)], 2);
  const z = tf.matMul(both.reshape([B * T, 2 * D]), module.ehProj.weight as tf.Tensor, false, true);
  const place = {
    positions: tf.tensor2d(
      tokens.map((row) => row.map((_, t) => t)),
      undefined,
      "int32",
    ),
  };
  const out = scaled(decoderLayer(module.layer, z.reshape([B, T, D]), model, place), module.sharedHeadNorm.weight);
  const rows = tf.gather(out.reshape([B * T, D]), positions);
  const logits = tf.matMul(rows, model.lmHead as tf.Tensor2D, false, true);
  const own = tf.oneHot(targets, model.config.vocabSize);
  return tf.logSoftmax(logits).mul(own).sum(-1).neg().mul(weights).sum<tf.Scalar>();
}

/** The loss and its gradient by everything it may reach, the main model included. */
async function lossAndGradients(backend: "cpu" | "wasm", loss: typeof mtpLoss): Promise<Record<string, Float32Array>> {
  await activate(backend);
  const model = tinyModel("deepseek", CHANGES);
  const leaves = namedWeights(model).filter(({ name }) => !name.endsWith("e_score_correction_bias"));
  const results = tf.tidy(() => {
    const batch = input(tinyIds(model, [T, T]));
    const { value, gradients } = valueAndGradients(
      () => loss(model, hiddenStates(model, batch), batch),
      leaves.map(({ tensor }) => tensor),
    );
    const entries = leaves.map(({ name }, i) => [name, gradients[i].dataSync().slice()] as const);
    return { loss: value.dataSync().slice(), ...Object.fromEntries(entries) } as Record<string, Float32Array>;
  });
  disposeModel(model);
  return results;
}

it("the multi-token prediction loss and all its gradients are those of the definition", async () => {
  const wanted = await lossAndGradients("cpu", definition);
  const found = await lossAndGradients("wasm", mtpLoss);
  expect(found.loss[0]).toBeGreaterThan(1);
  for (const [name, values] of Object.entries(wanted)) expectNear(found[name], values, 2e-5);
  for (const name of ["model.layers.3.eh_proj.weight", "model.layers.0.self_attn.o_proj.weight", "lm_head.weight"]) {
    expect(Math.max(...found[name].map(Math.abs)), name).toBeGreaterThan(1e-4);
  }
});

it("the multi-token prediction loss does not see past the next token, and the main loss does not see its layer", async () => {
  await activate("wasm");
  const model = tinyModel("deepseek", CHANGES);
  const plain = tinyModel("deepseek", { tie_word_embeddings: false });
  const ids = tinyIds(model, [T, T]);
  const at = (loss: (batch: LossInput) => tf.Scalar, rows: number[][]) =>
    tf.tidy(() => {
      const { positions, targets, weights, ...rest } = input(ids);
      const first = {
        positions: positions.slice([0], [1]),
        targets: targets.slice([0], [1]),
        weights: weights.slice([0], [1]),
      };
      return loss({ ...rest, ids: tf.tensor2d(rows, undefined, "int32"), ...first }).dataSync()[0];
    });
  const changed = (t: number) => ids.map((row) => row.map((id, i) => (i === t ? (id + 1) % 37 : id)));
  const twoAhead = (batch: LossInput) => mtpLoss(model, hiddenStates(model, batch), batch);
  expect(at(twoAhead, changed(2))).toBe(at(twoAhead, ids)); // Position 0 sees tokens 0 and 1.
  expect(at(twoAhead, changed(1))).not.toBe(at(twoAhead, ids));
  expect(at((batch) => languageModelLoss(model, batch), ids)).toBe(at((batch) => languageModelLoss(plain, batch), ids));
  disposeModel(model);
  disposeModel(plain);
});

function anyLoss(model: Model): number {
  return tf.tidy(() => {
    const batch = input(tinyIds(model, [T, T]));
    return mtpLoss(model, hiddenStates(model, batch), batch).dataSync()[0];
  });
}

it("the multi-token prediction loss leaves no tensors behind, and says when the model has no such layer", async () => {
  await activate("wasm");
  const model = tinyModel("deepseek", CHANGES);
  const plain = tinyModel("deepseek");
  await expectNoLeak(() => anyLoss(model));
  expect(() => anyLoss(plain)).toThrow("The model has no multi-token prediction layer");
  disposeModel(model);
  disposeModel(plain);
});
