// Both families against the reference implementations (see tests/fixtures/README.md for how the numbers were made).

import { readFileSync } from "node:fs";
import { describe, expect, it } from "vitest";
import { valueAndGradients } from "../../src/engine/gradients.ts";
import * as tf from "../../src/engine/tf.ts";
import { readConfig } from "../../src/formats/hfConfig.ts";
import { decodeToFloat32 } from "../../src/formats/numbers.ts";
import { readSafetensors } from "../../src/formats/safetensors.ts";
import { hiddenStates, languageModelLoss, logits, type LossInput, type Model } from "../../src/models/decoder.ts";
import { generate } from "../../src/models/generate.ts";
import { disposeModel, loadModel, namedWeights } from "../../src/models/weights.ts";
import { useBackend } from "../engine/harness.ts";

const FOLDERS = [
  "qwen2-tiny",
  "qwen2-tiny-tied",
  "deepseek-v3-tiny",
  "deepseek-v3-tiny-yarn",
  "deepseek-v3-tiny-bf16",
  "deepseek-v2-lite-tiny",
];

interface Expected {
  input_ids: number[][];
  attention_mask: number[][];
  labels: number[][];
  loss: number;
  num_target_tokens: number;
  grad_stats?: Record<string, { l2: number }>;
  greedy?: { prompt: number[]; continuation: number[]; top1_minus_top2: number[] };
}

const at = (folder: string, file: string) => `tests/fixtures/${folder}/${file}`;
const json = (folder: string, file: string) => JSON.parse(readFileSync(at(folder, file), "utf8"));

function load(folder: string): Model {
  return loadModel(readConfig(json(folder, "config.json")), readFileSync(at(folder, "model.safetensors")));
}

/** Inputs of a bf16 folder are those of the float32 one. */
function expectedOf(folder: string): Expected {
  return { ...json(folder.replace(/-bf16$/, ""), "expected.json"), ...json(folder, "expected.json") };
}

function reference(folder: string): Map<string, Float32Array> {
  const tensors = readSafetensors(readFileSync(at(folder, "expected.safetensors")));
  return new Map([...tensors].map(([name, { dtype, data }]) => [name, decodeToFloat32(dtype, data)]));
}

/** Labels at t + 1 are scored by the logits at t; -100 is not scored. */
function lossInput({ input_ids, labels, num_target_tokens }: Expected): LossInput {
  const T = input_ids[0].length;
  const scored = labels.flatMap((row, b) =>
    row.flatMap((label, t) => (t > 0 && label !== -100 ? [{ position: b * T + t - 1, label }] : [])),
  );
  expect(scored.length).toBe(num_target_tokens);
  return {
    ids: tf.tensor2d(input_ids, undefined, "int32"),
    positions: tf.tensor1d(
      scored.map(({ position }) => position),
      "int32",
    ),
    targets: tf.tensor1d(
      scored.map(({ label }) => label),
      "int32",
    ),
    weights: tf.fill([scored.length], 1 / scored.length),
  };
}

const relative = (a: ArrayLike<number>, b: ArrayLike<number>): number => {
  let [difference, size] = [0, 0];
  for (let i = 0; i < b.length; i++) {
    difference += (a[i] - b[i]) ** 2;
    size += b[i] ** 2;
  }
  return Math.sqrt(difference / size);
};

describe.each(["cpu", "wasm"] as const)("on %s", (backend) => {
  useBackend(backend);

  describe.each(FOLDERS)("%s", (folder) => {
    it("gives the reference's logits and loss", async () => {
      const model = load(folder);
      const expected = expectedOf(folder);
      const want = reference(folder).get("logits")!;
      const ids = tf.tensor2d(expected.input_ids, undefined, "int32");
      const h = hiddenStates(model, { ids });
      const got = (await logits(model, h.reshape([-1, h.shape[2]!])).data()) as Float32Array;
      const V = model.config.vocabSize;
      let worst = 0;
      expected.attention_mask.flat().forEach((real, row) => {
        if (!real) return;
        for (let i = row * V; i < (row + 1) * V; i++) worst = Math.max(worst, Math.abs(got[i] - want[i]));
      });
      expect(worst).toBeLessThan(2e-5);
      const loss = (await languageModelLoss(model, lossInput(expected)).data())[0];
      expect(Math.abs(loss - expected.loss)).toBeLessThan(1e-5);
      disposeModel(model);
    });

    it.skipIf(folder.endsWith("-bf16"))("gives the reference's gradients", async () => {
      const model = load(folder);
      const expected = expectedOf(folder);
      const want = reference(folder);
      const input = lossInput(expected);
      const leaves = namedWeights(model).filter(({ name }) => !name.endsWith("e_score_correction_bias"));
      const { gradients } = valueAndGradients(
        () => languageModelLoss(model, input),
        leaves.map(({ tensor }) => tensor),
      );
      const got = new Map<string, Float32Array>();
      for (const [i, { name }] of leaves.entries()) {
        for (const [own, values] of unstacked(name, gradients[i], model)) got.set(own, values);
      }
      for (const [name, values] of want) {
        if (name.startsWith("grad.")) expect(relative(got.get(name.slice(5))!, values), name).toBeLessThan(2e-5);
      }
      for (const [name, { l2 }] of Object.entries(expected.grad_stats!)) {
        const own = Math.sqrt(got.get(name)!.reduce((sum, x) => sum + x * x, 0));
        expect(Math.abs(own - l2), name).toBeLessThanOrEqual(2e-5 * l2);
      }
      disposeModel(model);
    });

    it.skipIf(folder.endsWith("-bf16"))("continues a prompt through the cache as the reference does", async () => {
      const model = load(folder);
      const { prompt, continuation } = expectedOf(folder).greedy!;
      const options = { maxNewTokens: continuation.length, eosTokenId: -1 };
      const shorter = prompt.slice(0, 5); // A second row of another length must not disturb the first.
      const replies = await generate(model, [Int32Array.from(prompt), Int32Array.from(shorter)], options);
      expect(replies[0]).toEqual(continuation);
      const alone = await generate(model, [Int32Array.from(shorter)], options);
      expect(replies[1]).toEqual(alone[0]);
      disposeModel(model);
    });
  });
});

/** Gradients of stacked experts under the checkpoint's names. */
function unstacked(name: string, gradient: tf.Tensor, model: Model): [string, Float32Array][] {
  const stacked = /^(model\.layers\.(\d+)\.mlp\.experts)\.(\w+)\.weight$/.exec(name);
  if (!stacked) return [[name, gradient.dataSync() as Float32Array]];
  const { mlp } = model.layers[Number(stacked[2])];
  if (mlp.kind !== "experts") throw new Error(`${name} is not of an expert layer`);
  const axis = stacked[3] === "down_proj" ? 1 : 0;
  const widths = mlp.experts.offsets.slice(1).map((to, e) => to - mlp.experts.offsets[e]);
  return tf
    .split(gradient, widths, axis)
    .map((part, e) => [`${stacked[1]}.${e}.${stacked[3]}.weight`, part.dataSync() as Float32Array]);
}
