// A LoRA adapter as PEFT stores it (adapter_config.json, adapter_model.safetensors) <-> plain values.

import { patternValues, type Targets, targetsOf } from "./peftTargets.ts";
import { decodeToFloat32, encodeFloat32 } from "./numbers.ts";
import { packSafetensors, readSafetensors } from "./safetensors.ts";

export interface Adapter {
  /** True: products are scaled by alpha / sqrt(rank) (Kalajdzievski, 2023); false: by alpha / rank. */
  rsLora: boolean;
  /** What it was trained on, as people name it. */
  baseModel: string;
  /** Whether the base has routed experts: there PEFT takes a plain "gate_proj" for theirs. */
  mixture: boolean;
  /** By the module's name in the checkpoint, e.g. "model.layers.0.self_attn.q_proj". */
  modules: Map<string, LoraPair>;
}

/** The module's output gains B·A·x, scaled. */
export interface LoraPair {
  rank: number;
  alpha: number;
  /** [rank, in] */
  a: Float32Array;
  /** [out, rank] */
  b: Float32Array;
  in: number;
  out: number;
}

export interface AdapterFiles {
  config: Record<string, unknown>;
  weights: Uint8Array;
}

/** What B·A is multiplied by. */
export function adapterScale({ rank, alpha }: Pick<LoraPair, "rank" | "alpha">, rsLora: boolean): number {
  return alpha / (rsLora ? Math.sqrt(rank) : rank);
}

/**
 * Read parsed adapter_config.json and the bytes of adapter_model.safetensors. Throws a sentence on what is not LoRA, and
 * on whatever PEFT would make something else of.
 */
export function readAdapter(config: unknown, weights: Uint8Array): Adapter {
  const { settingsOf, rsLora, baseModel, hasParameters } = readSettings(config);
  const halves = readHalves(weights);
  const modules = new Map<string, LoraPair>();
  for (const [module, { A, B }] of halves) {
    if (!A || !B) throw new Error(`${module} has only one of lora_A and lora_B. Export the adapter again.`);
    const { rank, alpha } = settingsOf(module);
    if (A.shape[0] !== rank || B.shape[1] !== rank) {
      throw new Error(
        `${module} has lora_A [${A.shape.join()}] and lora_B [${B.shape.join()}], and adapter_config.json gives it the rank ${rank}. Choose the files of one adapter.`,
      );
    }
    modules.set(module, { rank, alpha, a: A.values, b: B.values, in: A.shape[1], out: B.shape[0] });
  }
  if (modules.size === 0) throw new Error("The adapter holds no weights. Export it again.");
  const mixture = hasParameters || [...modules.keys()].some((module) => OF_MIXTURES.test(module));
  return { rsLora, baseModel, mixture, modules };
}

/**
 * The files that PEFT loads, weights as float32.
 *
 * The dense and shared MLPs of a base with routed experts are written as target_parameters, which PEFT knows from version
 * 0.17 on: as target_modules every PEFT so far would leave them out without a word (its issue 3711).
 */
export function writeAdapter(adapter: Adapter): AdapterFiles {
  const weights = [...adapter.modules].flatMap(([module, { rank, a, b, in: width, out }]) => [
    tensor(`${PREFIX}${module}.lora_A.weight`, [rank, width], a),
    tensor(`${PREFIX}${module}.lora_B.weight`, [out, rank], b),
  ]);
  return { config: writeSettings(adapter), weights: packSafetensors(weights) };
}

const PREFIX = "base_model.model.";

/** Modules that only models with routed experts have. */
const OF_MIXTURES = /\.(q_a_proj|q_b_proj|kv_a_proj_with_mqa|kv_b_proj|shared_experts\.\w+)$/;

function tensor(name: string, shape: number[], values: Float32Array) {
  return { name, dtype: "F32" as const, shape, data: encodeFloat32(values, "F32") };
}

interface Half {
  shape: number[];
  values: Float32Array;
}

/** The matrices by module. */
function readHalves(weights: Uint8Array): Map<string, { A?: Half; B?: Half }> {
  const halves = new Map<string, { A?: Half; B?: Half }>();
  for (const [name, { dtype, shape, data }] of readSafetensors(weights)) {
    const [, module, half] = /^base_model\.model\.([\w.]+)\.lora_([AB])\.weight$/.exec(name) ?? [];
    if (!module || shape.length !== 2) throw new Error(`The adapter holds "${name}" [${shape.join()}]${reason(name)}`);
    if (/\.experts\./.test(`.${module}.`)) {
      throw new Error(
        `The adapter is on routed experts (${module}), which stay as they are here. Merge it into its base elsewhere and open that.`,
      );
    }
    halves.set(module, { ...halves.get(module), [half]: { shape, values: decodeToFloat32(dtype, data) } });
  }
  return halves;
}

/** Why a tensor is not read, by what it is called. */
function reason(name: string): string {
  if (name.includes("lora_magnitude")) return ", which is DoRA's and is not supported. Train it as plain LoRA.";
  if (name.includes("lora_embedding")) return ": adapters on embeddings are not supported. Train it without them.";
  if (/lora_[AB]\.bias$/.test(name)) return ", a bias of the adapter's own, which is not supported. Train it without.";
  if (!name.includes("lora_")) return ", a whole matrix (modules_to_save), which is not supported. Train it without.";
  return "; only matrices lora_A and lora_B of modules can be read. Save it with PEFT as a plain LoRA adapter.";
}

interface Settings extends Pick<Adapter, "rsLora" | "baseModel"> {
  /** Throws a sentence if PEFT would leave the module out. */
  settingsOf: (module: string) => Pick<LoraPair, "rank" | "alpha">;
  hasParameters: boolean;
}

function readSettings(config: unknown): Settings {
  const json = (typeof config === "object" && config !== null ? config : {}) as Record<string, unknown>;
  const { peft_type: type, r: rank, lora_alpha: alpha } = json;
  if (type !== "LORA") {
    throw new Error(`adapter_config.json is of type ${show(type)}; a LoRA adapter ("LORA") is wanted.`);
  }
  if (!isRank(rank) || !isAlpha(alpha)) {
    throw new Error(
      `adapter_config.json has r ${show(rank)} and lora_alpha ${show(alpha)}; a whole and a positive number are wanted.`,
    );
  }
  refuseOtherKinds(json);
  const rankOf = patternValues(readPatterns(json, "rank_pattern", isRank));
  const alphaOf = patternValues(readPatterns(json, "alpha_pattern", isAlpha));
  const isTarget = targetsOf(readTargets(json));
  const parameters = readParameters(json);
  return {
    rsLora: json.use_rslora === true,
    baseModel: typeof json.base_model_name_or_path === "string" ? json.base_model_name_or_path : "",
    hasParameters: parameters.length > 0,
    settingsOf: (module) => {
      const weight = `${module}.weight`;
      const isParameter = parameters.some((name) => weight === name || weight.endsWith(`.${name}`));
      if (!isParameter && !isTarget(module)) {
        throw new Error(
          `The adapter holds matrices for ${module}, which its adapter_config.json does not name (target_modules). Choose the files of one adapter.`,
        );
      }
      const name = isParameter ? weight : module; // What PEFT matches patterns with.
      return { rank: rankOf(name) ?? rank, alpha: alphaOf(name) ?? alpha };
    },
  };
}

const isRank = (value: unknown): value is number => Number.isSafeInteger(value) && (value as number) > 0;
const isAlpha = (value: unknown): value is number => Number.isFinite(value) && (value as number) > 0;

/** Refuse by name what makes the weights mean something else. Other keys, of newer versions too, are not looked at. */
function refuseOtherKinds(json: Record<string, unknown>): void {
  for (const [key, plain] of Object.entries(PLAIN)) {
    const value = json[key] ?? plain[0];
    const empty = typeof value === "object" && Object.keys(value ?? {}).length === 0;
    if (!plain.includes(value) && !empty) {
      throw new Error(`The adapter has ${key} ${show(value)}, which is not supported. Export a plain LoRA adapter.`);
    }
  }
}

/** Settings that change what the weights mean, with the values under which they do not. */
const PLAIN: Record<string, unknown[]> = {
  use_dora: [false],
  use_qalora: [false],
  use_bdlora: [null, false],
  lora_bias: [false],
  fan_in_fan_out: [false],
  bias: ["none"],
  // The others begin by changing the base as well.
  init_lora_weights: [true, false, "gaussian", "eva", "orthogonal"],
  modules_to_save: [null],
  trainable_token_indices: [null],
  layer_replication: [null],
  alora_invocation_tokens: [null],
  arrow_config: [null],
  kasa_config: [null],
  monteclora_config: [null],
};

function readPatterns(
  json: Record<string, unknown>,
  key: string,
  isValue: (value: unknown) => value is number,
): Record<string, number> {
  const patterns = json[key] ?? {};
  const isRecord = typeof patterns === "object" && !Array.isArray(patterns);
  if (!isRecord || !Object.values(patterns).every(isValue)) {
    throw new Error(
      `adapter_config.json has ${key} ${show(patterns)}; names of modules with ${isValue === isRank ? "whole numbers above 0" : "positive numbers"} are wanted.`,
    );
  }
  return patterns as Record<string, number>;
}

function readTargets(json: Record<string, unknown>): Targets {
  const layers = json.layers_to_transform ?? [];
  const list = typeof layers === "number" ? [layers] : layers;
  if (!Array.isArray(list) || !list.every((layer) => Number.isSafeInteger(layer))) {
    throw new Error(`adapter_config.json has layers_to_transform ${show(layers)}; numbers of layers are wanted.`);
  }
  return {
    modules: readNames(json, "target_modules") ?? "all-linear", // PEFT's choice for the family: what is in the file.
    layers: list as number[],
    layersPattern: [readNames(json, "layers_pattern") ?? []].flat(),
    exclude: readNames(json, "exclude_modules"),
  };
}

function readNames(json: Record<string, unknown>, key: string): string[] | string | undefined {
  const names = json[key] ?? undefined;
  const isList = Array.isArray(names) && names.every((name) => typeof name === "string");
  if (names === undefined || typeof names === "string" || isList) return names as string[] | string | undefined;
  throw new Error(`adapter_config.json has ${key} ${show(names)}; a list of names is wanted.`);
}

/** Parameters that are weights of linear maps are those maps under another name; others are no matrices. */
function readParameters(json: Record<string, unknown>): string[] {
  const names = [readNames(json, "target_parameters") ?? []].flat();
  const other = names.find((name) => !/^([\w.]+\.)?\w+_proj\.weight$/.test(name) || /(^|\.)experts\./.test(name));
  if (other === undefined) return names;
  throw new Error(
    `The adapter has target_parameters ${show(other)}, which is no weight of a linear map, and that is not supported. Merge it into its base elsewhere and open that.`,
  );
}

/** The fewest keys that every version of PEFT reads: older ones refuse what they do not know. */
function writeSettings({ rsLora, baseModel, mixture, modules }: Adapter): Record<string, unknown> {
  const isParameter = (module: string) => mixture && /\.mlp\./.test(module);
  const parameters = [...modules.keys()].filter(isParameter).map((module) => `${module}.weight`);
  const { modules: targets, layers = null } = shortest([...modules.keys()].filter((module) => !isParameter(module)));
  const { rank, alpha } = commonest([...modules.values()]);
  const others = [...modules].filter(([, pair]) => pair.rank !== rank || pair.alpha !== alpha);
  // Older versions look up both with the first pattern of either that matches: both have the same.
  const patterns = (valueOf: (pair: LoraPair) => number) =>
    Object.fromEntries(
      others.map(([module, pair]) => [ending(isParameter(module) ? `${module}.weight` : module), valueOf(pair)]),
    );
  return {
    peft_type: "LORA",
    task_type: "CAUSAL_LM",
    base_model_name_or_path: baseModel,
    r: rank,
    lora_alpha: alpha,
    lora_dropout: 0,
    bias: "none",
    fan_in_fan_out: false,
    inference_mode: true,
    init_lora_weights: true,
    layers_to_transform: layers,
    modules_to_save: null,
    rank_pattern: patterns((pair) => pair.rank),
    alpha_pattern: patterns((pair) => pair.alpha),
    target_modules: targets,
    ...(parameters.length > 0 ? { target_parameters: parameters } : {}),
    use_rslora: rsLora,
    use_dora: false,
  };
}

const IN_LAYER = /^model\.layers\.(\d+)\.(\w+)\.(\w+)$/;

/**
 * Last names and layers, if these are all modules of those names in those layers; else names in full: by last names PEFT
 * would also put adapters where this one has none.
 */
function shortest(modules: string[]): Targets {
  const parts = modules.map((module) => IN_LAYER.exec(module)?.slice(1) ?? []);
  const layers = [...new Set(parts.map(([layer]) => Number(layer)))].toSorted((a, b) => a - b);
  const ends = new Set(parts.map(([, block, name]) => `${block}.${name}`));
  const names = [...new Set(parts.map(([, , name]) => name))];
  const inLayers = parts.length > 0 && parts.every((part) => part.length > 0);
  const product = names.length === ends.size && modules.length === names.length * layers.length;
  return inLayers && product ? { modules: names, layers } : { modules };
}

/** The pair whose rank and alpha most pairs have. */
function commonest(pairs: LoraPair[]): LoraPair {
  const alike = (one: LoraPair) => pairs.filter(({ rank, alpha }) => rank === one.rank && alpha === one.alpha).length;
  return pairs.reduce((most, some) => (alike(some) > alike(most) ? some : most));
}

/** What PEFT of any version finds a name by: it wants something before it, and a dot. */
function ending(name: string): string {
  return name.replace(/^model\./, "");
}

function show(value: unknown): string {
  const text = JSON.stringify(value) ?? "missing";
  return text.length > 80 ? `${text.slice(0, 80)}…` : text;
}
