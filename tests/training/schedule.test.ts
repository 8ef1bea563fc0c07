import { expect, it } from "vitest";
import { learningRateAt, warmUpStableDecay } from "../../src/training/schedule.ts";
import { isUnfrozen, unfrozenLayers } from "../../src/training/unfreeze.ts";

it("the learning rate warms up over a tenth of the steps and falls along a cosine to a tenth of the peak", () => {
  const wanted: [number, number][] = [
    [0, 2e-3 / 20],
    [9, 1e-3],
    [19, 2e-3],
    [20, 2e-3],
    [110, 1.1e-3], // Half way: the mean of the peak and a tenth of it.
    [200, 2e-4],
  ];
  for (const [step, value] of wanted) expect(learningRateAt(step, 200, 2e-3), `step ${step}`).toBeCloseTo(value, 12);
});

it("the warm-up takes at least one step and at most 200", () => {
  expect(learningRateAt(0, 1, 1)).toBe(1);
  expect(learningRateAt(0, 4, 1)).toBe(1);
  expect(learningRateAt(99, 100_000, 1)).toBe(0.5);
  expect(learningRateAt(200, 100_000, 1)).toBe(1);
});

it("the learning rate never rises after the warm-up and never leaves the peak or zero behind", () => {
  for (const steps of [1, 2, 3, 7, 25, 1000]) {
    const rates = Array.from({ length: steps }, (_, step) => learningRateAt(step, steps, 1));
    const top = rates.indexOf(Math.max(...rates));
    expect(Math.max(...rates)).toBe(1);
    expect(Math.min(...rates.slice(top))).toBeGreaterThanOrEqual(0.1);
    for (let step = top + 1; step < steps; step++) expect(rates[step]).toBeLessThanOrEqual(rates[step - 1]);
  }
});

it("warm-up, plateau and decay of pretraining stand where they are said to", () => {
  const rates = [0, 49, 99, 100, 699].map((step) => warmUpStableDecay(step, 1000, 4));
  expect(rates).toEqual([0.04, 2, 4, 4, 4]);
  expect(warmUpStableDecay(850, 1000, 4)).toBeCloseTo(4 * 0.525, 12);
  expect(warmUpStableDecay(1000, 1000, 4)).toBeCloseTo(4 * 0.05, 12);
  // Until the decay begins, the length of the run plays no part.
  for (const step of [0, 30, 400, 699]) {
    expect(warmUpStableDecay(step, 5000, 4)).toBe(warmUpStableDecay(step, 1000, 4));
  }
});

it("the rate of a short pretraining never jumps over what the warm-up has reached", () => {
  const rates = Array.from({ length: 40 }, (_, step) => warmUpStableDecay(step, 40, 1));
  for (let step = 1; step < 40; step++) expect(rates[step] - rates[step - 1]).toBeLessThanOrEqual(0.01 + 1e-12);
});

it("layers are unfrozen from the last one down, one at first and all by two thirds of the steps", () => {
  const counts = Array.from({ length: 12 }, (_, step) => unfrozenLayers(step, 12, 4));
  expect(counts).toEqual([1, 1, 2, 2, 3, 3, 4, 4, 4, 4, 4, 4]);
  expect(unfrozenLayers(0, 1, 5)).toBe(1);
  for (const [steps, layers] of [
    [3, 2],
    [40, 5],
    [7, 28],
  ]) {
    expect(unfrozenLayers(Math.ceil((2 * steps) / 3), steps, layers)).toBe(layers);
  }
});

it("the embedding comes with the first layer, the final norm and the head at once", () => {
  const names = [
    "model.embed_tokens",
    "model.layers.0.mlp.up_proj",
    "model.layers.10.mlp.up_proj",
    "model.norm",
    "lm_head",
  ];
  const trained = (count: number) => names.filter((name) => isUnfrozen(`${name}.weight`, count, 11));
  expect(trained(1)).toEqual(names.slice(2));
  expect(trained(10)).toEqual(names.slice(2));
  expect(trained(11)).toEqual(names);
});
