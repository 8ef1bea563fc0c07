// A LoRA adapter as PEFT stores it (adapter_config.json, adapter_model.safetensors) <-> plain values.

import { decodeToFloat32, encodeFloat32 } from "./numbers.ts";
import { packSafetensors, readSafetensors } from "./safetensors.ts";

export interface Adapter {
  rank: number;
  alpha: number;
  /** True: the product is scaled by alpha / sqrt(rank); false: by alpha / rank. */
  rsLora: boolean;
  /** What it was trained on, as people name it. */
  baseModel: string;
  /** By the module's name in the checkpoint, e.g. "model.layers.0.self_attn.q_proj". */
  modules: Map<string, LoraPair>;
}

/** The module's output gains B·A·x, scaled. */
export interface LoraPair {
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
export function adapterScale({ rank, alpha, rsLora }: Pick<Adapter, "rank" | "alpha" | "rsLora">): number {
  return alpha / (rsLora ? Math.sqrt(rank) : rank);
}

/** Read parsed adapter_config.json and the bytes of adapter_model.safetensors. Throws a sentence on what is not LoRA. */
export function readAdapter(config: unknown, weights: Uint8Array): Adapter {
  const settings = readSettings(config);
  const modules = new Map<string, LoraPair>();
  const tensors = readSafetensors(weights);
  for (const [name, { dtype, shape, data }] of tensors) {
    const match = /^base_model\.model\.(.+)\.lora_([AB])\.weight$/.exec(name);
    if (!match || shape.length !== 2) {
      throw new Error(
        `The adapter holds "${name}" [${shape.join()}]; only lora_A and lora_B matrices can be read. Save it without modules_to_save, embeddings and DoRA.`,
      );
    }
    const pair = modules.get(match[1]) ?? { a: NONE, b: NONE, in: 0, out: 0 };
    const [rank, width] = match[2] === "A" ? shape : [shape[1], shape[0]];
    if (rank !== settings.rank) {
      throw new Error(
        `"${name}" is [${shape.join()}] and the adapter's r is ${settings.rank}: one rank for all is read.`,
      );
    }
    if (match[2] === "A") Object.assign(pair, { a: decodeToFloat32(dtype, data), in: width });
    else Object.assign(pair, { b: decodeToFloat32(dtype, data), out: width });
    modules.set(match[1], pair);
  }
  const half = [...modules].find(([, { a, b }]) => a === NONE || b === NONE);
  if (half || modules.size === 0) {
    throw new Error(
      half
        ? `${half[0]} has only one of lora_A and lora_B. Export the adapter again.`
        : "The adapter holds no weights.",
    );
  }
  return { ...settings, modules };
}

/** The files that PEFT loads. Weights are float32. */
export function writeAdapter(adapter: Adapter): AdapterFiles {
  const { rank, modules } = adapter;
  const weights = [...modules].flatMap(([module, { a, b, in: width, out }]) => [
    tensor(`${PREFIX}${module}.lora_A.weight`, [rank, width], a),
    tensor(`${PREFIX}${module}.lora_B.weight`, [out, rank], b),
  ]);
  return { config: writeSettings(adapter), weights: packSafetensors(weights) };
}

const PREFIX = "base_model.model.";
const NONE = new Float32Array(0);

function tensor(name: string, shape: number[], values: Float32Array) {
  return { name, dtype: "F32" as const, shape, data: encodeFloat32(values, "F32") };
}

function readSettings(config: unknown): Omit<Adapter, "modules"> {
  const json = (typeof config === "object" && config !== null ? config : {}) as Record<string, unknown>;
  const { peft_type: type, r: rank, lora_alpha: alpha } = json;
  if (type !== "LORA") {
    throw new Error(`adapter_config.json is of type ${show(type)}; a LoRA adapter ("LORA") is wanted.`);
  }
  if (!Number.isSafeInteger(rank) || (rank as number) < 1 || typeof alpha !== "number" || !(alpha > 0)) {
    throw new Error(
      `adapter_config.json has r ${show(rank)} and lora_alpha ${show(alpha)}; a whole and a positive number are wanted.`,
    );
  }
  for (const [key, plain] of Object.entries(PLAIN)) {
    const value = json[key] ?? plain;
    const empty = typeof value === "object" && Object.keys(value ?? {}).length === 0;
    if (value !== plain && !empty) {
      throw new Error(`The adapter has ${key} ${show(value)}, which is not supported. Export a plain LoRA adapter.`);
    }
  }
  return {
    rank: rank as number,
    alpha,
    rsLora: json.use_rslora === true,
    baseModel: typeof json.base_model_name_or_path === "string" ? json.base_model_name_or_path : "",
  };
}

/** Settings under which the weights would mean something else, with the value that a plain adapter has. */
const PLAIN: Record<string, unknown> = {
  use_dora: false,
  fan_in_fan_out: false,
  bias: "none",
  modules_to_save: null,
  rank_pattern: null,
  alpha_pattern: null,
  layer_replication: null,
  target_parameters: null,
};

/**
 * The fewest keys that PEFT of every version reads.
 *
 * Modules are named in full: by last names alone, PEFT would also put adapters where this one has none.
 */
function writeSettings({ rank, alpha, rsLora, baseModel, modules }: Adapter): Record<string, unknown> {
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
    layers_to_transform: null,
    modules_to_save: null,
    rank_pattern: {},
    alpha_pattern: {},
    target_modules: [...modules.keys()],
    use_rslora: rsLora,
    use_dora: false,
  };
}

function show(value: unknown): string {
  return JSON.stringify(value) ?? "missing";
}
