import { describe, expect, it } from "vitest";
import { valueAndGradients } from "../../src/engine/gradients.ts";
import { rankCorrelation, scoreUnits } from "../../src/loar/importance.ts";
import type * as tf from "../../src/engine/tf.ts";
import { languageModelLoss, type Model } from "../../src/models/decoder.ts";
import { disposeModel } from "../../src/models/weights.ts";
import type { Batch } from "../../src/protocol/data.ts";
import { batchLoss, lossInput } from "../../src/training/loss.ts";
import { useBackend } from "../engine/harness.ts";
import { expectNear, expectNoLeak, type Family, FAMILIES, tinyBatch, tinyModel } from "../models/tiny.ts";
import { columnsOf, scaleColumns, type Unit } from "./units.ts";

const samplesOf = (model: Model): Batch[] => [
  tinyBatch(model, 1, [11]),
  tinyBatch(model, 2, [8]),
  tinyBatch(model, 3, [9]),
];

/** The derivative of a sample's loss by a gate of 1 on the unit's output, by central differences. */
async function gateDerivative(family: Family, unit: Unit, sample: Batch): Promise<number> {
  const step = 0.01; // Larger ones change which experts are chosen, and the loss jumps.
  const losses: number[] = [];
  for (const gate of [1 + step, 1 - step]) {
    const model = tinyModel(family);
    scaleColumns(model, unit, gate);
    losses.push(await batchLoss(model, sample));
    disposeModel(model);
  }
  return (losses[0] - losses[1]) / (2 * step);
}

const UNITS: Record<Family, Unit[]> = {
  deepseek: [
    { layer: 0, kind: "heads", index: 2 },
    { layer: 2, kind: "heads", index: 0 },
    { layer: 0, kind: "channels", index: 18 },
    { layer: 1, kind: "channels", index: 4 },
    { layer: 1, kind: "experts", index: 3 },
    { layer: 2, kind: "experts", index: 0 },
    { layer: 1, kind: "expertChannels", index: 2, channel: 10 },
    { layer: 2, kind: "expertChannels", index: 3, channel: 0 },
    { layer: 0, kind: "attention", index: 0 },
    { layer: 1, kind: "ffn", index: 0 },
    { layer: 2, kind: "layer", index: 0 },
  ],
  qwen2: [
    { layer: 0, kind: "heads", index: 2 },
    { layer: 1, kind: "heads", index: 0 },
    { layer: 2, kind: "channels", index: 20 },
    { layer: 0, kind: "attention", index: 0 },
    { layer: 1, kind: "ffn", index: 0 },
    { layer: 2, kind: "layer", index: 0 },
  ],
};

describe.each(FAMILIES)("the gate Fisher score of %s", (family) => {
  useBackend("wasm");

  it("is the mean squared derivative by an explicit gate on the unit's output", async () => {
    const model = tinyModel(family);
    const samples = samplesOf(model);
    const { layers } = await scoreUnits(model, samples, "gateFisher");
    disposeModel(model);
    for (const unit of UNITS[family]) {
      let squares = 0;
      for (const sample of samples) squares += (await gateDerivative(family, unit, sample)) ** 2;
      const { layer, kind, index, channel } = unit;
      const scores = layers[layer];
      const score =
        kind === "attention" || kind === "ffn" || kind === "layer"
          ? scores[kind]
          : kind === "expertChannels"
            ? scores.expertChannels[index][channel!]
            : scores[kind][index];
      // Differences of float32 losses of about 3 are good to 1e-6; of the derivative that is 1e-4.
      const derivative = Math.sqrt(squares / samples.length);
      expect(Math.abs(Math.sqrt(score) - derivative), JSON.stringify(unit)).toBeLessThan(2e-4 + 1e-3 * derivative);
      expect(derivative, JSON.stringify(unit)).toBeGreaterThan(0.01);
    }
  });

  it("squares sample by sample: two samples do not cancel", async () => {
    const model = tinyModel(family);
    const [a, b] = samplesOf(model);
    const score = async (samples: Batch[]) =>
      (await scoreUnits(model, samples, "gateFisher")).layers.map(({ heads }) => heads).flat();
    const [both, first, second] = [await score([a, b]), await score([a, a]), await score([b, b])];
    expectNear(
      both,
      first.map((x, i) => (x + second[i]) / 2),
      1e-6,
    );
    const together = await score([tinyBatchOfBoth(model), tinyBatchOfBoth(model)]);
    expect(together.some((x, i) => x < 0.9 * both[i])).toBe(true);
    disposeModel(model);
  });

  it("of a unit that adds nothing is 0", async () => {
    const model = tinyModel(family);
    for (const unit of UNITS[family].slice(0, 3)) scaleColumns(model, unit, 0);
    const { layers } = await scoreUnits(model, samplesOf(model), "gateFisher");
    for (const { layer, kind, index } of UNITS[family].slice(0, 3)) {
      const scores = kind === "heads" ? layers[layer].heads : layers[layer].channels;
      expect(scores[index]).toBe(0);
      expect(scores.filter((score) => score === 0)).toHaveLength(1);
    }
    disposeModel(model);
  });

  it.each(["gateFisher", "meanGradient"] as const)(
    "%s leaves no tensors behind and no weight changed",
    async (method) => {
      const model = tinyModel(family);
      const samples = samplesOf(model);
      const told: number[] = [];
      const again = await scoreUnits(model, samples, method);
      await expectNoLeak(async () => {
        expect(await scoreUnits(model, samples, method, (done) => void told.push(done))).toEqual(again);
      });
      expect(told).toEqual([1, 2, 3]);
      disposeModel(model);
    },
  );
});

/** The rows of the first two samples in one batch. */
function tinyBatchOfBoth(model: Model): Batch {
  const [a, b] = samplesOf(model);
  const length = Math.max(a.length, b.length);
  const ids = new Int32Array(2 * length);
  ids.set(a.ids);
  ids.set(b.ids, length);
  return {
    ...a,
    rows: 2,
    length,
    ids,
    positions: Int32Array.from([...a.positions, ...b.positions.map((t) => length + t)]),
    targets: Int32Array.from([...a.targets, ...b.targets]),
    weights: Float32Array.from([...a.weights, ...b.weights], (weight) => weight / 2),
  };
}

describe("the mean gradient score", () => {
  useBackend("wasm");

  it("of a key-value group is the sum of |gradient| over its rows and columns", async () => {
    const model = tinyModel("qwen2");
    const samples = samplesOf(model);
    const { layers } = await scoreUnits(model, samples, "meanGradient");
    const p = model.layers[1].selfAttn;
    if (p.kind !== "grouped") throw new Error("not grouped attention");
    const leaves = [p.qProj, p.kProj, p.vProj, p.oProj].map(({ weight }) => weight as tf.Tensor);
    let total = 0;
    for (const sample of samples) {
      const { gradients } = valueAndGradients(() => languageModelLoss(model, lossInput(sample)), leaves);
      const [q, k, v, o] = gradients;
      // Group 2 of 3: query heads 4 and 5, of width 4.
      const parts = [
        q.slice([16, 0], [8, 22]),
        k.slice([8, 0], [4, 22]),
        v.slice([8, 0], [4, 22]),
        o.slice([0, 16], [22, 8]),
      ];
      total += parts.reduce((sum, part) => sum + part.abs().sum().dataSync()[0], 0);
    }
    expect(layers[1].heads[2] / (total / samples.length)).toBeCloseTo(1, 5);
    disposeModel(model);
  });
});

describe("scoring", () => {
  useBackend("wasm");

  it("correlates the two halves of the samples: fully if they are equal", async () => {
    const model = tinyModel("deepseek");
    const [a, b] = samplesOf(model);
    expect((await scoreUnits(model, [a, a, b, b], "gateFisher")).splitHalfCorrelation).toBeCloseTo(1, 10);
    expect((await scoreUnits(model, [a, b], "gateFisher")).splitHalfCorrelation).toBeLessThan(0.99);
    disposeModel(model);
  });

  it("refuses fewer than two samples", async () => {
    const model = tinyModel("qwen2");
    const [sample] = samplesOf(model);
    await expect(scoreUnits(model, [sample], "gateFisher")).rejects.toThrow(
      "Scoring needs at least 2 cases and has 1.",
    );
    disposeModel(model);
  });

  it("ranks as Spearman does, ties at their mean rank", () => {
    expect(rankCorrelation([1, 2, 3, 4], [10, 20, 30, 1000])).toBe(1);
    expect(rankCorrelation([1, 2, 3, 4], [4, 3, 2, 1])).toBe(-1);
    // Ranks 0, 1.5, 1.5, 3 against 0, 1, 2, 3: 4.5 / sqrt(4.5 * 5).
    expect(rankCorrelation([1, 2, 2, 3], [1, 2, 3, 4])).toBeCloseTo(4.5 / Math.sqrt(22.5), 12);
    expect(rankCorrelation([1, 1], [1, 2])).toBe(0);
  });
});

describe("the units of a layer", () => {
  useBackend("wasm");

  it("share out the columns of the matrices that write to the residual stream", () => {
    const model = tinyModel("qwen2");
    expect(columnsOf(model, { layer: 0, kind: "heads", index: 1 })[0].columns).toEqual([8, 9, 10, 11, 12, 13, 14, 15]);
    disposeModel(model);
  });
});
