import { describe, expect, it } from "vitest";
import * as tf from "../../src/engine/tf.ts";
import { readConfig, writeConfig } from "../../src/formats/hfConfig.ts";
import { keepAll } from "../../src/loar/budget.ts";
import { copyModel, prune } from "../../src/loar/prune.ts";
import type { Model } from "../../src/models/decoder.ts";
import { generate } from "../../src/models/generate.ts";
import { disposeModel, loadModel, namedWeights, saveModel } from "../../src/models/weights.ts";
import type { LayerPlan, Plan } from "../../src/protocol/report.ts";
import { mergeLora } from "../../src/training/lora.ts";
import { createOptimizer, DEFAULT_OPTIMIZER, disposeOptimizer } from "../../src/training/optimizer.ts";
import { trainStep } from "../training/trainStep.ts";
import { useBackend } from "../engine/harness.ts";
import {
  attachRandomLora,
  changedNames,
  contents,
  expectNear,
  expectNoLeak,
  type Family,
  FAMILIES,
  logitsOf,
  tinyBatch,
  tinyIds,
  tinyModel,
} from "../models/tiny.ts";
import { scaleColumns, type Unit } from "./units.ts";

const without = (model: Model, change: (layers: LayerPlan[]) => void): Plan => {
  const layers = model.layers.map((layer) => keepAll(layer, model));
  change(layers);
  return { layers, removedParameters: 0, removedShare: 0 };
};

const drop = (kept: number[], ...gone: number[]): number[] => kept.filter((index) => !gone.includes(index));

/** The same model with what the plan removes silenced: columns at zero, removed experts never chosen. */
function silence(model: Model, plan: Plan): void {
  plan.layers.forEach((kept, layer) => {
    const whole = keepAll(model.layers[layer], model);
    const gone: Unit[] = [
      ...drop(whole.heads, ...kept.heads).map((index): Unit => ({ layer, kind: "heads", index })),
      ...drop(whole.channels, ...kept.channels).map((index): Unit => ({ layer, kind: "channels", index })),
      ...kept.experts.flatMap((index) =>
        drop(whole.expertChannels[index], ...kept.expertChannels[index]).map(
          (channel): Unit => ({ layer, kind: "expertChannels", index, channel }),
        ),
      ),
    ];
    for (const unit of gone) scaleColumns(model, unit, 0);
    const { mlp } = model.layers[layer];
    if (mlp.kind === "dense") return;
    const bias = mlp.eScoreCorrectionBias;
    const shut = whole.experts.map((expert) => (kept.experts.includes(expert) ? 0 : -100));
    mlp.eScoreCorrectionBias = tf.tidy(() => bias.add(tf.tensor1d(shut)));
    bias.dispose();
  });
}

const CUTS: [name: string, family: Family, changes: Record<string, unknown>, change: (layers: LayerPlan[]) => void][] =
  [
    ["latent heads", "deepseek", {}, ([a, , c]) => void ([a.heads, c.heads] = [[0, 2], [1]])],
    ["latent heads with queries in one step", "deepseek", { q_lora_rank: null }, ([a]) => void (a.heads = [1])],
    ["key-value groups with their queries", "qwen2", {}, ([a, , c]) => void ([a.heads, c.heads] = [[0, 2], [1]])],
    ["dense channels", "qwen2", {}, ([a, b]) => void ([a.channels, b.channels] = [drop(a.channels, 0, 7, 20), [4]])],
    ["channels of the shared expert", "deepseek", {}, ([, b]) => void (b.channels = drop(b.channels, 0, 3, 10))],
    [
      "channels of routed experts",
      "deepseek",
      {},
      ([, b, c]) => {
        b.expertChannels = b.expertChannels.map((kept, e) => drop(kept, e, 10 - e));
        c.expertChannels[4] = [5];
      },
    ],
    [
      "whole experts",
      "deepseek",
      {},
      ([, b, c]) =>
        void ([b.experts, c.experts] = [
          [0, 2, 3],
          [1, 4],
        ]),
    ],
    [
      "heads, channels and experts together",
      "deepseek",
      { tie_word_embeddings: false },
      ([a, b, c]) => {
        [a.heads, b.heads, c.heads] = [[2], [0, 1], [1, 2]];
        [a.channels, b.channels] = [drop(a.channels, 0, 5, 18), drop(b.channels, 2)];
        [b.experts, c.experts] = [
          [1, 2, 4],
          [0, 1, 2, 3],
        ];
        c.expertChannels = c.expertChannels.map((kept) => drop(kept, 0, 9));
      },
    ],
    [
      "groups and channels together",
      "qwen2",
      { tie_word_embeddings: true },
      ([a, b, c]) => {
        [a.heads, b.heads] = [[1], [0, 2]];
        c.channels = drop(c.channels, 1, 2, 19);
      },
    ],
  ];

describe.each(["cpu", "wasm"] as const)("on %s", (backend) => {
  useBackend(backend);

  it.each(CUTS)(
    "a model without %s computes what the whole one does with them silenced",
    async (_, family, changes, change) => {
      const model = tinyModel(family, changes);
      const ids = tinyIds(model, [9, 9]);
      const whole = logitsOf(model, ids);
      const plan = without(model, change);
      const pruned = prune(model, plan);
      const found = logitsOf(pruned, ids);
      silence(model, plan);
      expectNear(found, logitsOf(model, ids), 1e-5);
      expect(Math.max(...found.map((x, i) => Math.abs(x - whole[i])))).toBeGreaterThan(1e-2);
      disposeModel(model);
      disposeModel(pruned);
    },
  );
});

describe.each(FAMILIES)("pruning %s", (family) => {
  useBackend("wasm");

  const first = ([a, b, c]: LayerPlan[]): void => {
    [a.heads, c.heads] = [
      [0, 2],
      [1, 2],
    ];
    b.channels = drop(b.channels, 1, 6);
    if (family === "deepseek")
      [b.experts, c.expertChannels[2]] = [
        [0, 2, 3, 4],
        [0, 4, 8],
      ];
  };
  const second = ([a, b, c]: LayerPlan[]): void => {
    [a.heads, b.heads] = [[1], [2, 0]];
    [b.channels, c.channels] = [drop(b.channels, 0, 5), drop(c.channels, 3)];
    if (family === "deepseek")
      [b.experts, c.experts] = [
        [1, 3],
        [0, 2, 3],
      ];
  };

  it("in two rounds computes what the whole model does with both rounds silenced", () => {
    const model = tinyModel(family);
    const ids = tinyIds(model, [9, 9]);
    const once = prune(model, without(model, first));
    const twice = prune(once, without(once, second));
    silence(once, without(once, second));
    expectNear(logitsOf(twice, ids), logitsOf(once, ids), 1e-5);
    for (const one of [model, once, twice]) disposeModel(one);
  });

  it("without removing anything changes no bit", () => {
    const model = tinyModel(family);
    const kept = prune(
      model,
      without(model, () => {}),
    );
    expect(changedNames(contents(model), contents(kept))).toEqual([]);
    disposeModel(model);
    disposeModel(kept);
  });

  it("in another order gives the same model with its units in that order", () => {
    const model = tinyModel(family);
    const ids = tinyIds(model, [9, 9]);
    const reordered = prune(
      model,
      without(model, (layers) => {
        for (const plan of layers) {
          plan.heads = plan.heads.toReversed();
          plan.channels = plan.channels.toReversed();
          plan.experts = plan.experts.toReversed();
          plan.expertChannels = plan.expertChannels.map((kept) => kept.toReversed());
        }
      }),
    );
    expect(changedNames(contents(model), contents(reordered)).length).toBeGreaterThan(10);
    expectNear(logitsOf(reordered, ids), logitsOf(model, ids), 1e-5);
    disposeModel(model);
    disposeModel(reordered);
  });

  it("gives a model that is saved and loaded with its layers' sizes, to identical logits", async () => {
    const model = tinyModel(family);
    const ids = tinyIds(model, [9, 9]);
    const pruned = prune(model, without(model, first));
    const config = readConfig(JSON.parse(JSON.stringify(writeConfig(pruned.config))));
    const loaded = loadModel(config, await saveModel(pruned, "F32"));
    expect(logitsOf(loaded, ids)).toEqual(logitsOf(pruned, ids));
    expect(loaded.config).toEqual(pruned.config);
    expect(loaded.config.layers).toHaveLength(3);
    for (const one of [model, pruned, loaded]) disposeModel(one);
  });

  it("gives a model that generates through its smaller cache what it computes without one", async () => {
    const model = tinyModel(family);
    const pruned = prune(model, without(model, first));
    const [prompt] = tinyIds(model, [6]);
    const [reply] = await generate(pruned, [Int32Array.from(prompt)], { maxNewTokens: 4, eosTokenId: -1 });
    const sequence = [...prompt];
    for (const token of reply) {
      const last = logitsOf(pruned, [sequence]).subarray(-model.config.vocabSize);
      expect(token).toBe(last.indexOf(Math.max(...last)));
      sequence.push(token);
    }
    disposeModel(model);
    disposeModel(pruned);
  });

  it("cuts adapters along", () => {
    const model = tinyModel(family);
    attachRandomLora(model);
    const ids = tinyIds(model, [9, 9]);
    const plan = without(model, first);
    const pruned = prune(model, plan);
    mergeLora(model); // Else an adapter would carry what silenced columns do not.
    silence(model, plan);
    expectNear(logitsOf(pruned, ids), logitsOf(model, ids), 1e-5);
    disposeModel(model);
    disposeModel(pruned);
  });

  it("leaves the whole model alone, and training the pruned one does, too", async () => {
    const model = tinyModel(family);
    const before = contents(model);
    const pruned = prune(model, without(model, first));
    const copied = copyModel(model);
    for (const one of [pruned, copied]) {
      const parameters = namedWeights(one).filter(({ name }) => !name.endsWith("e_score_correction_bias"));
      const optimizer = createOptimizer(parameters, DEFAULT_OPTIMIZER);
      await trainStep(one, optimizer, tinyBatch(one), 1e-2);
      disposeOptimizer(optimizer);
    }
    expect(changedNames(before, contents(model))).toEqual([]);
    disposeModel(pruned);
    disposeModel(copied);
    logitsOf(model, tinyIds(model, [5])); // Nothing of it was disposed of.
    disposeModel(model);
  });

  it("leaves no tensors behind, and nor does a copy", async () => {
    const model = tinyModel(family);
    attachRandomLora(model);
    await expectNoLeak(() => {
      disposeModel(prune(model, without(model, first)));
      disposeModel(copyModel(model));
    });
    disposeModel(model);
  });

  it("by a plan of another depth is refused", () => {
    const model = tinyModel(family);
    const plan = without(model, (layers) => void layers.pop());
    expect(() => prune(model, plan)).toThrow("The plan is for 2 layers, the model has 3.");
    disposeModel(model);
  });
});

describe("a copy", () => {
  useBackend("wasm");

  it.each([
    ["deepseek", { num_nextn_predict_layers: 1 }],
    ["qwen2", {}],
  ] as const)(
    "of %s has every weight, adapter and multi-token prediction layer, and saves as the original",
    async (family, changes) => {
      const model = tinyModel(family, changes);
      attachRandomLora(model);
      const copied = copyModel(model);
      expect(changedNames(contents(model), contents(copied))).toEqual([]);
      expect(Buffer.from(await saveModel(copied, "F32")).equals(Buffer.from(await saveModel(model, "F32")))).toBe(true);
      disposeModel(model);
      disposeModel(copied);
    },
  );
});
