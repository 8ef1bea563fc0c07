// Numbers of a reference implementation, in folders as tests/fixtures/README.md describes them.

import { sourceOf } from "../formats/bytes.ts";
import { type ModelConfig, readConfig } from "../formats/hfConfig.ts";
import { decodeToFloat32 } from "../formats/numbers.ts";
import { type Adapter, readAdapter } from "../formats/peftAdapter.ts";
import { openSafetensors, readSafetensors } from "../formats/safetensors.ts";
import { loadModelFrom } from "../models/weights.ts";
import type { Model } from "../models/decoder.ts";
import type { Batch } from "../protocol/data.ts";
import type { OptimizerSettings } from "../training/optimizer.ts";

/** A file by its path, "model/config.json"; null if there is none. */
export type ReadFile = (path: string) => Uint8Array | null;

/** What a reference made of a model. */
export interface Reference {
  config: ModelConfig;
  /** A fresh tree of the weights on the active backend. The caller disposes of it. */
  load: () => Model;
  inputs: Inputs;
  loss: number;
  greedy: { prompt: number[]; continuation: number[] } | null;
  /** L2 norms of gradients by parameter; of some parameters `tensors` has the gradient itself, as "grad.NAME". */
  gradientNorms: Map<string, number> | null;
  /** By layer: the experts of each token, ascending. */
  routing: Map<number, number[][]> | null;
  tensors: Map<string, Float32Array>;
  lora: LoraReference | null;
}

/** What a reference made of training an adapter: the same batch at every step. */
export interface LoraReference {
  adapter: Adapter;
  learningRate: number;
  optimizer: OptimizerSettings;
  /** Before each step and after the last. */
  losses: number[];
  gradientNorms: Map<string, number>;
  tensors: Map<string, Float32Array>;
}

export interface Inputs {
  ids: number[][];
  /** Places of real tokens among all rows' tokens. */
  real: number[];
  batch: Batch;
}

interface ExpectedJson {
  input_ids: number[][];
  attention_mask: number[][];
  labels: number[][];
  loss: number;
  num_target_tokens: number;
  grad_stats?: Record<string, { l2: number }>;
  greedy?: { prompt: number[]; continuation: number[] };
  routing?: { experts_ascending: Record<string, number[][][]> };
}

interface LoraJson {
  losses_before_each_step_and_after_the_last: number[];
  grad_stats: Record<string, { l2: number }>;
}

interface OptimizerJson {
  lr: number;
  betas: [number, number];
  eps: number;
  weight_decay: number;
  gradient_clipping: number | null;
}

/** Read a folder. Throws a sentence for a file that is missing or no such file. */
export function readReference(folder: string, read: ReadFile): Reference {
  const own = within(folder, read);
  const expected = own.json("expected.json") as Partial<ExpectedJson>;
  const twin = folder.replace(/-bf16$/, ""); // Its inputs are those of the float32 folder.
  const all = { ...(within(twin, read).json("expected.json") as ExpectedJson), ...expected };
  const config = readConfig(own.json("config.json"));
  return {
    config,
    load: () => loadModelFrom(config, openWeights(own)),
    inputs: readInputs(all),
    loss: all.loss,
    greedy: expected.greedy ?? null,
    gradientNorms: expected.grad_stats ? normsOf(expected.grad_stats) : null,
    routing: expected.routing ? readRouting(expected.routing.experts_ascending) : null,
    tensors: own.tensors("expected.safetensors"),
    lora: own.read("lora/expected.json") ? readLora(within(`${folder}/lora`, read)) : null,
  };
}

interface Folder {
  name: string;
  read: ReadFile;
  bytes: (file: string) => Uint8Array;
  json: (file: string) => unknown;
  tensors: (file: string) => Map<string, Float32Array>;
}

function within(name: string, readFile: ReadFile): Folder {
  const read: ReadFile = (file) => readFile(`${name}/${file}`);
  const bytes = (file: string): Uint8Array => {
    const found = read(file);
    if (!found)
      throw new Error(`${name} has no ${file}. A folder laid out as tests/fixtures/README.md says is wanted.`);
    return found;
  };
  return {
    name,
    read,
    bytes,
    json: (file) => parse(bytes(file), `${name}/${file}`),
    tensors: (file) =>
      new Map([...readSafetensors(bytes(file))].map(([key, { dtype, data }]) => [key, decodeToFloat32(dtype, data)])),
  };
}

function parse(bytes: Uint8Array, path: string): unknown {
  try {
    return JSON.parse(new TextDecoder().decode(bytes)) as unknown;
  } catch (error) {
    throw new Error(`${path} is no JSON (${(error as Error).message}). Make it again.`, { cause: error });
  }
}

function openWeights(folder: Folder) {
  const one = folder.read("model.safetensors");
  if (one) return openSafetensors([sourceOf(one, `${folder.name}/model.safetensors`)]);
  const index = folder.json("model.safetensors.index.json") as { weight_map?: Record<string, string> };
  const files = [...new Set(Object.values(index.weight_map ?? {}))];
  return openSafetensors(
    files.map((file) => sourceOf(folder.bytes(file), file)),
    index,
  );
}

function readInputs({ input_ids: ids, attention_mask: mask, labels, num_target_tokens: count }: ExpectedJson): Inputs {
  const real = mask.flat().flatMap((one, place) => (one ? [place] : []));
  return { ids, real, batch: batchOf(ids, labels, count) };
}

/** Labels at t + 1 are scored at t; -100 is not scored. */
function batchOf(ids: number[][], labels: number[][], count: number): Batch {
  const T = ids[0].length;
  const scored = labels.flatMap((row, b) =>
    row.flatMap((label, t) => (t > 0 && label !== -100 ? [{ position: b * T + t - 1, label }] : [])),
  );
  if (scored.length !== count) {
    throw new Error(`The labels score ${scored.length} tokens and num_target_tokens says ${count}. Make them again.`);
  }
  return {
    rows: ids.length,
    length: T,
    ids: Int32Array.from(ids.flat()),
    lengths: Int32Array.from(ids, () => T),
    positions: Int32Array.from(scored, ({ position }) => position),
    targets: Int32Array.from(scored, ({ label }) => label),
    weights: Float32Array.from(scored, () => 1 / scored.length),
    tokens: T * ids.length,
    trainedTokens: scored.length,
  };
}

function normsOf(stats: Record<string, { l2: number }>): Map<string, number> {
  return new Map(Object.entries(stats).map(([name, { l2 }]) => [name, l2]));
}

function readRouting(byLayer: Record<string, number[][][]>): Map<number, number[][]> {
  return new Map(Object.entries(byLayer).map(([layer, rows]) => [Number(layer), rows.flat()]));
}

function readLora(folder: Folder): LoraReference {
  const {
    lr,
    betas,
    eps,
    weight_decay: weightDecay,
    gradient_clipping: clip,
  } = folder.json("optimizer.json") as OptimizerJson;
  const expected = folder.json("expected.json") as LoraJson;
  return {
    adapter: readAdapter(folder.json("adapter_config.json"), folder.bytes("adapter_model.safetensors")),
    learningRate: lr,
    optimizer: { beta1: betas[0], beta2: betas[1], eps, weightDecay, clipNorm: clip ?? 0 },
    losses: expected.losses_before_each_step_and_after_the_last,
    gradientNorms: normsOf(expected.grad_stats),
    tensors: folder.tensors("expected.safetensors"),
  };
}
