import { describe, expect, it } from "vitest";
import * as tf from "../../src/engine/tf.ts";
import { languageModelLoss, type Model } from "../../src/models/decoder.ts";
import type { Moe } from "../../src/models/moe.ts";
import { disposeModel } from "../../src/models/weights.ts";
import { balanceLoads } from "../../src/training/balance.ts";
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
  const worst = tf.tidy(() => {
    const { onRoute, apply } = balanceLoads(model);
    languageModelLoss(model, lossInput(tinyBatch(model, step, [33, 33])), { onRoute });
    return tf.stack(apply(tf.tensor1d([speed]))).max();
  });
  const [value] = await worst.data();
  worst.dispose();
  return value;
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

  it("moves each bias by the speed: up below the mean load, down above it, over all passes of a step", () => {
    const model = tinyModel("deepseek");
    skew(model);
    const before = mixtures(model).map((mlp) => [...mlp.eScoreCorrectionBias.dataSync()]);
    const loads = mixtures(model).map(() => [0, 0, 0, 0, 0]);
    tf.tidy(() => {
      const { onRoute, apply } = balanceLoads(model);
      const watch = (layer: number, chosen: tf.Tensor): void => {
        for (const expert of chosen.dataSync()) loads[layer - 1][expert] += 1; // The first layer is dense.
        onRoute(layer, chosen);
      };
      for (const seed of [1, 2]) {
        languageModelLoss(model, lossInput(tinyBatch(model, seed, [33, 33])), { onRoute: watch });
      }
      const even = (2 * 64 * 2) / 5;
      const worst = apply(tf.tensor1d([0.125])).map((one) => one.dataSync()[0]);
      mixtures(model).forEach((mlp, i) => {
        expect(worst[i]).toBeCloseTo(Math.max(...loads[i]) / even, 5);
        const wanted = before[i].map((bias, e) => Math.fround(bias + 0.125 * Math.sign(even - loads[i][e])));
        expect([...mlp.eScoreCorrectionBias.dataSync()]).toEqual(wanted);
      });
    });
    disposeModel(model);
  });

  it("leaves no tensors behind", async () => {
    const model = tinyModel("deepseek");
    await expectNoLeak(() => balanceOnce(model, 1, 0.1));
    disposeModel(model);
  });
});
