// Multi-head latent attention (DeepSeek-V2, section 2.1; the same in V3): keys and values pass through a narrow latent,
// and a rotary part of the key is shared by all heads.

// B batch, T tokens, D hidden size, H heads, R latent width (kv_lora_rank), N and P the plain and rotary parts of a query
// or key head, V the width of a value head, S slots of the cache.

import { causalAttention, decodeAttention } from "../engine/ops/attention.ts";
import { type RopeTable, rotate } from "../engine/ops/rotate.ts";
import * as tf from "../engine/tf.ts";
import type { DeepSeekConfig } from "../formats/hfConfig.ts";
import { type LayerCache, storeTokens } from "./kvCache.ts";
import { type Linear, linear, mergedWeight, type Norm, norm, yarnGain } from "./layers.ts";

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

/** Where the tokens of a forward pass stand, and the cache that takes their keys. */
export interface Place {
  positions: tf.Tensor; // int32 [B, T]
  cached?: {
    cache: LayerCache;
    /** Where in the cache, rows and slots folded, each token's entry goes. */
    slots: tf.Tensor; // int32 [B*T]
    /** With one new token per row: how many entries a row then has, for it to attend to. Null: a prompt, T tokens. */
    lengths: tf.Tensor | null; // int32 [B]
  };
}

/** x: [B, T, D] -> [B, T, D] */
export function attention(
  p: Attention,
  x: tf.Tensor,
  rope: RopeTable,
  place: Place,
  config: DeepSeekConfig,
): tf.Tensor {
  const { kvLoraRank: R, qkNopeHeadDim: N, qkRopeHeadDim: P, vHeadDim: V } = config;
  const [B, T] = x.shape as [number, number];
  const H = p.oProj.weight.shape[1]! / V; // From the weights: a pruned layer has fewer heads.

  const q = rotate(queries(p, x).reshape([B, T, H, N + P]), place.positions, rope);
  const [compressed, rotary] = tf.split(linear(p.kvAProjWithMqa, x), [R, P], -1) as [tf.Tensor, tf.Tensor];
  const latent = norm(p.kvALayernorm, compressed, INNER_EPS); // [B, T, R]
  const shared = rotate(rotary.reshape([B, T, 1, P]), place.positions, rope).reshape([B, T, P]);
  if (place.cached) {
    const { cache, slots, lengths } = place.cached;
    storeTokens(cache.keys, tf.concat([latent, shared], -1), slots);
    if (lengths) return linear(p.oProj, decode(q, cache, lengths, config)).reshape(x.shape);
  }
  const [k, v] = tf.split(linear(p.kvBProj, latent).reshape([B, T, H, N + V]), [N, V], -1) as [tf.Tensor, tf.Tensor];
  const heads = causalAttention(q, k, v, shared, softmaxScale(config)); // [B, T, H, V]
  return linear(p.oProj, heads.reshape([B, T, H * V]));
}

function queries(p: Attention, x: tf.Tensor): tf.Tensor {
  if ("qProj" in p.query) return linear(p.query.qProj, x);
  const { qAProj, qALayernorm, qBProj } = p.query;
  return linear(qBProj, norm(qALayernorm, linear(qAProj, x), INNER_EPS));
}

/**
 * The absorbed form: queries are taken into the latent's space, where the cache is, and what they collect back out.
 *
 * q: [B, 1, H, N+P] -> [B, H*V]
 */
function decode(q: tf.Tensor, cache: LayerCache, lengths: tf.Tensor, config: DeepSeekConfig): tf.Tensor {
  const { kvLoraRank: R, qkNopeHeadDim: N, qkRopeHeadDim: P, vHeadDim: V } = config;
  const [B, , H] = q.shape as [number, number, number];
  const { keyUp, valueUp } = cache.absorbed!;
  const [plain, rotary] = tf.split(q.reshape([B, H, N + P]), [N, P], -1) as [tf.Tensor, tf.Tensor];
  const inLatent = tf.matMul(plain.transpose([1, 0, 2]), keyUp).transpose([1, 0, 2]); // [B, H, R]
  const query = tf.concat([inLatent, rotary], -1); // [B, H, R+P]
  const collected = decodeAttention(query, cache.keys, null, R, lengths, softmaxScale(config)); // [B, H, R]
  return tf
    .matMul(collected.transpose([1, 0, 2]), valueUp)
    .transpose([1, 0, 2])
    .reshape([B, H * V]);
}

/** An empty cache of `slots` tokens for `rows` rows, with kv_b_proj taken apart for the absorbed form. */
export function latentCache(p: Attention, rows: number, slots: number, config: DeepSeekConfig): LayerCache {
  const { kvLoraRank: R, qkNopeHeadDim: N, qkRopeHeadDim: P, vHeadDim: V } = config;
  const H = p.oProj.weight.shape[1]! / V;
  const [keyUp, valueUp] = tf.tidy(() => {
    const perHead = mergedWeight(p.kvBProj).reshape([H, N + V, R]);
    const [key, value] = tf.split(perHead, [N, V], 1) as [tf.Tensor, tf.Tensor];
    return [key, value.transpose([0, 2, 1])] as [tf.Tensor, tf.Tensor];
  });
  return { keys: tf.zeros([rows, slots, 1, R + P]), values: null, absorbed: { keyUp, valueUp } };
}

/** (N+P)^-0.5, sharpened when YaRN stretches the context (DeepSeek multiplies by the gain squared). */
function softmaxScale({ qkNopeHeadDim: N, qkRopeHeadDim: P, ropeScaling: yarn }: DeepSeekConfig): number {
  const gain = yarn?.mscaleAllDim ? yarnGain(yarn.factor, yarn.mscaleAllDim) : 1;
  return (gain * gain) / Math.sqrt(N + P);
}
