import { describe, expect, it } from "vitest";
import { normalValues } from "../../src/engine/random.ts";
import { readAdapter, writeAdapter } from "../../src/formats/peftAdapter.ts";
import { disposeModel, linearSlots } from "../../src/models/weights.ts";
import { adapterOf, attachAdapter, attachLora, detachLora, loraTensors, mergeLora } from "../../src/training/lora.ts";
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
    for (const pair of adapter.modules.values()) expect(pair).toMatchObject({ rank: 3, alpha: 6 });
    expect(() => attachAdapter(model, adapter)).toThrow("has an adapter already");
    disposeModel(model);
  });

  it("has the rank, alpha and layers that are asked for, and the scale that follows", async () => {
    const model = tinyModel(family);
    attachLora(model, {
      ...LORA,
      rsLora: true,
      targets: String.raw`.*\.(o|gate)_proj`,
      rankPattern: { "layers.1.self_attn.o_proj": 1, o_proj: 2 },
      alphaPattern: { "layers.[12].*gate_proj": 7 },
    });
    const { rsLora, mixture, modules } = await adapterOf(model, "tiny");
    expect({ rsLora, mixture }).toEqual({ rsLora: true, mixture: family === "deepseek" });
    const gate = family === "deepseek" ? "mlp.shared_experts.gate_proj" : "mlp.gate_proj";
    expect([...modules].map(([name, { rank, alpha }]) => [name, rank, alpha])).toEqual([
      ["model.layers.0.self_attn.o_proj", 2, 5],
      ["model.layers.0.mlp.gate_proj", 3, 5],
      ["model.layers.1.self_attn.o_proj", 1, 5],
      [`model.layers.1.${gate}`, 3, 7],
      ["model.layers.2.self_attn.o_proj", 2, 5],
      [`model.layers.2.${gate}`, 3, 7],
    ]);
    const scales = linearSlots(model).flatMap(({ linear: { lora } }) => (lora ? [lora.scale] : []));
    [5 / Math.sqrt(2), 5 / Math.sqrt(3), 5, 7 / Math.sqrt(3), 5 / Math.sqrt(2), 7 / Math.sqrt(3)].forEach((scale, i) =>
      expect(scales[i]).toBeCloseTo(scale, 12),
    );
    detachLora(model);

    attachLora(model, { ...LORA, targets: ["o_proj"], layers: [0, 2] });
    expect(loraTensors(model).map(({ name }) => name.split(".")[2])).toEqual(["0", "0", "2", "2"]);
    detachLora(model);
    expect(() => attachLora(model, { ...LORA, targets: ["c_attn"], layers: [1] })).toThrow(
      /^No module in the layers 1 is called c_attn\. This model has .*o_proj, gate_proj, up_proj, down_proj\.$/,
    );
    disposeModel(model);
  });

  it("computes merged what it computes attached when every module has a rank and a scale of its own", async () => {
    const model = tinyModel(family);
    const ids = tinyIds(model, [7, 7]);
    attachLora(model, {
      ...LORA,
      rsLora: true,
      rankPattern: { "layers.0.*": 2, "(o|up)_proj": 5 },
      alphaPattern: { o_proj: 2 },
    });
    const fresh = await adapterOf(model, "tiny");
    detachLora(model);
    const modules = [...fresh.modules].map(
      ([name, pair], i) => [name, { ...pair, b: normalValues(pair.b.length, 0.2, 4, i) }] as const,
    );
    const files = writeAdapter({ ...fresh, modules: new Map(modules) });
    const adapter = readAdapter(files.config, files.weights);
    attachAdapter(model, adapter);
    const attached = logitsOf(model, ids);
    expect(await adapterOf(model, "tiny")).toEqual(adapter);
    mergeLora(model);
    expectNear(logitsOf(model, ids), attached, 1e-5);
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
