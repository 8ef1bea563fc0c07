import { describe, expect, it } from "vitest";
import * as tf from "../../src/engine/tf.ts";
import type { Model } from "../../src/models/decoder.ts";
import { disposeModel, type NamedTensor, namedWeights } from "../../src/models/weights.ts";
import { packCheckpoint, restoreOptimizer, unpackCheckpoint } from "../../src/training/checkpoint.ts";
import { attachLora, loraTensors } from "../../src/training/lora.ts";
import { batchLoss } from "../../src/training/loss.ts";
import {
  createOptimizer,
  DEFAULT_OPTIMIZER,
  disposeOptimizer,
  type OptimizerSettings,
} from "../../src/training/optimizer.ts";
import { learningRateAt } from "../../src/training/schedule.ts";
import { train } from "../../src/training/train.ts";
import { trainStep } from "./trainStep.ts";
import { isUnfrozen, unfrozenLayers } from "../../src/training/unfreeze.ts";
import { useBackend } from "../engine/harness.ts";
import { changedNames, contents, expectNear, expectNoLeak, FAMILIES, tinyBatch, tinyModel } from "../models/tiny.ts";

const LORA = { rank: 3, alpha: 6, seed: 9 };
const METHODS = ["every weight", "adapters"] as const;
type Method = (typeof METHODS)[number];

const trainable = (model: Model): NamedTensor[] =>
  namedWeights(model).filter(({ name }) => !name.endsWith("e_score_correction_bias"));

/** What a method trains; adapters are attached first. */
function parametersOf(model: Model, method: Method): NamedTensor[] {
  if (method === "every weight") return trainable(model);
  if (loraTensors(model).length === 0) attachLora(model, LORA);
  return loraTensors(model);
}

describe.each(FAMILIES)("training %s", (family) => {
  useBackend("wasm");

  it.each([
    ["every weight", 40, 1e-2],
    ["adapters", 60, 1e-2],
  ] as const)("%s learns one batch by heart in %i steps", async (method, steps, rate) => {
    // Fewer tokens than dimensions, and a head that is wide enough: frozen, it can then tell all tokens clearly.
    const model = tinyModel(family, { vocab_size: 17, tie_word_embeddings: true });
    const optimizer = createOptimizer(parametersOf(model, method), { ...DEFAULT_OPTIMIZER, weightDecay: 0 });
    const batch = tinyBatch(model);
    const first = await trainStep(model, optimizer, batch, rate);
    for (let step = 1; step < steps; step++) await trainStep(model, optimizer, batch, rate);
    expect(first).toBeGreaterThan(2);
    expect(await batchLoss(model, batch)).toBeLessThan(0.1);
    disposeOptimizer(optimizer);
    disposeModel(model);
  });

  it("adapters leaves every other weight as it was, bit for bit", async () => {
    const model = tinyModel(family);
    const before = contents(model);
    const optimizer = createOptimizer(parametersOf(model, "adapters"), DEFAULT_OPTIMIZER);
    for (let step = 0; step < 3; step++) await trainStep(model, optimizer, tinyBatch(model, step), 1e-2);
    const adapters = loraTensors(model).map(({ name }) => name);
    expect(changedNames(before, contents(model)).toSorted()).toEqual(adapters.toSorted());
    disposeOptimizer(optimizer);
    disposeModel(model);
  });

  it("every weight moves every weight", async () => {
    const model = tinyModel(family);
    const before = contents(model);
    const optimizer = createOptimizer(trainable(model), { ...DEFAULT_OPTIMIZER, weightDecay: 0 });
    await trainStep(model, optimizer, tinyBatch(model), 1e-2);
    const names = trainable(model).map(({ name }) => name);
    expect(changedNames(before, contents(model)).toSorted()).toEqual(names.toSorted());
    disposeOptimizer(optimizer);
    disposeModel(model);
  });

  it.each([
    ["every weight", 1],
    ["every weight", 4],
    ["adapters", 3],
  ] as const)("%s resumed after step %i is the run that was never stopped, bit for bit", async (method, stopAfter) => {
    const steps = 6;
    const run = async (model: Model, optimizer: ReturnType<typeof createOptimizer>, from: number, to: number) => {
      const losses: number[] = [];
      await train(model, optimizer, {
        from,
        steps: to,
        batchAt: (step) => [tinyBatch(model, step)],
        learningRateAt: (step) => learningRateAt(step, steps, 1e-2),
        onStep: async ({ loss }) => {
          losses.push(loss);
        },
        stopping: () => false,
      });
      return losses;
    };
    const model = tinyModel(family);
    const optimizer = createOptimizer(parametersOf(model, method), DEFAULT_OPTIMIZER);
    await run(model, optimizer, 0, stopAfter);
    const bytes = await packCheckpoint(model, optimizer);
    const losses = await run(model, optimizer, stopAfter, steps);

    const resumed = unpackCheckpoint(model.config, bytes, LORA.alpha / LORA.rank);
    const restored = createOptimizer(parametersOf(resumed.model, method), DEFAULT_OPTIMIZER);
    restoreOptimizer(restored, resumed.moments, stopAfter);
    expect(await run(resumed.model, restored, stopAfter, steps)).toEqual(losses);
    expect(changedNames(contents(model), contents(resumed.model))).toEqual([]);
    const [end, resumedEnd] = [await packCheckpoint(model, optimizer), await packCheckpoint(resumed.model, restored)];
    expect(Buffer.from(resumedEnd).equals(Buffer.from(end))).toBe(true); // The moments, too.
    for (const one of [optimizer, restored]) disposeOptimizer(one);
    for (const one of [model, resumed.model]) disposeModel(one);
  });

  it("from the last layer down leaves each lower layer as it was until its turn comes", async () => {
    const model = tinyModel(family);
    const [steps, depth] = [9, model.layers.length];
    const optimizer = createOptimizer(trainable(model), DEFAULT_OPTIMIZER);
    let before = contents(model);
    const movedAt: string[][] = [];
    await train(model, optimizer, {
      from: 0,
      steps,
      batchAt: (step) => [tinyBatch(model, step)],
      learningRateAt: () => 1e-2,
      trains: (name, step) => isUnfrozen(name, unfrozenLayers(step, steps, depth), depth),
      onStep: async () => {
        const now = contents(model);
        movedAt.push(changedNames(before, now));
        before = now;
      },
      stopping: () => false,
    });
    const lowest = (names: string[]) =>
      Math.min(...names.map((name) => Number(/layers\.(\d)/.exec(name)?.[1] ?? depth)));
    expect(movedAt.map(lowest)).toEqual([2, 2, 1, 1, 0, 0, 0, 0, 0]);
    expect(movedAt.map((names) => names.includes("model.embed_tokens.weight"))).toEqual(
      [2, 2, 1, 1, 0, 0, 0, 0, 0].map((layer) => layer === 0),
    );
    expect(movedAt.every((names) => names.includes("model.norm.weight"))).toBe(true);
    disposeOptimizer(optimizer);
    disposeModel(model);
  });

  it.each(METHODS)("%s leaves no tensors behind", async (method) => {
    const model = tinyModel(family);
    const parameters = parametersOf(model, method);
    await expectNoLeak(async () => {
      const optimizer = createOptimizer(parameters, DEFAULT_OPTIMIZER);
      await trainStep(model, optimizer, tinyBatch(model), 1e-2);
      await trainStep(
        model,
        optimizer,
        tinyBatch(model),
        1e-2,
        parameters.map((_, i) => i % 2 === 0),
      );
      const { model: copy, moments } = unpackCheckpoint(model.config, await packCheckpoint(model, optimizer), 2);
      const restored = createOptimizer(parametersOf(copy, method), DEFAULT_OPTIMIZER);
      restoreOptimizer(restored, moments, 2);
      for (const one of [optimizer, restored]) disposeOptimizer(one);
      disposeModel(copy);
    });
    disposeModel(model);
  });
});

/** One step on a loss that is scaled: the weights after it, and the norm of the gradient that the optimizer saw. */
async function after(scale: number, settings: Partial<OptimizerSettings>) {
  const model = tinyModel("deepseek");
  const batch = tinyBatch(model);
  batch.weights.forEach((weight, m) => {
    batch.weights[m] = scale * weight;
  });
  const optimizer = createOptimizer(trainable(model), { ...DEFAULT_OPTIMIZER, ...settings });
  await trainStep(model, optimizer, batch, 1e-2);
  const norm = Math.hypot(...optimizer.state.m.map((m) => tf.tidy(() => m.norm().dataSync()[0])));
  const values = contents(model);
  disposeOptimizer(optimizer);
  disposeModel(model);
  return { values, gradientNorm: norm / (1 - DEFAULT_OPTIMIZER.beta1) };
}

describe("a training step", () => {
  useBackend("wasm");

  it("clips the gradient of all parameters together to the norm, and never makes it larger", async () => {
    const free = await after(1, { clipNorm: 0 });
    expect(free.gradientNorm).toBeGreaterThan(0.5);
    expect((await after(1, { clipNorm: 0.25 })).gradientNorm).toBeCloseTo(0.25, 5);
    expect((await after(100, { clipNorm: 0.25 })).gradientNorm).toBeCloseTo(0.25, 5);
    expect((await after(1, { clipNorm: 1000 })).gradientNorm).toBe(free.gradientNorm);
  });

  it("with clipping moves the weights alike however large the loss is scaled", async () => {
    // The epsilon is large, so that a gradient's size matters to Adam.
    const settings = { clipNorm: 0.01, eps: 0.1 };
    const [small, large] = [await after(1, settings), await after(1000, settings)];
    for (const [name, values] of small.values) expectNear(large.values.get(name)!, values, 1e-5);
  });

  it("decays matrices and leaves norms and biases alone", async () => {
    const [plain, decayed] = [await after(1, { weightDecay: 0 }), await after(1, { weightDecay: 0.5 })];
    const changed = changedNames(plain.values, decayed.values);
    expect(changed.filter((name) => /norm|bias/.test(name))).toEqual([]);
    const matrices = [...plain.values.keys()].filter((name) => !/norm|bias/.test(name));
    expect(changed.toSorted()).toEqual(matrices.toSorted());
  });

  it("throws when the loss is no number, and says what to do", async () => {
    const model = tinyModel("qwen2");
    model.norm.weight.dispose();
    model.norm.weight = tf.tensor1d(Array.from({ length: 22 }, () => Number.NaN));
    const optimizer = createOptimizer(trainable(model), DEFAULT_OPTIMIZER);
    await expectNoLeak(async () => {
      await expect(trainStep(model, optimizer, tinyBatch(model), 1e-2)).rejects.toThrow(
        "The loss became NaN at step 1, which was not done. Lower the learning rate and resume.",
      );
    });
    disposeOptimizer(optimizer);
    disposeModel(model);
  });
});

describe("the training loop", () => {
  useBackend("wasm");

  it("waits for each step's listener, and ends after the step in which it is asked to", async () => {
    const model = tinyModel("qwen2");
    const optimizer = createOptimizer(trainable(model), DEFAULT_OPTIMIZER);
    const order: string[] = [];
    const done = await train(model, optimizer, {
      from: 3,
      steps: 9,
      batchAt: (step) => {
        order.push(`batch ${step}`);
        return [tinyBatch(model, step)];
      },
      learningRateAt: () => 1e-3,
      onStep: async ({ step, loss, tokens }) => {
        await Promise.resolve();
        order.push(`done ${step}`);
        expect(loss).toBeGreaterThan(0);
        expect(tokens).toBeGreaterThan(2);
      },
      stopping: () => order.includes("done 5"),
    });
    expect(done).toBe(5);
    expect(order).toEqual(["batch 3", "done 4", "batch 4", "done 5"]);
    expect(optimizer.step).toBe(2);
    disposeOptimizer(optimizer);
    disposeModel(model);
  });
});

describe("a training checkpoint", () => {
  useBackend("wasm");

  it("that lacks a tensor or a moment is refused by its name", async () => {
    const model = tinyModel("qwen2");
    const optimizer = createOptimizer(trainable(model), DEFAULT_OPTIMIZER);
    const bare = await packCheckpoint(model, null);
    const { model: copy, moments } = unpackCheckpoint(model.config, bare, 1);
    expect(moments.size).toBe(0);
    expect(() => restoreOptimizer(optimizer, moments, 1)).toThrow(
      "The checkpoint has no moments of model.embed_tokens.weight: it is damaged. Start the run again.",
    );
    const deeper = { ...model.config, numHiddenLayers: 4 };
    expect(() => unpackCheckpoint(deeper, bare, 1)).toThrow(
      "The checkpoint has no tensor model.layers.3.input_layernorm.weight: it is damaged.",
    );
    disposeOptimizer(optimizer);
    for (const one of [model, copy]) disposeModel(one);
  });
});
