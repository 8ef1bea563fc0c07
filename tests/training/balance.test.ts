import { describe, expect, it } from "vitest";
import * as tf from "../../src/engine/tf.ts";
import { languageModelLoss, type Model } from "../../src/models/decoder.ts";
import type { Moe } from "../../src/models/moe.ts";
import { disposeModel } from "../../src/models/weights.ts";
import { expertLoad, observeLoad } from "../../src/training/balance.ts";
import { lossInput } from "../../src/training/loss.ts";
import { useBackend } from "../engine/harness.ts";
import { expectNoLeak, tinyBatch, tinyModel } from "../models/tiny.ts";

const mixtures = (model: Model): Moe[] => model.layers.flatMap(({ mlp }) => (mlp.kind === "experts" ? [mlp] : []));

const mean = (list: number[]): number => list.reduce((sum, x) => sum + x, 0) / list.length;

/** Send nearly every token to expert 0 of each layer. */
function skew(model: Model): void {
  for (const mlp of mixtures(model)) {
    mlp.eScoreCorrectionBias.dispose();
    mlp.eScoreCorrectionBias = tf.tensor1d([0.6, 0, 0, 0, -0.3]);
  }
}

/** One forward pass over full rows, then one move of the biases. Returns the worst load over the mean. */
async function balanceOnce(model: Model, step: number, speed: number): Promise<number> {
  const load = observeLoad();
  tf.tidy(() => void languageModelLoss(model, lossInput(tinyBatch(model, step, [33, 33])), { onRoute: load.onRoute }));
  return load.apply(model, speed);
}

describe("balancing", () => {
  useBackend("wasm");

  it("evens out a router that sends every token to one expert", async () => {
    const model = tinyModel("deepseek");
    skew(model);
    const worst: number[] = [];
    for (let step = 0; step < 60; step++) worst.push(await balanceOnce(model, 10 * step, 0.02));
    expect(mean(worst.slice(0, 5))).toBeGreaterThan(2.4); // 2.5 is all tokens: two of five experts each.
    expect(mean(worst.slice(-20))).toBeLessThan(1.6); // Batches of 64 random tokens differ: 1 is out of reach.
    disposeModel(model);
  });

  it("moves each bias by the speed: up below the mean load, down above it, not at all at it", async () => {
    const model = tinyModel("deepseek");
    skew(model);
    const before = mixtures(model).map((mlp) => [...mlp.eScoreCorrectionBias.dataSync()]);
    const seen: number[][] = [];
    const load = observeLoad();
    const onRoute = (layer: number, chosen: tf.Tensor): void => {
      seen.push(expertLoad(chosen.dataSync(), 5));
      load.onRoute(layer, chosen);
    };
    tf.tidy(() => void languageModelLoss(model, lossInput(tinyBatch(model, 1, [33, 33])), { onRoute }));
    const even = (64 * 2) / 5;
    const worst = await load.apply(model, 0.125);
    expect(worst).toBeCloseTo(Math.max(...seen.flat()) / even, 10);
    mixtures(model).forEach((mlp, i) => {
      expect(seen[i].reduce((sum, count) => sum + count, 0)).toBe(64 * 2);
      const wanted = before[i].map((bias, e) => Math.fround(bias + 0.125 * Math.sign(even - seen[i][e])));
      expect([...mlp.eScoreCorrectionBias.dataSync()]).toEqual(wanted);
    });
    disposeModel(model);
  });

  it("counts the tokens of each expert", () => {
    expect(expertLoad([0, 2, 2, 3, 0, 2], 5)).toEqual([2, 0, 3, 1, 0]);
  });

  it("leaves no tensors behind", async () => {
    const model = tinyModel("deepseek");
    await expectNoLeak(() => balanceOnce(model, 1, 0.1));
    disposeModel(model);
  });
});
