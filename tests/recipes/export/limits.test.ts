import { readFileSync } from "node:fs";
import { expect, it } from "vitest";
import { exportLimits } from "../../../src/recipes/export/limits.ts";

const nano = JSON.parse(readFileSync("public/models/deepseek-nano/config.json", "utf8"));
const qwen = {
  architectures: ["Qwen2ForCausalLM"],
  model_type: "qwen2",
  hidden_act: "silu",
  hidden_size: 64,
  intermediate_size: 96,
  max_position_embeddings: 512,
  num_attention_heads: 4,
  num_hidden_layers: 2,
  num_key_value_heads: 2,
  rms_norm_eps: 1e-6,
  rope_theta: 10_000,
  tie_word_embeddings: true,
  vocab_size: 128,
};

it("finds nothing in the way of the model that comes with the page", () => {
  expect(exportLimits(nano)).toEqual({
    pruned: false,
    shapes: { perLayer: null, uniform: null, padded: null },
    gguf: null,
    ggufNotes: [],
    padsExperts: true,
  });
});

it("says why llama.cpp cannot run a model, and what it does otherwise", () => {
  expect(exportLimits({ ...nano, n_shared_experts: 0 }).gguf).toMatch(/no shared experts cannot be a GGUF file/);
  expect(exportLimits({ ...nano, num_nextn_predict_layers: 1 }).ggufNotes).toEqual([
    expect.stringMatching(/multi-token prediction layers were left out/),
  ]);
  expect(exportLimits(qwen).gguf).toBeNull();
});

it("says that a router without a bias rules padding out once experts are gone", () => {
  const v2 = { ...nano, scoring_func: "softmax", topk_method: "greedy" };
  expect(exportLimits(v2)).toMatchObject({ padsExperts: false, shapes: { padded: null } });
  expect(exportLimits(qwen).padsExperts).toBe(true);
});

it("says which shapes a model that was pruned before cannot be had in", () => {
  const espalier_layers = [{ intermediate_size: 64 }, {}];
  const limits = exportLimits({ ...qwen, espalier_layers });
  expect(limits).toMatchObject({ pruned: true, shapes: { perLayer: null, padded: null }, gguf: null });
  expect(limits.shapes.uniform).toMatch(/cannot be exported as uniform/);
});
