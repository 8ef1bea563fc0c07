// The models that the bench trains and decodes: random weights, sizes that matter.

import nano from "../../public/models/deepseek-nano/config.json" with { type: "json" };
import { type ModelConfig, readConfig } from "../../src/formats/hfConfig.ts";

/** The model that ships with the page: 1.0 M parameters. */
export const ONE_MILLION: ModelConfig = readConfig(nano);

/** The same family, DeepSeek-V3, at twice the width: 5.1 M parameters. */
export const FIVE_MILLION: ModelConfig = readConfig({
  ...nano,
  hidden_size: 192,
  num_attention_heads: 6,
  num_key_value_heads: 6,
  num_hidden_layers: 6,
  q_lora_rank: 96,
  kv_lora_rank: 64,
  intermediate_size: 512,
  moe_intermediate_size: 128,
  n_shared_experts: 2,
});

/** A small GPT as Qwen2 has it (as many key as query heads, so plain multi-head attention): 5.0 M parameters. */
export const GPT_FIVE_MILLION: ModelConfig = qwen2({ width: 256, layers: 6, heads: 8, inner: 688, words: 1024 });

/** DistilGPT-2's width, depth, heads and vocabulary: 82 M parameters. */
export const DISTIL_GPT2: ModelConfig = qwen2({ width: 768, layers: 6, heads: 12, inner: 2048, words: 50_257 });

interface GptSizes {
  width: number;
  layers: number;
  heads: number;
  /** Channels of the gated MLP, which has three matrices: 8/3 of the width make it as large as GPT-2's. */
  inner: number;
  words: number;
}

function qwen2({ width, layers, heads, inner, words }: GptSizes): ModelConfig {
  return readConfig({
    model_type: "qwen2",
    hidden_size: width,
    num_hidden_layers: layers,
    num_attention_heads: heads,
    num_key_value_heads: heads,
    intermediate_size: inner,
    vocab_size: words,
    max_position_embeddings: 1024,
    rms_norm_eps: 1e-6,
    rope_theta: 10_000,
    tie_word_embeddings: true,
  });
}

/** The config with another number of layers. */
export function withLayers(config: ModelConfig, layers: number): ModelConfig {
  return { ...config, numHiddenLayers: layers };
}
