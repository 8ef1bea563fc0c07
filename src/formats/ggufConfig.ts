// The metadata of a GGUF file that say what a model is <-> config.json.
//
// Keys and what llama.cpp makes of them: src/models/qwen2.cpp, deepseek2.cpp and llama-context.cpp of llama.cpp v0.5.0.

import type { Metadata, MetadataValue } from "./ggufFile.ts";
import type { DeepSeekConfig, ModelConfig, Qwen2Config, Yarn } from "./hfConfig.ts";

export const u32 = (value: number): MetadataValue => ({ type: "u32", value });
export const f32 = (value: number): MetadataValue => ({ type: "f32", value });
export const flag = (value: boolean): MetadataValue => ({ type: "bool", value });
export const text = (value: string): MetadataValue => ({ type: "string", value });

/** The architecture's name there. */
export function architectureOf({ family }: ModelConfig): "qwen2" | "deepseek2" {
  return family === "qwen2" ? "qwen2" : "deepseek2";
}

/** Everything under the architecture's name. Multi-token prediction layers are not counted: they are not written. */
export function modelMetadata(config: ModelConfig): [key: string, value: MetadataValue][] {
  const own = config.family === "qwen2" ? qwen2Metadata(config) : deepSeekMetadata(config);
  const entries: [string, MetadataValue][] = [
    ["block_count", u32(config.numHiddenLayers)],
    ["context_length", u32(config.maxPositionEmbeddings)],
    ["embedding_length", u32(config.hiddenSize)],
    ["feed_forward_length", u32(config.intermediateSize)],
    ["vocab_size", u32(config.vocabSize)],
    ["attention.head_count", u32(config.numAttentionHeads)],
    ["attention.layer_norm_rms_epsilon", f32(config.rmsNormEps)],
    ["rope.freq_base", f32(config.ropeTheta)],
    ...own,
    ...(config.ropeScaling ? yarnMetadata(config.ropeScaling, config.family) : []),
  ];
  return entries.map(([key, value]) => [`${architectureOf(config)}.${key}`, value]);
}

function qwen2Metadata(config: Qwen2Config): [string, MetadataValue][] {
  return [
    ["attention.head_count_kv", u32(config.numKeyValueHeads)],
    ["attention.key_length", u32(config.headDim)],
    ["attention.value_length", u32(config.headDim)],
    ["rope.dimension_count", u32(config.headDim)],
  ];
}

/** Latent attention is told as one key and value head of the latent's width, and as what its heads are after that. */
function deepSeekMetadata(config: DeepSeekConfig): [string, MetadataValue][] {
  const { kvLoraRank: R, qkNopeHeadDim: N, qkRopeHeadDim: P } = config;
  const grouped = config.nGroup > 1 && config.topkGroup < config.nGroup; // All groups kept are no groups.
  return [
    ["attention.head_count_kv", u32(1)],
    ["attention.q_lora_rank", u32(config.qLoraRank ?? 0)],
    ["attention.kv_lora_rank", u32(R)],
    ["attention.key_length", u32(R + P)],
    ["attention.value_length", u32(R)],
    ["attention.key_length_mla", u32(N + P)],
    ["attention.value_length_mla", u32(config.vHeadDim)],
    ["rope.dimension_count", u32(P)],
    ["leading_dense_block_count", u32(Math.min(config.firstKDenseReplace, config.numHiddenLayers))],
    ["expert_count", u32(config.nRoutedExperts)],
    ["expert_used_count", u32(config.numExpertsPerTok)],
    ["expert_shared_count", u32(config.nSharedExperts)],
    ["expert_feed_forward_length", u32(config.moeIntermediateSize)],
    ["expert_group_count", u32(grouped ? config.nGroup : 1)],
    ["expert_group_used_count", u32(grouped ? config.topkGroup : 1)],
    ["expert_weights_scale", f32(config.routedScalingFactor)],
    ["expert_weights_norm", flag(config.normTopkProb)],
    ["expert_gating_func", u32(config.scoringFunc === "sigmoid" ? SIGMOID : SOFTMAX)],
  ];
}

const SOFTMAX = 1;
const SIGMOID = 2;

function yarnMetadata(yarn: Yarn, family: ModelConfig["family"]): [string, MetadataValue][] {
  const usual = yarnGain(yarn.factor);
  const own: [string, MetadataValue] =
    family === "deepseek"
      ? ["rope.scaling.yarn_log_multiplier", f32(0.1 * (yarn.mscaleAllDim ?? 0))]
      : ["rope.scaling.attn_factor", f32(amplitude(yarn) / usual)];
  return [
    ["rope.scaling.type", text("yarn")],
    ["rope.scaling.factor", f32(yarn.factor)],
    ["rope.scaling.original_context_length", u32(yarn.originalMaxPositionEmbeddings)],
    ["rope.scaling.yarn_beta_fast", f32(yarn.betaFast)],
    ["rope.scaling.yarn_beta_slow", f32(yarn.betaSlow)],
    own,
  ];
}

/** What cosines and sines are multiplied by. */
function amplitude({ factor, mscale, mscaleAllDim, attentionFactor }: Yarn): number {
  if (mscale && mscaleAllDim) return yarnGain(factor, mscale) / yarnGain(factor, mscaleAllDim);
  return attentionFactor ?? yarnGain(factor);
}

function yarnGain(factor: number, mscale = 1): number {
  return factor <= 1 ? 1 : 0.1 * mscale * Math.log(factor) + 1;
}

/**
 * What llama.cpp would compute otherwise, in a sentence each. Throws a sentence if it could not load the model, or would
 * compute something else.
 */
export function notesForLlamaCpp(config: ModelConfig): string[] {
  refuseUneven(config);
  const { ropeScaling: yarn } = config;
  if (yarn && !yarn.truncate) {
    throw refused("YaRN with truncate false", "llama.cpp always rounds the bounds of its ramp");
  }
  return config.family === "qwen2" ? notesForQwen2(config) : notesForDeepSeek(config);
}

/** Layers that pruning made differ from one another. llama.cpp's graphs take one size for all. */
function refuseUneven(config: ModelConfig): void {
  const deepseek = config.family === "deepseek" ? config : null;
  const uneven = (config.layers ?? []).findIndex((own) => {
    const same = (size: number | undefined, usual: number) => size === undefined || size === usual;
    const experts = own.expertIntermediateSizes;
    return !(
      same(own.numAttentionHeads, config.numAttentionHeads) &&
      same(own.numKeyValueHeads, config.numKeyValueHeads) &&
      same(own.intermediateSize, config.intermediateSize) &&
      same(own.sharedIntermediateSize, deepseek ? deepseek.nSharedExperts * deepseek.moeIntermediateSize : 0) &&
      (!experts ||
        (experts.length === deepseek?.nRoutedExperts && experts.every((size) => size === deepseek.moeIntermediateSize)))
    );
  });
  if (uneven >= 0) {
    throw new Error(
      `Layer ${uneven} has sizes of its own after pruning, and llama.cpp takes one size for all layers. Export the padded form, in which what was removed is zeros.`,
    );
  }
}

function notesForQwen2({ numAttentionHeads: H, headDim, hiddenSize: D }: Qwen2Config): string[] {
  if (H * headDim !== D) {
    throw refused(
      `${H} heads of ${headDim} with a hidden size of ${D}`,
      "llama.cpp's qwen2 wants heads that fill the hidden size",
    );
  }
  return [];
}

function notesForDeepSeek(config: DeepSeekConfig): string[] {
  const { numHiddenLayers: L, nRoutedExperts: E, nGroup, topkGroup, ropeScaling: yarn } = config;
  const lite = L === 26 || L === 27 || (L === 48 && config.vocabSize === 128_256);
  if (lite && config.qLoraRank !== null) {
    throw refused(`q_lora_rank ${config.qLoraRank} and ${L} layers`, "llama.cpp takes that for DeepSeek-V2-Lite");
  }
  if (config.nSharedExperts === 0) throw refused("no shared experts", "llama.cpp's deepseek2 wants at least one");
  if (E <= 1) throw refused(`${E} expert`, "llama.cpp's deepseek2 wants at least two");
  if (nGroup > 1 && topkGroup < nGroup && config.topkMethod !== "noaux_tc") {
    throw refused("the group-limited router of DeepSeek-V2", "llama.cpp scores groups as DeepSeek-V3 does");
  }
  if (nGroup > 1 && topkGroup < nGroup && E / nGroup < 2) {
    throw refused("groups of one expert", "llama.cpp scores a group by its two best");
  }
  if (yarn && (!yarn.mscaleAllDim || yarn.mscale !== yarn.mscaleAllDim)) {
    throw refused(
      `YaRN with mscale ${yarn.mscale} and mscale_all_dim ${yarn.mscaleAllDim}`,
      "llama.cpp's deepseek2 wants both, and equal",
    );
  }
  return [
    ...(!lite && config.qLoraRank === null
      ? [`Without q_lora_rank and with ${L} layers, the file needs llama.cpp v0.5.0 or newer.`]
      : []),
    ...(config.rmsNormEps === 1e-6
      ? []
      : [
          `llama.cpp uses rms_norm_eps ${config.rmsNormEps} in the norms within attention too, where 1e-6 belongs: results differ slightly.`,
        ]),
    ...(config.numNextnPredictLayers > 0
      ? ["The multi-token prediction layers were left out: llama.cpp generates without them."]
      : []),
  ];
}

function refused(what: string, why: string): Error {
  return new Error(`A model with ${what} cannot be a GGUF file: ${why}. Export safetensors instead.`);
}

/** The architecture of a file. Throws for one that is not read. */
export function readArchitecture(name: string, metadata: Metadata): "qwen2" | "deepseek2" {
  const found = new Keys(name, metadata, "").string("general.architecture");
  if (found === "qwen2" || found === "deepseek2") return found;
  throw new Error(
    `${name} holds a model of the architecture "${found}"; supported are qwen2 (DeepSeek-R1-Distill-Qwen, Qwen2.5) and deepseek2 (DeepSeek-V2, V3, R1). Choose one of these.`,
  );
}

/** What the tensors of a file say of the model beside the metadata. */
export interface TensorFacts {
  /** Rows of the embedding. */
  vocabSize: number;
  tied: boolean;
  /** A name as config.json has it. */
  dtype: string;
  /** Routers have a bias for balancing. */
  biased: boolean;
}

/** The ids that begin and end texts, as config.json has them. */
export interface EndIds {
  bos: number | null;
  eos: number | null;
}

/** What config.json would say. Throws a sentence for what is missing or cannot be expressed there. */
export function configJson(
  name: string,
  metadata: Metadata,
  tensors: TensorFacts,
  ids: EndIds,
): Record<string, unknown> {
  const architecture = readArchitecture(name, metadata);
  const keys = new Keys(name, metadata, `${architecture}.`);
  const common = {
    vocab_size: tensors.vocabSize,
    hidden_size: keys.integer("embedding_length"),
    intermediate_size: keys.integer("feed_forward_length"),
    num_attention_heads: keys.integer("attention.head_count"),
    hidden_act: "silu",
    max_position_embeddings: keys.integer("context_length"),
    rms_norm_eps: keys.number("attention.layer_norm_rms_epsilon"),
    rope_theta: keys.number("rope.freq_base", 10_000),
    tie_word_embeddings: tensors.tied,
    bos_token_id: ids.bos,
    eos_token_id: ids.eos,
    torch_dtype: tensors.dtype,
  };
  const heads = common.num_attention_heads;
  return { ...common, ...(architecture === "qwen2" ? qwen2Json(keys, heads) : deepSeekJson(keys, tensors, heads)) };
}

function qwen2Json(keys: Keys, heads: number): Record<string, unknown> {
  const headDim = keys.optional("attention.key_length");
  const rotary = keys.optional("rope.dimension_count");
  const own = headDim ?? keys.integer("embedding_length") / heads;
  if (rotary !== undefined && rotary !== own) {
    throw keys.broken("rope.dimension_count", `${rotary}, and all ${own} of a head are wanted`);
  }
  return {
    architectures: ["Qwen2ForCausalLM"],
    model_type: "qwen2",
    num_hidden_layers: keys.integer("block_count"),
    num_key_value_heads: keys.integer("attention.head_count_kv", heads),
    ...(headDim === undefined ? {} : { head_dim: headDim }),
    rope_scaling: scalingJson(keys, (factor) => {
      const attention = keys.number("rope.scaling.attn_factor", 1);
      return attention === 1 ? {} : { attention_factor: tidy(attention * yarnGain(factor)) };
    }),
    use_sliding_window: false,
  };
}

function deepSeekJson(keys: Keys, { biased }: TensorFacts, heads: number): Record<string, unknown> {
  const P = keys.integer("rope.dimension_count");
  const split = keys.optional("attention.key_length_mla") !== undefined;
  const predicted = keys.integer("nextn_predict_layers", 0);
  const sigmoid = keys.integer("expert_gating_func", SOFTMAX) === SIGMOID;
  const v3 = sigmoid || biased;
  const groups = keys.integer("expert_group_count", 1) || 1;
  const kept = keys.integer("expert_group_used_count", 1) || 1;
  return {
    architectures: [v3 ? "DeepseekV3ForCausalLM" : "DeepseekV2ForCausalLM"],
    model_type: v3 ? "deepseek_v3" : "deepseek_v2",
    num_hidden_layers: keys.integer("block_count") - predicted,
    num_nextn_predict_layers: predicted,
    num_key_value_heads: heads,
    attention_bias: false,
    q_lora_rank: keys.integer("attention.q_lora_rank", 0) || null,
    kv_lora_rank: keys.integer("attention.kv_lora_rank"),
    qk_nope_head_dim: keys.integer(split ? "attention.key_length_mla" : "attention.key_length") - P,
    qk_rope_head_dim: P,
    v_head_dim: keys.integer(split ? "attention.value_length_mla" : "attention.value_length"),
    first_k_dense_replace: keys.integer("leading_dense_block_count", 0),
    moe_layer_freq: 1,
    moe_intermediate_size: keys.integer("expert_feed_forward_length"),
    n_routed_experts: keys.integer("expert_count"),
    n_shared_experts: keys.integer("expert_shared_count"),
    num_experts_per_tok: keys.integer("expert_used_count"),
    n_group: groups,
    topk_group: kept,
    norm_topk_prob: keys.boolean("expert_weights_norm", false),
    routed_scaling_factor: keys.number("expert_weights_scale", 0) || 1,
    scoring_func: sigmoid ? "sigmoid" : "softmax",
    topk_method: biased ? "noaux_tc" : groups > 1 && kept < groups ? "group_limited_greedy" : "greedy",
    rope_scaling: scalingJson(keys, () => {
      const gain = tidy(10 * keys.number("rope.scaling.yarn_log_multiplier"));
      return { mscale: gain, mscale_all_dim: gain };
    }),
  };
}

/** rope_scaling of config.json: YaRN or none. `own` gives what the family adds. */
function scalingJson(keys: Keys, own: (factor: number) => Record<string, unknown>): Record<string, unknown> | null {
  const type = keys.string("rope.scaling.type", "none");
  const factor = keys.number("rope.scaling.factor", 1) || 1;
  if (type === "none" || (type === "linear" && factor === 1)) return null;
  if (type !== "yarn") throw keys.broken("rope.scaling.type", `"${type}", and "yarn" or none is supported`);
  return {
    type,
    factor,
    original_max_position_embeddings: keys.integer(
      "rope.scaling.original_context_length",
      keys.integer("context_length"),
    ),
    beta_fast: keys.number("rope.scaling.yarn_beta_fast", 32),
    beta_slow: keys.number("rope.scaling.yarn_beta_slow", 1),
    ...own(factor),
  };
}

/** Looks up metadata under a prefix. What is missing or of another type ends in a sentence. */
export class Keys {
  private readonly name: string;
  private readonly metadata: Metadata;
  private readonly prefix: string;

  constructor(name: string, metadata: Metadata, prefix: string) {
    this.name = name;
    this.metadata = metadata;
    this.prefix = prefix;
  }

  /** A whole number, or one of each layer if they are all alike. */
  integer(key: string, otherwise?: number): number {
    const value = this.optional(key) ?? otherwise;
    if (value === undefined) throw this.broken(key, "missing, and a whole number is wanted");
    return value;
  }

  optional(key: string): number | undefined {
    const found = this.find(key);
    if (!found) return undefined;
    const values: unknown[] = found.type === "array" ? Array.from<unknown>(found.value) : [found.value];
    if (values.some((value) => Number(value) !== Number(values[0]))) {
      throw this.broken(key, "not the same for all layers, which is not supported");
    }
    const [value] = values;
    const number = typeof value === "bigint" || typeof value === "number" ? Number(value) : NaN;
    if (!Number.isSafeInteger(number) || number < 0) throw this.broken(key, "no whole number");
    return number;
  }

  number(key: string, otherwise?: number): number {
    const found = this.find(key);
    if (!found) {
      if (otherwise === undefined) throw this.broken(key, "missing, and a number is wanted");
      return otherwise;
    }
    const { value } = found;
    if (typeof value !== "number" || !Number.isFinite(value)) throw this.broken(key, "no number");
    return found.type === "f32" ? shortest(value) : value;
  }

  boolean(key: string, otherwise: boolean): boolean {
    const found = this.find(key);
    if (!found) return otherwise;
    if (found.type !== "bool") throw this.broken(key, "neither true nor false");
    return found.value;
  }

  string(key: string, otherwise?: string): string {
    const found = this.find(key);
    if (!found && otherwise !== undefined) return otherwise;
    if (found?.type !== "string") throw this.broken(key, found ? "no text" : "missing, and a text is wanted");
    return found.value;
  }

  find(key: string): MetadataValue | undefined {
    return this.metadata.get(this.prefix + key);
  }

  broken(key: string, what: string): Error {
    return new Error(`${this.name}: ${this.prefix}${key} is ${what}. Choose a file that llama.cpp's own tools made.`);
  }
}

/** The shortest decimal that is this float32: 0.000001, not 9.999999974752427e-7. */
export function shortest(value: number): number {
  for (let digits = 1; digits < 9; digits++) {
    const rounded = Number(value.toPrecision(digits));
    if (Math.fround(rounded) === value) return rounded;
  }
  return value;
}

/** Without what a float32 and a product left behind its seventh digit. */
function tidy(value: number): number {
  return Number(value.toPrecision(7));
}
