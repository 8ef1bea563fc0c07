// The decoder that both families are: embedding, layers of attention and feed-forward, a final norm, a head.

// B batch, T tokens, D hidden size, V vocabulary, M rows that are looked at.

import { constantTensor } from "../engine/constants.ts";
import { recomputed } from "../engine/gradients.ts";
import { headLogits } from "../engine/ops/headLogits.ts";
import { headLoss } from "../engine/ops/headLoss.ts";
import { rmsNormOfRows, rmsNormWithPass, type Rows } from "../engine/ops/rmsNorm.ts";
import type { RopeTable } from "../engine/ops/rotate.ts";
import { takeRows } from "../engine/ops/takeRows.ts";
import * as tf from "../engine/tf.ts";
import type { DeepSeekConfig, ModelConfig, Qwen2Config } from "../formats/hfConfig.ts";
import { type Attention, attention, latentCache, type Place } from "./attention.ts";
import { type GroupedAttention, groupedAttention, groupedCache } from "./groupedAttention.ts";
import type { KvCache, LayerCache } from "./kvCache.ts";
import { type Linear, type Mlp, mlp, type Norm, norm } from "./layers.ts";
import { type Moe, moe, type RouteObserver } from "./moe.ts";
import type { Table } from "./storage.ts";

export interface DenseMlp extends Mlp {
  kind: "dense";
}

/** Field names are the checkpoint's, in camel case. */
export interface Layer {
  inputLayernorm: Norm; // [D]
  selfAttn: Attention | GroupedAttention;
  postAttentionLayernorm: Norm; // [D]
  mlp: DenseMlp | Moe;
}

/** A multi-token prediction module (DeepSeek-V3, section 2.2): one more layer that predicts the token after the next. */
export interface MtpLayer {
  enorm: Norm; // [D]
  hnorm: Norm; // [D]
  ehProj: Linear; // [D, 2D], of the embedding and the hidden state, in this order
  layer: Layer;
  sharedHeadNorm: Norm; // [D]
}

export interface Model {
  config: ModelConfig;
  embedTokens: Table; // [V, D]
  layers: Layer[];
  norm: Norm; // [D]
  /** Null: tied to the embedding. */
  lmHead: Table | null; // [V, D]
  mtp: MtpLayer[];
  rope: RopeTable;
}

export interface ForwardOptions {
  onRoute?: RouteObserver;
  /** For gradients: remember what enters each layer and compute the rest again. Less memory, a third more work. */
  recompute?: boolean;
}

/** What a model reads. */
export interface Tokens {
  ids: tf.Tensor; // int32 [B, T]
  /** Where rows hold several sequences, which do not see each other. */
  packed?: {
    /** Where each token stands in its own sequence, from 0. */
    positionIds: tf.Tensor; // int32 [B, T]
    /** The first token of the row that each token may see. */
    starts: tf.Tensor; // int32 [B, T]
  };
}

/** Hidden states after the final norm: [B, T, D]. */
export function hiddenStates(model: Model, tokens: Tokens, options: ForwardOptions = {}): tf.Tensor {
  return finalNorm(model, lastStates(model, tokens, options));
}

/** What leaves the last layer: [B, T, D]. */
export function lastStates(model: Model, tokens: Tokens, options: ForwardOptions = {}): tf.Tensor {
  const place = placeOf(tokens);
  return throughLayers(model, takeRows(model.embedTokens, tokens.ids), () => place, options);
}

/** x: [B, T, D] -> [B, T, D] */
export function finalNorm(model: Model, x: tf.Tensor): tf.Tensor {
  return norm(model.norm, x, model.config.rmsNormEps);
}

export function placeOf({ ids, packed }: Tokens): Place {
  if (packed) return { positions: packed.positionIds, starts: packed.starts };
  return { positions: rowPositions(ids.shape as [number, number]) };
}

/** 0..T-1 in each of B rows: int32 [B, T]. */
export function rowPositions([B, T]: [number, number]): tf.Tensor {
  return constantTensor(
    Array.from({ length: B * T }, (_, i) => i % T),
    [B, T],
    "int32",
  );
}

/**
 * The same through the cache, which takes the tokens at their positions, int32 [B, T]: a prompt, whole and from position 0,
 * or one new token per row, which sees all that its row has there.
 */
export function cachedHiddenStates(model: Model, ids: tf.Tensor, positions: tf.Tensor, cache: KvCache): tf.Tensor {
  const place = (layer: number): Place => ({ positions, cache: cache.layers[layer] });
  return finalNorm(model, throughLayers(model, takeRows(model.embedTokens, ids), place, {}));
}

/** Disposes of `embedded`: [B, T, D]. */
function throughLayers(
  model: Model,
  embedded: tf.Tensor,
  place: (layer: number) => Place,
  options: ForwardOptions,
): tf.Tensor {
  let x = embedded;
  model.layers.forEach((layer, i) => {
    const left = throughLayer(model, layer, i, x, place(i), options);
    x.dispose(); // What a gradient needs of it is remembered.
    x = left;
  });
  return x;
}

/** A layer, remembered or computed again. x: [B, T, D] -> [B, T, D]. `index` is what observers know it by. */
export function throughLayer(
  model: Model,
  layer: Layer,
  index: number,
  x: tf.Tensor,
  place: Place,
  { onRoute, recompute = false }: ForwardOptions,
): tf.Tensor {
  const observe = onRoute && once((chosen: tf.Tensor) => onRoute(index, chosen));
  const run = (entering: tf.Tensor) => decoderLayer(layer, entering, model, place, observe);
  return recompute ? recomputed(run, [x], parametersOf(layer)) : tf.tidy(() => run(x));
}

function once<T>(act: (value: T) => void): (value: T) => void {
  let done = false;
  return (value) => {
    if (!done) act(value);
    done = true;
  };
}

/** Whatever of a layer may be trained. */
function parametersOf(layer: Layer): tf.Tensor[] {
  const tensors = tf.tensor_util.getTensorsInContainer(layer as unknown as tf.TensorContainer);
  return tensors.filter(({ dtype }) => dtype === "float32");
}

/** x: [B, T, D] -> [B, T, D] */
export function decoderLayer(
  layer: Layer,
  x: tf.Tensor,
  { rope, config }: Model,
  place: Place,
  observe?: (chosen: tf.Tensor) => void,
): tf.Tensor {
  const { rmsNormEps: eps } = config;
  const [entering, normed] = rmsNormWithPass(x, layer.inputLayernorm.weight, eps);
  const middle =
    layer.selfAttn.kind === "latent"
      ? attention(layer.selfAttn, normed, entering, rope, place, config as DeepSeekConfig)
      : groupedAttention(layer.selfAttn, normed, entering, rope, place, config as Qwen2Config);
  const [attended, again] = rmsNormWithPass(middle, layer.postAttentionLayernorm.weight, eps);
  if (layer.mlp.kind === "dense") return mlp(layer.mlp, again, attended);
  return moe(layer.mlp, again, config as DeepSeekConfig, observe, attended);
}

/** The head's weight: [V, D]. */
export function headWeight(model: Model): Table {
  return model.lmHead ?? model.embedTokens;
}

/** h: [M, D] -> [M, V] */
export function logits(model: Model, h: tf.Tensor): tf.Tensor {
  return headLogits(h, headWeight(model));
}

/** Of the flattened [B*T] rows those that predict, what and with what weight; padding has weight 0. */
export interface Predictions extends Rows {
  targets: tf.Tensor; // int32 [M]
  weights: tf.Tensor; // [M]
}

/** What a loss is taken over. */
export interface LossInput extends Tokens, Predictions {
  /** What each multi-token prediction layer learns, where they are trained. */
  ahead?: Ahead[];
}

/** Predictions of the targets from so many tokens before; each sees the tokens up to there, and all between. */
export interface Ahead extends Omit<Predictions, "targets"> {
  /** Of each token the one so many places on; anything where a row or its sequence ends. */
  ids: tf.Tensor; // int32 [B, T]
}

/** The weighted sum of -log p(target), in nats; the mean if the weights add up to 1. */
export function languageModelLoss(model: Model, input: LossInput, options: ForwardOptions = {}): tf.Scalar {
  return lossOf(model, model.norm, lastStates(model, input, options), input);
}

/** The same from what leaves a layer, through a norm that only the rows which predict need: x is [B, T, D]. */
export function lossOf(model: Model, { weight }: Norm, x: tf.Tensor, predictions: Predictions): tf.Scalar {
  const h = rmsNormOfRows(x.reshape([-1, x.shape[2]!]), weight, model.config.rmsNormEps, predictions);
  return headLoss(h, headWeight(model), predictions.targets, predictions.weights);
}

/** An empty cache of `slots` tokens for `rows` rows. The caller disposes of it. */
export function createCache(model: Model, rows: number, slots: number): KvCache {
  const layers = model.layers.map(
    ({ selfAttn: p }): LayerCache =>
      p.kind === "latent"
        ? latentCache(p, rows, slots, model.config as DeepSeekConfig)
        : groupedCache(p, rows, slots, model.config as Qwen2Config),
  );
  return { layers, rows, slots };
}
