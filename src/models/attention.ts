// Multi-head latent attention (DeepSeek-V2, section 2.1; the same in V3): keys and values pass through a narrow latent,
// and a rotary part of the key is shared by all heads.

// B batch, T tokens, D hidden size, H heads, R latent width (kv_lora_rank), N and P the plain and rotary parts of a query
// or key head, V the width of a value head, S slots of the cache.

import { latentAttention } from "../engine/ops/latentAttention.ts";
import { latentDecode, storeLatents } from "../engine/ops/latentDecode.ts";
import { rmsNormOfPart } from "../engine/ops/rmsNorm.ts";
import type { RopeTable } from "../engine/ops/rotate.ts";
import * as tf from "../engine/tf.ts";
import type { DeepSeekConfig } from "../formats/hfConfig.ts";
import type { LatentCache, LayerCache } from "./kvCache.ts";
import { type Linear, linear, linears, mergedWeight, type Norm, norm, yarnGain } from "./layers.ts";

/** Field names are the checkpoint's, in camel case. */
export interface Attention {
  kind: "latent";
  /** Either the two-step projection or, with q_lora_rank null, qProj alone. */
  query: { qAProj: Linear; qALayernorm: Norm; qBProj: Linear } | { qProj: Linear }; // -> [H*(N+P)]
  kvAProjWithMqa: Linear; // [R+P, D]
  kvALayernorm: Norm; // [R]
  kvBProj: Linear; // [H*(N+V), R], by head: N key rows, then V value rows
  oProj: Linear; // [D, H*V]
}

/** The inner norms use this epsilon whatever rms_norm_eps says (as in the reference implementations). */
const INNER_EPS = 1e-6;

/** Where the tokens of a forward pass stand, and what they see. */
export interface Place {
  positions: tf.Tensor; // int32 [B, T]
  /** Where a row holds several sequences: the first token of the row that each token may see. int32 [B, T] */
  starts?: tf.Tensor;
  /** Takes the tokens' keys. A single token per row attends to all that its row then has there. */
  cache?: LayerCache;
}

/** x, residual: [B, T, D] -> residual + attention(x): [B, T, D] */
export function attention(
  p: Attention,
  x: tf.Tensor,
  residual: tf.Tensor,
  rope: RopeTable,
  { positions, starts, cache }: Place,
  config: DeepSeekConfig,
): tf.Tensor {
  const { qkNopeHeadDim: N, qkRopeHeadDim: P, vHeadDim: V } = config;
  const [B, T] = x.shape as [number, number];
  const H = p.oProj.weight.shape[1]! / V; // From the weights: a pruned layer has fewer heads.
  const scale = softmaxScale(config);

  const { query, compressed } = projections(p, x);
  const q = query.reshape([B, T, H, N + P]);
  if (cache) storeLatents(compressed, p.kvALayernorm.weight, INNER_EPS, positions, rope, latentsOf(cache).latents);
  if (cache && T === 1) {
    const { latents, kvB } = latentsOf(cache);
    const heads = latentDecode(q, latents, kvB, positions, rope, scale); // [B, 1, H, V]
    return linear(p.oProj, heads.reshape([B, T, H * V]), residual);
  }
  const [latent, rotary] = rmsNormOfPart(compressed, p.kvALayernorm.weight, INNER_EPS); // [B, T, R], [B, T, P]
  const kv = linear(p.kvBProj, latent).reshape([B, T, H, N + V]);
  const heads = latentAttention(q, kv, rotary, positions, rope, starts ?? null, scale); // [B, T, H, V]
  return linear(p.oProj, heads.reshape([B, T, H * V]), residual);
}

/** x: [B, T, D] -> query [B, T, H*(N+P)], compressed [B, T, R+P]: the latent before its norm, the key's rotary part. */
function projections(p: Attention, x: tf.Tensor): { query: tf.Tensor; compressed: tf.Tensor } {
  if ("qProj" in p.query) {
    const [query, compressed] = linears([p.query.qProj, p.kvAProjWithMqa], x);
    return { query, compressed };
  }
  const { qAProj, qALayernorm, qBProj } = p.query;
  const [narrow, compressed] = linears([qAProj, p.kvAProjWithMqa], x);
  return { query: linear(qBProj, norm(qALayernorm, narrow, INNER_EPS)), compressed };
}

/** An empty cache of `slots` tokens for `rows` rows. */
export function latentCache(p: Attention, rows: number, slots: number, config: DeepSeekConfig): LatentCache {
  const { kvLoraRank: R, qkRopeHeadDim: P } = config;
  return { kind: "latent", latents: tf.zeros([rows, slots, R + P]), kvB: mergedWeight(p.kvBProj) };
}

function latentsOf(cache: LayerCache): LatentCache {
  if (cache.kind !== "latent") throw new Error("attention: the cache is one of keys and values, wanted one of latents");
  return cache;
}

/** (N+P)^-0.5, sharpened when YaRN stretches the context (DeepSeek multiplies by the gain squared). */
function softmaxScale({ qkNopeHeadDim: N, qkRopeHeadDim: P, ropeScaling: yarn }: DeepSeekConfig): number {
  const gain = yarn?.mscaleAllDim ? yarnGain(yarn.factor, yarn.mscaleAllDim) : 1;
  return (gain * gain) / Math.sqrt(N + P);
}
