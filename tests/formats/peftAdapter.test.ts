import { readFileSync } from "node:fs";
import { describe, expect, it } from "vitest";
import { type Adapter, adapterScale, readAdapter, writeAdapter } from "../../src/formats/peftAdapter.ts";
import { encodeFloat32 } from "../../src/formats/numbers.ts";
import { packSafetensors, readSafetensors } from "../../src/formats/safetensors.ts";

const FOLDER = "tests/fixtures/qwen2-tiny/lora";
const config: Record<string, unknown> = JSON.parse(readFileSync(`${FOLDER}/adapter_config.json`, "utf8"));
const weights = readFileSync(`${FOLDER}/adapter_model.safetensors`);

const zeros = (name: string, shape: number[]) => {
  const values = new Float32Array(shape.reduce((product, size) => product * size, 1));
  return { name, dtype: "F32" as const, shape, data: encodeFloat32(values, "F32") };
};

describe("an adapter of PEFT's", () => {
  const adapter = readAdapter(config, weights);

  it("is read with its modules, sizes and scale", () => {
    const wanted = [0, 1, 2].flatMap((layer) =>
      ["q_proj", "v_proj"].map((name) => `model.layers.${layer}.self_attn.${name}`),
    );
    expect([...adapter.modules.keys()].toSorted()).toEqual(wanted);
    expect(adapter).toMatchObject({ rank: 4, alpha: 8, rsLora: false, baseModel: "qwen2-tiny" });
    expect(adapterScale(adapter)).toBe(2);
    const { a, b, ...sizes } = adapter.modules.get("model.layers.0.self_attn.v_proj")!;
    expect([a.length, b.length, sizes]).toEqual([4 * 64, 32 * 4, { in: 64, out: 32 }]);
    expect(a.some((value) => value !== 0)).toBe(true);
  });

  it("is written with the same names, shapes and bytes", () => {
    const written = readSafetensors(writeAdapter(adapter).weights);
    const original = readSafetensors(weights);
    expect([...written.keys()].toSorted()).toEqual([...original.keys()].toSorted());
    for (const [name, { dtype, shape, data }] of original) {
      const copy = written.get(name)!;
      expect([copy.dtype, copy.shape]).toEqual([dtype, shape]);
      expect(Buffer.from(copy.data).equals(data)).toBe(true);
    }
  });

  it("reads back equal after writing, scaled by the root of the rank too", () => {
    for (const rsLora of [false, true]) {
      const files = writeAdapter({ ...adapter, rsLora });
      const again = readAdapter(JSON.parse(JSON.stringify(files.config)), files.weights);
      expect(again).toEqual({ ...adapter, rsLora });
    }
    expect(adapterScale({ ...adapter, rsLora: true })).toBe(4);
  });

  it("names its modules in full in the config, beside what PEFT needs", () => {
    expect(writeAdapter(adapter).config).toMatchObject({
      ...config,
      target_modules: [...adapter.modules.keys()],
    });
  });
});

describe("what is no plain LoRA adapter is refused:", () => {
  const q = "base_model.model.model.layers.0.self_attn.q_proj";
  const pair = [zeros(`${q}.lora_A.weight`, [4, 8]), zeros(`${q}.lora_B.weight`, [6, 4])];

  it.each([
    [{ peft_type: "IA3" }, pair, 'adapter_config.json is of type "IA3"'],
    [{ r: 0 }, pair, "adapter_config.json has r 0 and lora_alpha 8"],
    [{ lora_alpha: "8" }, pair, 'lora_alpha "8"'],
    [{ use_dora: true }, pair, "The adapter has use_dora true, which is not supported."],
    [{ rank_pattern: { q_proj: 2 } }, pair, 'The adapter has rank_pattern {"q_proj":2}'],
    [{ bias: "all" }, pair, 'The adapter has bias "all"'],
    [{}, [...pair, zeros("base_model.model.lm_head.weight", [4, 4])], 'holds "base_model.model.lm_head.weight" [4,4]'],
    [{}, [zeros(`${q}.lora_A.weight`, [2, 8]), pair[1]], "is [2,8] and the adapter's r is 4"],
    [{}, [pair[0]], "model.layers.0.self_attn.q_proj has only one of lora_A and lora_B"],
    [{}, [], "The adapter holds no weights"],
  ])("%j (%#)", (change, tensors, message) => {
    expect(() => readAdapter({ ...config, ...change }, packSafetensors(tensors))).toThrow(message);
  });

  it("but empty patterns are plain", () => {
    const plain = { ...config, rank_pattern: {}, alpha_pattern: {}, target_parameters: null };
    const adapter: Adapter = readAdapter(plain, packSafetensors(pair));
    expect(adapter.modules.size).toBe(1);
  });
});
