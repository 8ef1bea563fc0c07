// Named tensors <-> the tree: loading and saving checkpoints, fresh weights, counts.

import { normalValues } from "../engine/random.ts";
import * as tf from "../engine/tf.ts";
import { sourceOf, type Weights } from "../formats/bytes.ts";
import type { LayerSizes, ModelConfig } from "../formats/hfConfig.ts";
import { encodeFloat32, type WrittenDtype } from "../formats/numbers.ts";
import { openSafetensors, packSafetensors, type StreamedTensor, type TensorToWrite } from "../formats/safetensors.ts";
import type { ModelSize } from "../protocol/report.ts";
import type { Layer, Model, MtpLayer } from "./decoder.ts";
import { buildDeepSeek } from "./deepseek.ts";
import type { KeptWeights } from "./keptWeights.ts";
import type { Linear, Mlp } from "./layers.ts";
import { buildQwen2 } from "./qwen2.ts";
import {
  type Maker,
  makerOf,
  phantomMaker,
  plainTensor,
  type ReadWeight,
  type Storage,
  type Table,
  tableShape,
  tableValues,
  tensorsOf,
} from "./storage.ts";

/** Longest context for which rotary angles are tabled, unless the config asks for less. */
const MOST_POSITIONS = 4096;

/** Build the tree of either family, its matrices stored as asked. */
export function buildModel(config: ModelConfig, read: ReadWeight, storage: Storage = "f32"): Model {
  return buildModelFrom(config, makerOf(read, storage));
}

/** Build the tree of either family from tensors as `make` makes them. */
export function buildModelFrom(config: ModelConfig, make: Maker): Model {
  const positions = Math.min(config.maxPositionEmbeddings, MOST_POSITIONS);
  const build = () =>
    config.family === "deepseek" ? buildDeepSeek(config, make, positions) : buildQwen2(config, make, positions);
  // If `make` throws half way, what was built before it does not stay in memory.
  return tf.tidy(() => build() as unknown as tf.TensorContainer) as unknown as Model;
}

/** Load a small checkpoint from the bytes of its model.safetensors, as loadModelFrom does. */
export function loadModel(config: ModelConfig, bytes: Uint8Array, storage: Storage = "f32"): Model {
  return loadModelFrom(config, openSafetensors([sourceOf(bytes, "model.safetensors")]), storage);
}

/**
 * Load a checkpoint, its matrices stored as asked. Throws a sentence for a tensor that is missing, has another shape than
 * the config says, or is not the model's.
 */
export function loadModelFrom(
  config: ModelConfig,
  weights: Weights & Partial<KeptWeights>,
  storage: Storage = weights.storage ?? "f32",
): Model {
  const make = makerOf((name, _shape, rows) => weights.read(name, rows), storage, weights.packed);
  return buildChecked(config, weights.tensors, make);
}

/** Throws what loadModelFrom would throw for a checkpoint of these tensors, without reading any. */
export function checkTensors(config: ModelConfig, tensors: ReadonlyMap<string, { shape: number[] }>): void {
  disposeModel(buildChecked(config, tensors, phantomMaker("f32")));
}

/** Build the tree; each tensor that it asks for must be there, in its shape, and no other. */
function buildChecked(config: ModelConfig, tensors: ReadonlyMap<string, { shape: number[] }>, make: Maker): Model {
  const left = new Set(tensors.keys());
  const take = (name: string, shape: number[]): void => {
    const found = tensors.get(name);
    if (!found) {
      throw new Error(
        `The checkpoint has no tensor ${name}, which its config.json asks for. Choose the weights that belong to it.`,
      );
    }
    if (!tf.util.arraysEqual(found.shape, shape)) {
      throw new Error(
        `The checkpoint's ${name} is [${found.shape}], its config.json makes it [${shape}]. ` +
          "Choose the weights that belong to it.",
      );
    }
    left.delete(name);
  };
  const model = buildModelFrom(config, afterwards(make, take));
  // A tied model may carry a copy of its head; old checkpoints carry rotary tables; a multi-token prediction layer carries
  // copies of the embedding and the head.
  const copies =
    /^lm_head\.weight$|rotary_emb\.inv_freq$|^model\.layers\.\d+\.(embed_tokens|shared_head\.head)\.weight$/;
  const strange = [...left].filter((name) => !copies.test(name));
  if (strange.length > 0) {
    disposeModel(model);
    throw new Error(
      `The checkpoint has ${strange.length} tensors that its config.json does not ask for, the first ${strange[0]}. ` +
        "Choose the config.json that belongs to it.",
    );
  }
  return model;
}

/** A maker that makes what `take` lets pass. */
function afterwards(make: Maker, take: (name: string, shape: number[]) => void): Maker {
  return {
    plain: (name, shape) => (take(name, shape), make.plain(name, shape)),
    matrix: (name, shape) => (take(name, shape), make.matrix(name, shape)),
    table: (name, shape) => (take(name, shape), make.table(name, shape)),
    stacks: (stacks) => {
      for (const { parts } of stacks) for (const { name, shape } of parts) take(name, shape);
      return make.stacks(stacks);
    },
  };
}

/**
 * Fresh weights: the embedding (and an untied head) normal with the config's initializer_range; every projection normal
 * with 1 / sqrt(inputs), and those back into the residual stream smaller by sqrt(2 * layers) (Radford et al., 2019,
 * section 2.3); norms 1, biases 0. The range alone, made for widths in the thousands, starts a narrow model too flat.
 */
export function initModel(config: ModelConfig, seed: number, storage: Storage = "f32"): Model {
  let stream = 0;
  const draw = (name: string, shape: number[]): Float32Array => {
    stream += 1;
    const size = tf.util.sizeFromShape(shape);
    if (name.endsWith("norm.weight")) return new Float32Array(size).fill(1);
    if (name.endsWith(".bias") || name.endsWith("_bias")) return new Float32Array(size);
    if (/embed_tokens|lm_head/.test(name)) return normalValues(size, config.initializerRange, seed, stream);
    const residual = /(o_proj|down_proj)\.weight$/.test(name) ? Math.sqrt(2 * config.numHiddenLayers) : 1;
    return normalValues(size, 1 / (residual * Math.sqrt(shape[1])), seed, stream);
  };
  return buildModel(config, inRows(draw), storage);
}

/** Answers for rows from a tensor that was drawn as a whole, which is kept until the next one. */
function inRows(draw: (name: string, shape: number[]) => Float32Array): ReadWeight {
  let latest: { name: string; values: Float32Array } = { name: "", values: new Float32Array() };
  return (name, shape, rows) => {
    if (!rows) return draw(name, shape);
    if (latest.name !== name) latest = { name, values: draw(name, shape) };
    return latest.values.subarray(rows[0] * shape[1], rows[1] * shape[1]);
  };
}

/** Sizes of a layer that pruning may have changed. */
export function layerSizes(config: ModelConfig, index: number) {
  const own: LayerSizes = config.layers?.[index] ?? {};
  const deepseek = config.family === "deepseek" ? config : null;
  return {
    heads: own.numAttentionHeads ?? config.numAttentionHeads,
    keyValueHeads: own.numKeyValueHeads ?? config.numKeyValueHeads,
    intermediate: own.intermediateSize ?? config.intermediateSize,
    shared: own.sharedIntermediateSize ?? (deepseek ? deepseek.nSharedExperts * deepseek.moeIntermediateSize : 0),
    experts:
      own.expertIntermediateSizes ??
      Array.from({ length: deepseek?.nRoutedExperts ?? 0 }, () => deepseek!.moeIntermediateSize),
  };
}

export interface NamedTensor {
  /** The checkpoint's name. Routed experts are stacked in the tree: there it is `…mlp.experts.gate_proj.weight`. */
  name: string;
  tensor: tf.Tensor;
}

/**
 * Every weight of the tree, adapters apart, by name, in the tree's order. Throws if some are stored small or in pieces:
 * those are frozen.
 */
export function namedWeights(model: Model): NamedTensor[] {
  return namedTables(model).map(({ name, table }) => ({ name, tensor: plainTensor(name, table) }));
}

export interface NamedTable {
  /** As for NamedTensor. */
  name: string;
  table: Table;
}

/** The same however they are stored. */
export function namedTables(model: Model): NamedTable[] {
  const found = new Map<string, Table>();
  const put: Put = (name, table) => table && found.set(name, table);
  put("model.embed_tokens.weight", model.embedTokens);
  model.layers.forEach((layer, i) => putLayer(`model.layers.${i}`, layer, put));
  model.mtp.forEach((mtp, k) => putMtp(`model.layers.${model.layers.length + k}`, mtp, put));
  put("model.norm.weight", model.norm.weight);
  if (model.lmHead) put("lm_head.weight", model.lmHead);
  return [...found].map(([name, table]) => ({ name, table }));
}

type Put = (name: string, table: Table | undefined) => unknown;

function putLayer(at: string, layer: Layer, put: Put): void {
  put(`${at}.input_layernorm.weight`, layer.inputLayernorm.weight);
  for (const [name, { weight, bias }] of attentionParts(layer)) {
    put(`${at}.self_attn.${name}.weight`, weight);
    put(`${at}.self_attn.${name}.bias`, bias);
  }
  put(`${at}.post_attention_layernorm.weight`, layer.postAttentionLayernorm.weight);
  const { mlp } = layer;
  if (mlp.kind === "dense") {
    putMlp(`${at}.mlp`, mlp, put);
    return;
  }
  put(`${at}.mlp.gate.weight`, mlp.gate.weight);
  put(`${at}.mlp.gate.e_score_correction_bias`, mlp.eScoreCorrectionBias);
  put(`${at}.mlp.experts.gate_proj.weight`, mlp.experts.gate);
  put(`${at}.mlp.experts.up_proj.weight`, mlp.experts.up);
  put(`${at}.mlp.experts.down_proj.weight`, mlp.experts.down);
  if (mlp.sharedExperts) putMlp(`${at}.mlp.shared_experts`, mlp.sharedExperts, put);
}

/** An attention's parts by their names in the checkpoint; those with "proj" in it are linear maps. */
function attentionParts({ selfAttn: p }: Layer): [string, Linear][] {
  if (p.kind === "grouped") {
    return [
      ["q_proj", p.qProj],
      ["k_proj", p.kProj],
      ["v_proj", p.vProj],
      ["o_proj", p.oProj],
    ];
  }
  const query: [string, Linear][] =
    "qProj" in p.query
      ? [["q_proj", p.query.qProj]]
      : [
          ["q_a_proj", p.query.qAProj],
          ["q_a_layernorm", p.query.qALayernorm],
          ["q_b_proj", p.query.qBProj],
        ];
  return [
    ...query,
    ["kv_a_proj_with_mqa", p.kvAProjWithMqa],
    ["kv_a_layernorm", p.kvALayernorm],
    ["kv_b_proj", p.kvBProj],
    ["o_proj", p.oProj],
  ];
}

function putMlp(at: string, p: Mlp, put: Put): void {
  put(`${at}.gate_proj.weight`, p.gateProj.weight);
  put(`${at}.up_proj.weight`, p.upProj.weight);
  put(`${at}.down_proj.weight`, p.downProj.weight);
}

function putMtp(at: string, p: MtpLayer, put: Put): void {
  put(`${at}.enorm.weight`, p.enorm.weight);
  put(`${at}.hnorm.weight`, p.hnorm.weight);
  put(`${at}.eh_proj.weight`, p.ehProj.weight);
  putLayer(at, p.layer, put);
  put(`${at}.shared_head.norm.weight`, p.sharedHeadNorm.weight);
}

/** Dispose of every tensor of the tree, adapters and tables too. */
export function disposeModel(model: Model): void {
  tf.dispose(namedTables(model).flatMap(({ table }) => tensorsOf(table)));
  tf.dispose([model.rope.cos, model.rope.sin]);
  for (const {
    linear: { lora },
  } of linearSlots(model))
    if (lora) tf.dispose([lora.a, lora.b]);
}

/** Every two-dimensional linear map that can carry an adapter, by its module's name in the checkpoint: the tree's own objects. */
export function linearSlots(model: Model): { name: string; linear: Linear }[] {
  return model.layers.flatMap((layer, i) => {
    const at = `model.layers.${i}`;
    const own = attentionParts(layer)
      .filter(([name]) => name.includes("proj"))
      .map(([name, linear]) => ({ name: `${at}.self_attn.${name}`, linear }));
    const { mlp } = layer;
    const dense = mlp.kind === "dense" ? mlp : mlp.sharedExperts;
    const where = mlp.kind === "dense" ? `${at}.mlp` : `${at}.mlp.shared_experts`;
    if (!dense) return own;
    return [
      ...own,
      { name: `${where}.gate_proj`, linear: dense.gateProj },
      { name: `${where}.up_proj`, linear: dense.upProj },
      { name: `${where}.down_proj`, linear: dense.downProj },
    ];
  });
}

/** A tensor of the checkpoint. Its values, float32, come to the processor when they are asked for. */
export interface CheckpointTensor {
  name: string;
  shape: number[];
  values: () => Promise<Float32Array>;
}

/** The checkpoint's tensors (of the tables asked for), experts one by one. To be read once, in this order. */
export function checkpointTensors(model: Model, wanted: (table: Table) => boolean = () => true): CheckpointTensor[] {
  const tables = storedTables(model).filter(({ table }) => wanted(table));
  return tables.flatMap(({ name, table }) => {
    const stacked = /^(model\.layers\.(\d+)\.mlp\.experts)\.(\w+)\.weight$/.exec(name);
    if (!stacked) return [{ name, shape: tableShape(table), values: () => tableValues(table) }];
    return unstack(stacked[1], stacked[3], offsetsOf(model, Number(stacked[2])), table);
  });
}

/** The weights that are in the checkpoint: V2's router has no bias, the zeros in its place are the tree's own. */
function storedTables(model: Model): NamedTable[] {
  const { config } = model;
  const biased = config.family === "deepseek" && config.topkMethod === "noaux_tc";
  return namedTables(model).filter(({ name }) => biased || !name.endsWith("e_score_correction_bias"));
}

function offsetsOf(model: Model, index: number): number[] {
  const layer = model.layers[index] ?? model.mtp[index - model.layers.length].layer;
  return layer.mlp.kind === "experts" ? layer.mlp.experts.offsets : [];
}

function unstack(at: string, projection: string, offsets: number[], table: Table): CheckpointTensor[] {
  const [rows, columns] = tableShape(table);
  let whole: Promise<Float32Array> | null = null; // Read for the first expert, given up after the last.
  return offsets.slice(0, -1).map((from, e) => {
    const width = offsets[e + 1] - from;
    const shape = projection === "down_proj" ? [rows, width] : [width, columns];
    const values = async () => {
      const all = await (whole ??= tableValues(table));
      if (e === offsets.length - 2) whole = null;
      if (projection !== "down_proj") return all.slice(from * columns, (from + width) * columns);
      const own = new Float32Array(rows * width);
      for (let d = 0; d < rows; d++) own.set(all.subarray(d * columns + from, d * columns + from + width), d * width);
      return own;
    };
    return { name: `${at}.${e}.${projection}.weight`, shape, values };
  });
}

/** A tensor of the checkpoint in the type that it is written in. */
export interface ModelTensor extends StreamedTensor {
  bytes: () => Promise<Uint8Array>;
}

/**
 * The checkpoint to be written, what is stored small as what it stands for: a tensor leaves the device when its turn comes.
 * The router's bias stays float32 whatever the rest is stored as.
 */
export function modelTensors(model: Model, dtype: WrittenDtype): ModelTensor[] {
  return checkpointTensors(model).map(({ name, shape, values }) => {
    const stored = name.endsWith("e_score_correction_bias") ? "F32" : dtype;
    return { name, dtype: stored, shape, bytes: async () => encodeFloat32(await values(), stored) };
  });
}

/** The same as a small safetensors file in memory. */
export async function saveModel(model: Model, dtype: WrittenDtype): Promise<Uint8Array> {
  const tensors: TensorToWrite[] = [];
  for (const tensor of modelTensors(model, dtype)) tensors.push({ ...tensor, data: await tensor.bytes() });
  return packSafetensors(tensors);
}

/** Parameters by kind. The router's balancing bias is counted with the router. */
export function modelSize(model: Model): ModelSize {
  const size: ModelSize = {
    total: 0,
    embedding: 0,
    attention: 0,
    denseFfn: 0,
    sharedExperts: 0,
    routedExperts: 0,
    router: 0,
    norms: 0,
  };
  for (const { name, table } of storedTables(model)) {
    const parameters = tf.util.sizeFromShape(tableShape(table));
    size.total += parameters;
    size[kindOf(name)] += parameters;
  }
  return size;
}

function kindOf(name: string): Exclude<keyof ModelSize, "total"> {
  if (name.endsWith("norm.weight")) return "norms";
  if (/embed_tokens|lm_head/.test(name)) return "embedding";
  if (/self_attn|eh_proj/.test(name)) return "attention";
  if (/mlp\.gate\./.test(name)) return "router";
  if (/shared_experts/.test(name)) return "sharedExperts";
  return /mlp\.experts/.test(name) ? "routedExperts" : "denseFfn";
}
