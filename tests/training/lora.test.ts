import { readFileSync } from "node:fs";
import { describe, expect, it } from "vitest";
import { readConfig } from "../../src/formats/hfConfig.ts";
import { readAdapter } from "../../src/formats/peftAdapter.ts";
import { decodeToFloat32 } from "../../src/formats/numbers.ts";
import { readSafetensors } from "../../src/formats/safetensors.ts";
import { disposeModel, linearSlots, loadModel } from "../../src/models/weights.ts";
import type { Batch } from "../../src/protocol/data.ts";
import { adapterOf, attachAdapter, attachLora, detachLora, loraTensors, mergeLora } from "../../src/training/lora.ts";
import { batchLoss } from "../../src/training/loss.ts";
import { createOptimizer, disposeOptimizer } from "../../src/training/optimizer.ts";
import { trainStep } from "./trainStep.ts";
import { useBackend } from "../engine/harness.ts";
import {
  attachRandomLora,
  changedNames,
  contents,
  expectNear,
  expectNoLeak,
  FAMILIES,
  logitsOf,
  tinyIds,
  tinyModel,
} from "../models/tiny.ts";

const LORA = { rank: 3, alpha: 5, seed: 9 };

describe.each(FAMILIES)("an adapter on %s", (family) => {
  useBackend("wasm");

  it("changes nothing while it is fresh", () => {
    const model = tinyModel(family);
    const ids = tinyIds(model, [7, 7]);
    const before = logitsOf(model, ids);
    attachLora(model, LORA);
    expect(logitsOf(model, ids)).toEqual(before);
    disposeModel(model);
  });

  it("computes merged what it computes attached", () => {
    const model = tinyModel(family);
    const ids = tinyIds(model, [7, 7]);
    const before = logitsOf(model, ids);
    attachRandomLora(model);
    const attached = logitsOf(model, ids);
    expect(Math.max(...attached.map((x, i) => Math.abs(x - before[i])))).toBeGreaterThan(0.1);
    mergeLora(model);
    expect(loraTensors(model)).toEqual([]);
    expectNear(logitsOf(model, ids), attached, 1e-5);
    disposeModel(model);
  });

  it("taken off leaves every weight as it was, bit for bit", () => {
    const model = tinyModel(family);
    const before = contents(model);
    attachRandomLora(model);
    logitsOf(model, tinyIds(model, [7, 7]));
    detachLora(model);
    expect(changedNames(before, contents(model))).toEqual([]);
    disposeModel(model);
  });

  it("begins as its seed says, within ±1 / sqrt(inputs) and with B at zero", () => {
    const [first, again, other] = [9, 9, 10].map((seed) => {
      const model = tinyModel(family);
      attachLora(model, { ...LORA, seed });
      const values = new Map(loraTensors(model).map(({ name, tensor }) => [name, tensor.dataSync() as Float32Array]));
      disposeModel(model);
      return values;
    });
    expect(changedNames(first, again)).toEqual([]);
    expect(changedNames(first, other)).toEqual([...first.keys()].filter((name) => name.endsWith("lora_A.weight")));
    for (const [name, values] of first) {
      const bound = name.endsWith("lora_A.weight") ? 1 / Math.sqrt(values.length / LORA.rank) : 0;
      const largest = Math.max(...values.map(Math.abs));
      expect(largest, name).toBeLessThanOrEqual(bound);
      expect(largest, name).toBeGreaterThanOrEqual(0.8 * bound); // Of 60 draws or more.
    }
    const drawn = [...first].filter(([name]) => name.endsWith("lora_A.weight"));
    const negative = drawn.flatMap(([, values]) => [...values]).filter((x) => x < 0).length;
    const all = drawn.reduce((sum, [, values]) => sum + values.length, 0);
    expect(Math.abs(negative / all - 0.5)).toBeLessThan(0.06); // Of 800 draws or more: 1.8 % is one deviation.
    expect(new Set(drawn.map(([, values]) => values[0])).size).toBe(drawn.length); // Every module draws its own.
  });

  it("is put on the modules that are asked for, once", () => {
    const model = tinyModel(family);
    attachLora(model, { ...LORA, targets: ["o_proj", "gate_proj"] });
    const names = loraTensors(model).map(({ name }) => name);
    expect(names).toHaveLength(2 * 2 * 3);
    expect(names.filter((name) => !/(o_proj|gate_proj)\.lora_[AB]\.weight$/.test(name))).toEqual([]);
    expect(() => attachLora(model, LORA)).toThrow("has an adapter already: merge it or take it off first.");
    disposeModel(model);
  });

  it("is the same after it has been taken off as plain values and put on again", async () => {
    const model = tinyModel(family);
    attachRandomLora(model);
    const before = contents(model);
    const adapter = await adapterOf(model, "tiny");
    detachLora(model);
    attachAdapter(model, adapter);
    expect(changedNames(before, contents(model))).toEqual([]);
    expect(adapter).toMatchObject({ rank: 3, alpha: 6 });
    expect(() => attachAdapter(model, adapter)).toThrow("has an adapter already");
    disposeModel(model);
  });

  it("of another model is refused by the module that does not fit", async () => {
    const model = tinyModel(family);
    const other = tinyModel(family, { hidden_size: 18 });
    attachRandomLora(other);
    const adapter = await adapterOf(other, "other");
    expect(() => attachAdapter(model, adapter)).toThrow("Load the base model that the adapter was trained on.");
    await expect(adapterOf(model, "bare")).rejects.toThrow("The model has no adapters.");
    disposeModel(model);
    disposeModel(other);
  });

  it("leaves no tensors behind, merged or taken off", async () => {
    const model = tinyModel(family);
    await expectNoLeak(() => {
      attachRandomLora(model);
      mergeLora(model);
      attachRandomLora(model);
      detachLora(model);
    });
    disposeModel(model);
  });
});

const mlpModules = (at: string): string[] => ["gate_proj", "up_proj", "down_proj"].map((name) => `${at}.${name}`);

describe("LoRA", () => {
  useBackend("wasm");

  it("trains as the reference does: every loss, then weights and logits after five steps", async () => {
    const at = "tests/fixtures/qwen2-tiny";
    const json = (file: string) => JSON.parse(readFileSync(`${at}/${file}`, "utf8"));
    const model = loadModel(readConfig(json("config.json")), readFileSync(`${at}/model.safetensors`));
    attachAdapter(
      model,
      readAdapter(json("lora/adapter_config.json"), readFileSync(`${at}/lora/adapter_model.safetensors`)),
    );
    const batch = fixtureBatch(json("expected.json"));
    const wanted = json("lora/expected.json");
    const { lr, betas, eps, weight_decay: weightDecay, steps } = json("lora/optimizer.json");
    const settings = { beta1: betas[0], beta2: betas[1], eps, weightDecay, clipNorm: 0 };
    const optimizer = createOptimizer(loraTensors(model), settings);
    const losses: number[] = [];
    for (let step = 0; step < steps; step++) losses.push(await trainStep(model, optimizer, batch, lr));
    losses.push(await batchLoss(model, batch));
    wanted.losses_before_each_step_and_after_the_last.forEach((loss: number, i: number) =>
      expect(Math.abs(losses[i] - loss), `loss ${i}`).toBeLessThan(2e-5),
    );

    const tensors = readSafetensors(readFileSync(`${at}/lora/expected.safetensors`));
    const expected = (name: string) => decodeToFloat32(tensors.get(name)!.dtype, tensors.get(name)!.data);
    const trained = loraTensors(model);
    expect(trained).toHaveLength(2 * 2 * 3);
    for (const { name, tensor } of trained) {
      expectNear(tensor.dataSync() as Float32Array, expected(`final.base_model.model.${name}`), 1e-4);
    }
    const V = model.config.vocabSize;
    const found = logitsOf(model, json("expected.json").input_ids);
    const real: number[] = json("expected.json").attention_mask.flat();
    const rows = (all: Float32Array) => real.flatMap((one, i) => (one ? [...all.subarray(i * V, (i + 1) * V)] : []));
    expectNear(rows(found), rows(expected("logits_final")), 1e-4);
    disposeOptimizer(optimizer);
    disposeModel(model);
  });

  it("adapts every projection but the routed experts' and the router's", () => {
    const model = tinyModel("deepseek");
    attachLora(model, LORA);
    const modules = linearSlots(model).map(({ name }) => name.replace(/^model\.layers\.\d\./, ""));
    const attention = ["q_a_proj", "q_b_proj", "kv_a_proj_with_mqa", "kv_b_proj", "o_proj"].map(
      (n) => `self_attn.${n}`,
    );
    const sparse = [...attention, ...mlpModules("mlp.shared_experts")];
    expect(modules).toEqual([...attention, ...mlpModules("mlp"), ...sparse, ...sparse]);
    expect(loraTensors(model)).toHaveLength(2 * modules.length);
    disposeModel(model);
  });
});

/** The batch of the reference: labels at t + 1 are scored at t; -100 is not scored. */
function fixtureBatch({ input_ids, labels }: { input_ids: number[][]; labels: number[][] }): Batch {
  const T = input_ids[0].length;
  const scored = labels.flatMap((row, b) =>
    row.flatMap((label, t) => (t > 0 && label !== -100 ? [{ position: b * T + t - 1, label }] : [])),
  );
  return {
    rows: labels.length,
    length: T,
    ids: Int32Array.from(input_ids.flat()),
    lengths: Int32Array.from(input_ids, () => T),
    positions: Int32Array.from(scored, ({ position }) => position),
    targets: Int32Array.from(scored, ({ label }) => label),
    weights: Float32Array.from(scored, () => 1 / scored.length),
    tokens: T * labels.length,
    trainedTokens: scored.length,
  };
}
