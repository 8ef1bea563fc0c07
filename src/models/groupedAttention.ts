// Grouped-query attention (Ainslie et al., 2023) as Qwen2 has it: biases on q, k and v, rotary embedding by halves.

// B batch, T tokens, H query heads, G key-value heads, D head width, S slots of the cache.

import { causalAttention, decodeAttention } from "../engine/ops/attention.ts";
import { type RopeTable, rotate } from "../engine/ops/rotate.ts";
import * as tf from "../engine/tf.ts";
import type { Qwen2Config } from "../formats/hfConfig.ts";
import type { Place } from "./attention.ts";
import { type LayerCache, storeTokens } from "./kvCache.ts";
import { type Linear, linear } from "./layers.ts";

/** Field names are the checkpoint's, in camel case. */
export interface GroupedAttention {
  kind: "grouped";
  qProj: Linear; // [H*D, hidden]
  kProj: Linear; // [G*D, hidden]
  vProj: Linear; // [G*D, hidden]
  oProj: Linear; // [hidden, H*D]
}

/** x: [B, T, hidden] -> [B, T, hidden] */
export function groupedAttention(
  p: GroupedAttention,
  x: tf.Tensor,
  rope: RopeTable,
  place: Place,
  config: Qwen2Config,
): tf.Tensor {
  const { headDim: D } = config;
  const [B, T] = x.shape as [number, number];
  const [H, G] = [p.oProj.weight.shape[1]! / D, p.kProj.weight.shape[0] / D]; // From the weights: they may be pruned.
  const scale = 1 / Math.sqrt(D);
  const q = rotate(linear(p.qProj, x).reshape([B, T, H, D]), place.positions, rope);
  const k = rotate(linear(p.kProj, x).reshape([B, T, G, D]), place.positions, rope);
  const v = linear(p.vProj, x).reshape([B, T, G, D]);
  if (place.cached) {
    const { cache, slots, lengths } = place.cached;
    const { keys, values } = cache;
    storeTokens(keys, k, slots);
    storeTokens(values!, v, slots);
    if (lengths) {
      const collected = decodeAttention(q.reshape([B, H, D]), keys, values, D, lengths, scale); // [B, H, D]
      return linear(p.oProj, collected.reshape([B, T, H * D]));
    }
  }
  return linear(p.oProj, causalAttention(q, k, v, null, scale).reshape([B, T, H * D]));
}

/** An empty cache of `slots` tokens for `rows` rows. */
export function groupedCache(
  p: GroupedAttention,
  rows: number,
  slots: number,
  { headDim: D }: Qwen2Config,
): LayerCache {
  const G = p.kProj.weight.shape[0] / D;
  return { keys: tf.zeros([rows, slots, G, D]), values: tf.zeros([rows, slots, G, D]), absorbed: null };
}
