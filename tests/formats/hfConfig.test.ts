import { readFileSync } from "node:fs";
import { describe, expect, it } from "vitest";
import { type DeepSeekConfig, readConfig, writeConfig } from "../../src/formats/hfConfig.ts";

const fixture = (name: string): Record<string, unknown> =>
  JSON.parse(readFileSync(`tests/fixtures/${name}/config.json`, "utf8"));

/** The config read without the fields a checkpoint may leave out. */
function readBare(json: Record<string, unknown>): DeepSeekConfig {
  const optional = ["scoring_func", "topk_method", "norm_topk_prob", "routed_scaling_factor", "rope_theta", "n_group"];
  return readConfig(
    Object.fromEntries(Object.entries(json).filter(([key]) => !optional.includes(key))),
  ) as DeepSeekConfig;
}

const MODELS = [
  "deepseek-v2-lite-tiny",
  "deepseek-v3-tiny",
  "deepseek-v3-tiny-bf16",
  "deepseek-v3-tiny-yarn",
  "qwen2-tiny",
  "qwen2-tiny-bf16",
  "qwen2-tiny-tied",
];

describe.each(MODELS)("the config of %s", (name) => {
  it("is written back with every key and value it had", () => {
    expect(writeConfig(readConfig(fixture(name)))).toMatchObject(fixture(name));
  });

  it("reads back equal after writing", () => {
    const config = readConfig(fixture(name));
    expect(readConfig(JSON.parse(JSON.stringify(writeConfig(config))))).toEqual(config);
  });
});

it("reads the spelling of transformers 5 as that of transformers 4", () => {
  const old = fixture("deepseek-v3-tiny-yarn");
  const { rope_scaling: scaling, rope_theta: theta, torch_dtype: dtype, ...shared } = old;
  const { type, ...rest } = scaling as Record<string, unknown>;
  const renamed = { ...shared, dtype, rope_parameters: { rope_type: type, rope_theta: theta, ...rest } };
  expect(readConfig(renamed)).toEqual(readConfig(old));
});

it("reads default rope parameters as no scaling", () => {
  const { rope_scaling: _, rope_theta: __, ...shared } = fixture("qwen2-tiny");
  const config = readConfig({ ...shared, rope_parameters: { rope_type: "default", rope_theta: 1e6 } });
  expect([config.ropeScaling, config.ropeTheta]).toEqual([null, 1e6]);
});

it("takes what a V3 config leaves out from the V3 architecture, and for V2 from V2's", () => {
  expect(readBare({ ...fixture("deepseek-v3-tiny"), topk_group: 1 })).toMatchObject({
    scoringFunc: "sigmoid",
    topkMethod: "noaux_tc",
    normTopkProb: true,
    routedScalingFactor: 2.5,
    ropeTheta: 10_000,
    nGroup: 1,
  });
  expect(readBare(fixture("deepseek-v2-lite-tiny"))).toMatchObject({
    scoringFunc: "softmax",
    topkMethod: "greedy",
    normTopkProb: false,
    routedScalingFactor: 1,
  });
});

it("reads that DeepSeek's weights are stored in fp8, and does not write it of weights that no longer are", () => {
  const quantization = {
    activation_scheme: "dynamic",
    fmt: "e4m3",
    quant_method: "fp8",
    weight_block_size: [128, 128],
  };
  const config = readConfig({ ...fixture("deepseek-v3-tiny"), quantization_config: quantization });
  expect(config).toEqual(readConfig(fixture("deepseek-v3-tiny")));
  expect(writeConfig(config)).not.toHaveProperty("quantization_config");
});

it("carries sizes per layer, and keys it does not know", () => {
  const layers = [{ numAttentionHeads: 2, numKeyValueHeads: 1, intermediateSize: 100 }, { intermediateSize: 7 }, {}];
  const config = { ...readConfig({ ...fixture("qwen2-tiny"), note: { by: "someone" } }), layers };
  const json = JSON.parse(JSON.stringify(writeConfig(config)));
  expect(json.note).toEqual({ by: "someone" });
  expect(json.espalier_layers[0]).toEqual({ num_attention_heads: 2, num_key_value_heads: 1, intermediate_size: 100 });
  expect(readConfig(json)).toEqual(config);
});

it("carries the widths of a pruned layer's experts", () => {
  const config = readConfig(fixture("deepseek-v3-tiny"));
  const layers = [{}, { expertIntermediateSizes: [32, 16, 8], sharedIntermediateSize: 24 }, {}, {}];
  expect(readConfig(JSON.parse(JSON.stringify(writeConfig({ ...config, layers }))))).toEqual({ ...config, layers });
});

describe("a config that cannot be run is refused with its field", () => {
  it.each([
    ["qwen2-tiny", { model_type: "llama" }, /model_type is "llama"; supported are deepseek_v3, deepseek_v2 and qwen2/],
    ["qwen2-tiny", { rope_theta: undefined }, /rope_theta is missing; a positive number is wanted/],
    ["qwen2-tiny", { use_sliding_window: true }, /use_sliding_window is true, and only false/],
    ["qwen2-tiny", { num_key_value_heads: 3 }, /num_attention_heads 4 is not a multiple of num_key_value_heads 3/],
    ["qwen2-tiny", { num_attention_heads: 5, num_key_value_heads: 5 }, /gives heads of 12.8/],
    ["qwen2-tiny", { hidden_size: "64" }, /hidden_size is "64"; a whole number of at least 1/],
    ["qwen2-tiny", { espalier_layers: [{}] }, /espalier_layers should list the sizes of 3 layers/],
    ["qwen2-tiny", { rope_scaling: { type: "dynamic", factor: 2 } }, /rope scaling of type "dynamic" is not supported/],
    ["deepseek-v3-tiny", { attention_bias: true }, /attention_bias is true/],
    ["deepseek-v3-tiny", { rope_interleave: false }, /rope_interleave is false/],
    ["deepseek-v3-tiny", { scoring_func: "tanh" }, /scoring_func is "tanh"; one of sigmoid, softmax/],
    ["deepseek-v3-tiny", { quantization_config: { quant_method: "gptq" } }, /quantised \("gptq"\)/],
    ["deepseek-v3-tiny", { quantization_config: {} }, /quantised \(missing\)/],
    ["deepseek-v3-tiny", { num_experts_per_tok: 9 }, /num_experts_per_tok is 9 of n_routed_experts 8/],
    ["deepseek-v3-tiny", { n_group: 3 }, /groups must be of one size/],
  ])("%s with %j", (name, change, message) => {
    expect(() => readConfig({ ...fixture(name), ...change })).toThrow(message);
  });

  it("and so is what is not an object", () => {
    expect(() => readConfig([1])).toThrow("config.json should hold one JSON object and holds [1]");
  });
});
