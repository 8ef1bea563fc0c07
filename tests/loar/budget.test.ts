import { describe, expect, it } from "vitest";
import * as tf from "../../src/engine/tf.ts";
import { CHANNEL_BLOCK, keepAll, planByBudget } from "../../src/loar/budget.ts";
import { scoreUnits } from "../../src/loar/importance.ts";
import { prune } from "../../src/loar/prune.ts";
import type { Model } from "../../src/models/decoder.ts";
import { disposeModel, modelSize } from "../../src/models/weights.ts";
import type { Plan, Scores } from "../../src/protocol/report.ts";
import { useBackend } from "../engine/harness.ts";
import { type Family, FAMILIES, logitsOf, tinyBatch, tinyIds, tinyModel } from "../models/tiny.ts";
import { scaleColumns, type Unit } from "./units.ts";

const score = (model: Model): Promise<Scores> =>
  scoreUnits(model, [tinyBatch(model, 1, [11]), tinyBatch(model, 2, [8])], "gateFisher");

const VARIANTS: [name: string, family: Family, changes: Record<string, unknown>][] = [
  ["DeepSeek-V3", "deepseek", {}],
  [
    "DeepSeek-V3 with queries in one step and two shared experts",
    "deepseek",
    { q_lora_rank: null, n_shared_experts: 2 },
  ],
  ["DeepSeek-V3 without a shared expert", "deepseek", { n_shared_experts: 0 }],
  ["DeepSeek-V3 with groups of experts", "deepseek", { n_routed_experts: 6, n_group: 2, topk_group: 1 }],
  ["DeepSeek-V2", "deepseek", { model_type: "deepseek_v2" }],
  ["Qwen2", "qwen2", {}],
];

/** Fails if a layer keeps less than it needs to compute. */
function expectMinima(plan: Plan, model: Model): void {
  plan.layers.forEach(({ heads, channels, experts, expertChannels }, l) => {
    const whole = keepAll(model.layers[l], model);
    expect(heads.length).toBeGreaterThanOrEqual(1);
    expect(channels.length).toBeGreaterThanOrEqual(Math.min(CHANNEL_BLOCK, whole.channels.length));
    expect(experts.length).toBeGreaterThanOrEqual(Math.min(2, whole.experts.length)); // num_experts_per_tok
    for (const expert of experts) expect(expertChannels[expert].length).toBeGreaterThanOrEqual(CHANNEL_BLOCK);
  });
}

describe.each(VARIANTS)("a plan for %s", (_, family, changes) => {
  useBackend("wasm");

  it.each([0, 0.1, 0.2, 0.3])(
    "reaches the share %f, counts what it removes, and leaves a model that computes",
    async (share) => {
      const model = tinyModel(family, changes);
      const before = modelSize(model).total;
      const plan = planByBudget(model, await score(model), share);
      const pruned = prune(model, plan);
      expect(plan.removedParameters).toBe(before - modelSize(pruned).total);
      expect(plan.removedShare).toBe(plan.removedParameters / before);
      expect(plan.removedParameters).toBeGreaterThanOrEqual(Math.round(share * before));
      const largestUnit = Math.max(3 * 20 * 11 + 21, 8 * 3 * 22, 9 * 20 + 11 * 7 + 6 * 20, 4 * (2 * 45 + 2 * 23));
      expect(plan.removedParameters).toBeLessThan(Math.round(share * before) + largestUnit);
      expectMinima(plan, model);
      expect(logitsOf(pruned, tinyIds(pruned, [7, 7])).every(Number.isFinite)).toBe(true);
      disposeModel(model);
      disposeModel(pruned);
    },
  );

  it("that cannot be reached is refused with what can", async () => {
    const model = tinyModel(family, changes);
    const scores = await score(model);
    let most = 0;
    try {
      planByBudget(model, scores, 0.95);
    } catch (error) {
      most = Number(
        /^Removing 95 % of the parameters was asked for; at most (\d+) %/.exec((error as Error).message)?.[1],
      );
    }
    expect(most).toBeGreaterThan(20);
    expectMinima(planByBudget(model, scores, most / 100), model); // What is offered can be had.
    expect(() => planByBudget(model, scores, (most + 1.01) / 100)).toThrow("Ask for less.");
    disposeModel(model);
  });
});

describe.each(FAMILIES)("what a plan for %s removes", (family) => {
  useBackend("wasm");

  it("is whole blocks of channels: what is left of a network that lost some is a multiple of the block", async () => {
    const model = tinyModel(family);
    const scores = await score(model);
    let cut = 0;
    for (const share of [0.1, 0.2, 0.3, 0.4]) {
      planByBudget(model, scores, share).layers.forEach((plan, l) => {
        const whole = keepAll(model.layers[l], model);
        const lists = [
          [plan.channels, whole.channels],
          ...plan.experts.map((e) => [plan.expertChannels[e], whole.expertChannels[e]]),
        ];
        for (const [kept, all] of lists) {
          if (kept.length === all.length) continue;
          expect(kept.length % CHANNEL_BLOCK).toBe(0);
          cut += 1;
        }
      });
    }
    expect(cut).toBeGreaterThan(5);
    disposeModel(model);
  });

  it("are first the units that add nothing", async () => {
    const model = tinyModel(family);
    const idle: Unit[] = [
      { layer: 1, kind: "heads", index: 1 },
      { layer: 2, kind: "heads", index: 0 },
      ...[3, 7, 18].map((index): Unit => ({ layer: 0, kind: "channels", index })), // 19 channels: 3 go first.
      ...(family === "deepseek" ? [{ layer: 2, kind: "experts", index: 3 } as const] : []),
    ];
    if (family === "qwen2")
      idle.splice(2, 3, ...[0, 3, 9, 14, 20].map((index): Unit => ({ layer: 0, kind: "channels", index })));
    for (const unit of idle) scaleColumns(model, unit, 0);
    const scores = await score(model);
    // The smallest share that takes all of them, and nothing else.
    const alone = keepOut(model, idle);
    const pruned = prune(model, alone);
    const removed = modelSize(model).total - modelSize(pruned).total;
    const plan = planByBudget(model, scores, removed / modelSize(model).total);
    expect(plan.layers).toEqual(alone.layers);
    disposeModel(model);
    disposeModel(pruned);
  });

  it("does not change the scores or the model", async () => {
    const model = tinyModel(family);
    const scores = await score(model);
    const before = structuredClone(scores);
    const tensors = tf.memory().numTensors;
    planByBudget(model, scores, 0.3);
    expect(scores).toEqual(before);
    expect(tf.memory().numTensors).toBe(tensors);
    disposeModel(model);
  });
});

/** The plan that keeps all but these heads, channels and experts. */
function keepOut(model: Model, units: Unit[]): Plan {
  const layers = model.layers.map((layer) => keepAll(layer, model));
  for (const { layer, kind, index } of units) {
    if (kind !== "heads" && kind !== "channels" && kind !== "experts") throw new Error(`no list of ${kind}`);
    layers[layer][kind] = layers[layer][kind].filter((kept) => kept !== index);
    if (kind === "experts") layers[layer].expertChannels[index] = [];
  }
  return { layers, removedParameters: 0, removedShare: 0 };
}
