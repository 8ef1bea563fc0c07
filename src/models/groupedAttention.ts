// Grouped-query attention (Ainslie et al., 2023) as Qwen2 has it: biases on q, k and v, rotary embedding by halves.

// B batch, T tokens, H query heads, G key-value heads, D head width, S slots of the cache.

import { causalAttention } from "../engine/ops/attention.ts";
import { decodeAttention, storeKeys } from "../engine/ops/decodeAttention.ts";
import { type RopeTable, rotate } from "../engine/ops/rotate.ts";
import * as tf from "../engine/tf.ts";
import type { Qwen2Config } from "../formats/hfConfig.ts";
import type { Place } from "./attention.ts";
import type { GroupedCache, LayerCache } from "./kvCache.ts";
import { type Linear, linear, linears } from "./layers.ts";

/** Field names are the checkpoint's, in camel case. */
export interface GroupedAttention {
  kind: "grouped";
  qProj: Linear; // [H*D, hidden]
  kProj: Linear; // [G*D, hidden]
  vProj: Linear; // [G*D, hidden]
  oProj: Linear; // [hidden, H*D]
}

/** x, residual: [B, T, hidden] -> residual + attention(x): [B, T, hidden] */
export function groupedAttention(
  p: GroupedAttention,
  x: tf.Tensor,
  residual: tf.Tensor,
  rope: RopeTable,
  { positions, starts, cache }: Place,
  { headDim: D }: Qwen2Config,
): tf.Tensor {
  const [B, T] = x.shape as [number, number];
  const scale = 1 / Math.sqrt(D);
  // The numbers of heads come from the weights: they may be pruned.
  const [q, k, v] = linears([p.qProj, p.kProj, p.vProj], x).map((y) => y.reshape([B, T, y.shape[2]! / D, D]));
  if (cache) storeKeys(k, v, positions, rope, keysOf(cache));
  const heads =
    cache && T === 1
      ? decodeAttention(q, keysOf(cache), positions, rope, scale)
      : causalAttention(...rotate(q, k, positions, rope), v, starts ?? null, scale); // [B, T, H, D]
  return linear(p.oProj, heads.reshape([B, T, -1]), residual);
}

/** An empty cache of `slots` tokens for `rows` rows. */
export function groupedCache(
  p: GroupedAttention,
  rows: number,
  slots: number,
  { headDim: D }: Qwen2Config,
): GroupedCache {
  const G = p.kProj.weight.shape[0]! / D;
  return { kind: "grouped", keys: tf.zeros([rows, slots, G, D]), values: tf.zeros([rows, slots, G, D]) };
}

function keysOf(cache: LayerCache): GroupedCache {
  if (cache.kind !== "grouped")
    throw new Error("attention: the cache is one of latents, wanted one of keys and values");
  return cache;
}
