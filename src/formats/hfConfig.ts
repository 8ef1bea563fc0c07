// config.json of a Hugging Face checkpoint <-> the sizes and constants a model is built from.
//
// Two spellings are in use: transformers 4 writes rope_theta, rope_scaling and torch_dtype; transformers 5 writes
// rope_parameters and dtype. Both are read. The older is written, because both versions read it.

/** What both families have. Names are the checkpoint's, in camel case. */
interface CommonConfig {
  vocabSize: number;
  hiddenSize: number;
  numHiddenLayers: number;
  numAttentionHeads: number;
  numKeyValueHeads: number;
  /** Width of a dense feed-forward layer. */
  intermediateSize: number;
  maxPositionEmbeddings: number;
  rmsNormEps: number;
  ropeTheta: number;
  ropeScaling: Yarn | null;
  tieWordEmbeddings: boolean;
  initializerRange: number;
  bosTokenId: number | null;
  eosTokenId: number | null;
  /** What the weights are stored as, e.g. "bfloat16". */
  dtype: string;
  /** Sizes of each layer where pruning made them differ from the above; one entry a layer. */
  layers?: LayerSizes[];
  /** Keys of config.json that nothing here needs. They are written back as they were. */
  extra: Record<string, unknown>;
}

export interface DeepSeekConfig extends CommonConfig {
  family: "deepseek";
  modelType: "deepseek_v3" | "deepseek_v2";
  /** Null: queries are projected in one step. */
  qLoraRank: number | null;
  kvLoraRank: number;
  /** A query or key head is a plain part, then a rotary part. */
  qkNopeHeadDim: number;
  qkRopeHeadDim: number;
  vHeadDim: number;
  /** Width of one expert. */
  moeIntermediateSize: number;
  nRoutedExperts: number;
  /** Shared experts are one MLP of width nSharedExperts * moeIntermediateSize. */
  nSharedExperts: number;
  numExpertsPerTok: number;
  /** The layers before this one are dense. */
  firstKDenseReplace: number;
  nGroup: number;
  topkGroup: number;
  normTopkProb: boolean;
  routedScalingFactor: number;
  scoringFunc: "sigmoid" | "softmax";
  topkMethod: "noaux_tc" | "greedy" | "group_limited_greedy";
  /** Multi-token prediction layers behind the last layer. */
  numNextnPredictLayers: number;
}

export interface Qwen2Config extends CommonConfig {
  family: "qwen2";
  modelType: "qwen2";
  headDim: number;
}

export type ModelConfig = DeepSeekConfig | Qwen2Config;

/** YaRN (Peng et al., 2023): rotary frequencies stretched for a longer context. */
export interface Yarn {
  factor: number;
  originalMaxPositionEmbeddings: number;
  betaFast: number;
  betaSlow: number;
  mscale: number | null;
  mscaleAllDim: number | null;
  attentionFactor: number | null;
  /** Round the bounds of the ramp to whole dimensions. */
  truncate: boolean;
}

/** Sizes of one layer after pruning. What is missing is as in the config. */
export interface LayerSizes {
  numAttentionHeads?: number;
  numKeyValueHeads?: number;
  /** Width of the dense feed-forward layer. */
  intermediateSize?: number;
  /** Width of the shared experts together. */
  sharedIntermediateSize?: number;
  /** Width of each routed expert; as many as there are. */
  expertIntermediateSizes?: number[];
}

const SUPPORTED = "deepseek_v3, deepseek_v2 and qwen2 (DeepSeek-R1-Distill-Qwen)";

/** Check a parsed config.json and name what it says. Throws one sentence that names the field at fault. */
export function readConfig(json: unknown): ModelConfig {
  if (!isRecord(json)) {
    throw new Error(
      `config.json should hold one JSON object and holds ${describe(json)}. Choose the checkpoint's own file.`,
    );
  }
  const fields = new Fields(json);
  const modelType = fields.take("model_type");
  refuseWhatWeCannotRun(fields);
  switch (modelType) {
    case "deepseek_v3":
    case "deepseek_v2":
      return readDeepSeek(fields, modelType);
    case "qwen2":
      return readQwen2(fields);
    default:
      throw new Error(
        `config.json: model_type is ${describe(modelType)}; supported are ${SUPPORTED}. Choose a checkpoint of one of these.`,
      );
  }
}

/** The config.json of a model. readConfig(writeConfig(config)) equals config. */
export function writeConfig(config: ModelConfig): Record<string, unknown> {
  return {
    ...config.extra,
    ...(config.family === "deepseek" ? writeDeepSeek(config) : writeQwen2(config)),
    ...(config.layers ? { espalier_layers: config.layers.map(writeLayerSizes) } : {}),
  };
}

/** Whether layer `index` of the config has experts. Multi-token prediction layers, behind the last, have. */
export function isExpertLayer(config: DeepSeekConfig, index: number): boolean {
  return index >= config.firstKDenseReplace;
}

function readDeepSeek(fields: Fields, modelType: DeepSeekConfig["modelType"]): DeepSeekConfig {
  const v3 = modelType === "deepseek_v3";
  const config: DeepSeekConfig = {
    family: "deepseek",
    modelType,
    ...readCommon(fields, v3 ? 4096 : 2048, 10_000),
    qLoraRank: fields.integerOrNull("q_lora_rank", 1),
    kvLoraRank: fields.integer("kv_lora_rank", 1),
    qkNopeHeadDim: fields.integer("qk_nope_head_dim", 1),
    qkRopeHeadDim: fields.even("qk_rope_head_dim"),
    vHeadDim: fields.integer("v_head_dim", 1),
    moeIntermediateSize: fields.integer("moe_intermediate_size", 1),
    nRoutedExperts: fields.integer("n_routed_experts", 1),
    nSharedExperts: fields.integerOrNull("n_shared_experts", 0) ?? 0,
    numExpertsPerTok: fields.integer("num_experts_per_tok", 1),
    firstKDenseReplace: fields.integer("first_k_dense_replace", 0, v3 ? 3 : 0),
    nGroup: fields.integerOrNull("n_group", 1) ?? 1,
    topkGroup: fields.integerOrNull("topk_group", 1) ?? 1,
    normTopkProb: fields.boolean("norm_topk_prob", v3),
    routedScalingFactor: fields.positive("routed_scaling_factor", v3 ? 2.5 : 1),
    // transformers' own V3 config does not name the scoring function: it is always the sigmoid there.
    scoringFunc: fields.choice("scoring_func", ["sigmoid", "softmax"], v3 ? "sigmoid" : "softmax"),
    topkMethod: fields.choice(
      "topk_method",
      ["noaux_tc", "greedy", "group_limited_greedy"],
      v3 ? "noaux_tc" : "greedy",
    ),
    numNextnPredictLayers: fields.integerOrNull("num_nextn_predict_layers", 0) ?? 0,
    extra: {},
  };
  if (config.numExpertsPerTok > config.nRoutedExperts) {
    throw new Error(
      `config.json: num_experts_per_tok is ${config.numExpertsPerTok} of n_routed_experts ${config.nRoutedExperts}; at most all can be chosen.`,
    );
  }
  if (config.nRoutedExperts % config.nGroup !== 0 || config.topkGroup > config.nGroup) {
    throw new Error(
      `config.json: ${config.nRoutedExperts} experts in n_group ${config.nGroup}, topk_group ${config.topkGroup}: groups must be of one size and at most all can be kept.`,
    );
  }
  return withRest(config, fields);
}

function readQwen2(fields: Fields): Qwen2Config {
  // The theta of Qwen2 checkpoints is 10,000 or 1,000,000: a guess would load and be wrong.
  const common = readCommon(fields, 32_768, undefined);
  const headDim = fields.integerOrNull("head_dim", 2) ?? common.hiddenSize / common.numAttentionHeads;
  if (headDim % 2 !== 0) {
    throw new Error(
      `config.json: hidden_size ${common.hiddenSize} over num_attention_heads ${common.numAttentionHeads} gives heads of ${headDim}; an even whole number is wanted.`,
    );
  }
  return withRest({ family: "qwen2", modelType: "qwen2", ...common, headDim, extra: {} }, fields);
}

function readCommon(fields: Fields, maxPositions: number, theta: number | undefined): Omit<CommonConfig, "extra"> {
  const numAttentionHeads = fields.integer("num_attention_heads", 1);
  const numKeyValueHeads = fields.integerOrNull("num_key_value_heads", 1) ?? numAttentionHeads;
  if (numAttentionHeads % numKeyValueHeads !== 0) {
    throw new Error(
      `config.json: num_attention_heads ${numAttentionHeads} is not a multiple of num_key_value_heads ${numKeyValueHeads}.`,
    );
  }
  const maxPositionEmbeddings = fields.integer("max_position_embeddings", 1, maxPositions);
  const dtype = fields.take("dtype") ?? fields.take("torch_dtype") ?? "float32";
  fields.drop("torch_dtype");
  if (typeof dtype !== "string") {
    throw new Error(`config.json: dtype is ${describe(dtype)}; a name such as "bfloat16" is wanted.`);
  }
  return {
    vocabSize: fields.integer("vocab_size", 1),
    hiddenSize: fields.integer("hidden_size", 1),
    numHiddenLayers: fields.integer("num_hidden_layers", 1),
    numAttentionHeads,
    numKeyValueHeads,
    intermediateSize: fields.integer("intermediate_size", 1),
    maxPositionEmbeddings,
    rmsNormEps: fields.positive("rms_norm_eps", 1e-6),
    ...readRope(fields, maxPositionEmbeddings, theta),
    tieWordEmbeddings: fields.boolean("tie_word_embeddings", false),
    initializerRange: fields.positive("initializer_range", 0.02),
    bosTokenId: fields.tokenId("bos_token_id"),
    eosTokenId: fields.tokenId("eos_token_id"),
    dtype,
  };
}

/** rope_theta and rope_scaling (transformers 4), or both in rope_parameters (transformers 5). */
function readRope(
  fields: Fields,
  maxPositions: number,
  theta: number | undefined,
): Pick<CommonConfig, "ropeTheta" | "ropeScaling"> {
  const parameters = fields.record("rope_parameters");
  const scaling = fields.record("rope_scaling") ?? parameters;
  const ropeTheta = parameters?.has("rope_theta")
    ? parameters.positive("rope_theta")
    : fields.positive("rope_theta", theta);
  fields.drop("rope_theta");
  return { ropeTheta, ropeScaling: scaling && readScaling(scaling, maxPositions) };
}

function readScaling(fields: Fields, maxPositions: number): Yarn | null {
  const type = fields.take("rope_type") ?? fields.take("type") ?? "default";
  if (type === "default") return null;
  if (type !== "yarn") {
    throw new Error(`config.json: rope scaling of type ${describe(type)} is not supported; "yarn" or none is.`);
  }
  return {
    factor: fields.positive("factor"),
    originalMaxPositionEmbeddings: fields.integer("original_max_position_embeddings", 1, maxPositions),
    betaFast: fields.positive("beta_fast", 32),
    betaSlow: fields.positive("beta_slow", 1),
    mscale: fields.numberOrNull("mscale"),
    mscaleAllDim: fields.numberOrNull("mscale_all_dim"),
    attentionFactor: fields.numberOrNull("attention_factor"),
    truncate: fields.boolean("truncate", true),
  };
}

/** Settings that would load and compute something else. */
function refuseWhatWeCannotRun(fields: Fields): void {
  const wanted: Record<string, unknown> = {
    hidden_act: "silu",
    attention_bias: false,
    moe_layer_freq: 1,
    rope_interleave: true,
    use_sliding_window: false,
    use_mrope: false,
  };
  for (const [key, value] of Object.entries(wanted)) {
    const found = fields.take(key) ?? value;
    if (found !== value) {
      throw new Error(
        `config.json: ${key} is ${describe(found)}, and only ${describe(value)} is supported. Choose another checkpoint.`,
      );
    }
  }
  const quantization = fields.take("quantization_config");
  const method = isRecord(quantization) ? quantization.quant_method : quantization;
  if (quantization !== undefined && quantization !== null && method !== "fp8") {
    throw new Error(
      `config.json: the weights are quantised (${describe(method)}); float32, float16, bfloat16 or DeepSeek's fp8 is wanted. Choose the checkpoint before quantisation.`,
    );
  }
}

/** Add the per-layer sizes and the keys that nothing took. */
function withRest<Config extends ModelConfig>(config: Config, fields: Fields): Config {
  const layers = fields.take("espalier_layers");
  fields.drop("architectures");
  return {
    ...config,
    ...(layers === undefined || layers === null ? {} : { layers: readLayers(layers, config) }),
    extra: fields.rest(),
  };
}

function readLayers(json: unknown, config: ModelConfig): LayerSizes[] {
  const count = config.numHiddenLayers + (config.family === "deepseek" ? config.numNextnPredictLayers : 0);
  if (!Array.isArray(json) || !json.every(isRecord) || json.length !== count) {
    throw new Error(
      `config.json: espalier_layers should list the sizes of ${count} layers and is ${describe(json)}. Export the model again.`,
    );
  }
  return json.map((entry) => readLayerSizes(new Fields(entry)));
}

function readLayerSizes(fields: Fields): LayerSizes {
  const sizes: LayerSizes = {};
  if (fields.has("num_attention_heads")) sizes.numAttentionHeads = fields.integer("num_attention_heads", 0);
  if (fields.has("num_key_value_heads")) sizes.numKeyValueHeads = fields.integer("num_key_value_heads", 0);
  if (fields.has("intermediate_size")) sizes.intermediateSize = fields.integer("intermediate_size", 0);
  if (fields.has("shared_intermediate_size")) {
    sizes.sharedIntermediateSize = fields.integer("shared_intermediate_size", 0);
  }
  if (fields.has("expert_intermediate_sizes")) {
    sizes.expertIntermediateSizes = fields.integers("expert_intermediate_sizes");
  }
  return sizes;
}

function writeLayerSizes(sizes: LayerSizes): Record<string, unknown> {
  return withoutUndefined({
    num_attention_heads: sizes.numAttentionHeads,
    num_key_value_heads: sizes.numKeyValueHeads,
    intermediate_size: sizes.intermediateSize,
    shared_intermediate_size: sizes.sharedIntermediateSize,
    expert_intermediate_sizes: sizes.expertIntermediateSizes,
  });
}

function writeDeepSeek(config: DeepSeekConfig): Record<string, unknown> {
  return {
    architectures: [config.modelType === "deepseek_v3" ? "DeepseekV3ForCausalLM" : "DeepseekV2ForCausalLM"],
    ...writeCommon(config),
    attention_bias: false,
    first_k_dense_replace: config.firstKDenseReplace,
    kv_lora_rank: config.kvLoraRank,
    moe_intermediate_size: config.moeIntermediateSize,
    moe_layer_freq: 1,
    n_group: config.nGroup,
    n_routed_experts: config.nRoutedExperts,
    n_shared_experts: config.nSharedExperts,
    norm_topk_prob: config.normTopkProb,
    num_experts_per_tok: config.numExpertsPerTok,
    num_nextn_predict_layers: config.numNextnPredictLayers,
    q_lora_rank: config.qLoraRank,
    qk_nope_head_dim: config.qkNopeHeadDim,
    qk_rope_head_dim: config.qkRopeHeadDim,
    routed_scaling_factor: config.routedScalingFactor,
    scoring_func: config.scoringFunc,
    topk_group: config.topkGroup,
    topk_method: config.topkMethod,
    v_head_dim: config.vHeadDim,
  };
}

function writeQwen2(config: Qwen2Config): Record<string, unknown> {
  return {
    architectures: ["Qwen2ForCausalLM"],
    ...writeCommon(config),
    head_dim: config.headDim,
    use_sliding_window: false,
  };
}

function writeCommon(config: ModelConfig): Record<string, unknown> {
  return {
    model_type: config.modelType,
    vocab_size: config.vocabSize,
    hidden_size: config.hiddenSize,
    num_hidden_layers: config.numHiddenLayers,
    num_attention_heads: config.numAttentionHeads,
    num_key_value_heads: config.numKeyValueHeads,
    intermediate_size: config.intermediateSize,
    hidden_act: "silu",
    max_position_embeddings: config.maxPositionEmbeddings,
    rms_norm_eps: config.rmsNormEps,
    rope_theta: config.ropeTheta,
    rope_scaling: config.ropeScaling && writeScaling(config.ropeScaling),
    tie_word_embeddings: config.tieWordEmbeddings,
    initializer_range: config.initializerRange,
    bos_token_id: config.bosTokenId,
    eos_token_id: config.eosTokenId,
    torch_dtype: config.dtype,
  };
}

function writeScaling(yarn: Yarn): Record<string, unknown> {
  return withoutUndefined({
    type: "yarn",
    factor: yarn.factor,
    original_max_position_embeddings: yarn.originalMaxPositionEmbeddings,
    beta_fast: yarn.betaFast,
    beta_slow: yarn.betaSlow,
    mscale: yarn.mscale ?? undefined,
    mscale_all_dim: yarn.mscaleAllDim ?? undefined,
    attention_factor: yarn.attentionFactor ?? undefined,
    truncate: yarn.truncate ? undefined : false,
  });
}

/** Takes the fields out of a JSON object one by one, so that what is left is what nobody knows. */
class Fields {
  private readonly json: Record<string, unknown>;
  private readonly taken = new Set<string>();

  constructor(json: Record<string, unknown>) {
    this.json = json;
  }

  has(key: string): boolean {
    return this.json[key] !== undefined && this.json[key] !== null;
  }

  take(key: string): unknown {
    this.taken.add(key);
    return this.json[key];
  }

  drop(key: string): void {
    this.taken.add(key);
  }

  rest(): Record<string, unknown> {
    return Object.fromEntries(Object.entries(this.json).filter(([key]) => !this.taken.has(key)));
  }

  integer(key: string, least: number, otherwise?: number): number {
    const value = this.take(key) ?? otherwise;
    if (!Number.isSafeInteger(value) || (value as number) < least) {
      throw this.wanted(key, `a whole number of at least ${least}`);
    }
    return value as number;
  }

  integerOrNull(key: string, least: number): number | null {
    this.drop(key);
    return this.has(key) ? this.integer(key, least) : null;
  }

  even(key: string): number {
    const value = this.integer(key, 2);
    if (value % 2 !== 0) throw this.wanted(key, "an even number");
    return value;
  }

  integers(key: string): number[] {
    const value = this.take(key);
    if (!Array.isArray(value) || !value.every((entry) => Number.isSafeInteger(entry) && entry >= 0)) {
      throw this.wanted(key, "a list of whole numbers");
    }
    return value;
  }

  positive(key: string, otherwise?: number): number {
    const value = this.take(key) ?? otherwise;
    if (typeof value !== "number" || !(value > 0) || value === Infinity) throw this.wanted(key, "a positive number");
    return value;
  }

  numberOrNull(key: string): number | null {
    const value = this.take(key) ?? null;
    if (value !== null && (typeof value !== "number" || !Number.isFinite(value))) throw this.wanted(key, "a number");
    return value;
  }

  boolean(key: string, otherwise: boolean): boolean {
    const value = this.take(key) ?? otherwise;
    if (typeof value !== "boolean") throw this.wanted(key, "true or false");
    return value;
  }

  choice<Name extends string>(key: string, names: Name[], otherwise: Name): Name {
    const value = this.take(key) ?? otherwise;
    const name = names.find((candidate) => candidate === value);
    if (name === undefined) throw this.wanted(key, `one of ${names.join(", ")}`);
    return name;
  }

  /** A token's id. Where several end a text, the first is the one training writes. */
  tokenId(key: string): number | null {
    const value = this.take(key) ?? null;
    const id: unknown = Array.isArray(value) ? value[0] : value;
    if (id !== null && (!Number.isSafeInteger(id) || (id as number) < 0)) throw this.wanted(key, "a token id");
    return id as number | null;
  }

  record(key: string): Fields | null {
    const value = this.take(key) ?? null;
    if (value === null) return null;
    if (!isRecord(value)) throw this.wanted(key, "an object");
    return new Fields(value);
  }

  private wanted(key: string, wanted: string): Error {
    const found = this.json[key];
    const what = found === undefined ? "is missing" : `is ${describe(found)}`;
    return new Error(
      `config.json: ${key} ${what}; ${wanted} is wanted. Choose the config.json that belongs to the weights.`,
    );
  }
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function describe(value: unknown): string {
  const text = JSON.stringify(value) ?? "missing";
  return text.length > 60 ? `${text.slice(0, 60)}…` : text;
}

function withoutUndefined(record: Record<string, unknown>): Record<string, unknown> {
  return Object.fromEntries(Object.entries(record).filter(([, value]) => value !== undefined));
}
