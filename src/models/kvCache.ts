// What decoding remembers of earlier tokens, per layer: MLA's latent and rotary key, or GQA's keys and values.

import { storeRows } from "../engine/ops/storeRows.ts";
import * as tf from "../engine/tf.ts";

// B rows, S slots.

/** One layer's buffers, written in place. */
export interface LayerCache {
  /** MLA: [B, S, 1, R+P], latent then rotary key. GQA: keys [B, S, G, D]. */
  keys: tf.Tensor;
  /** GQA: values [B, S, G, D]. MLA: none, the latent is key and value. */
  values: tf.Tensor | null;
  /** MLA: kv_b_proj with its adapter merged, split by head: [H, N, R] and [H, R, V]. */
  absorbed: { keyUp: tf.Tensor; valueUp: tf.Tensor } | null;
}

export interface KvCache {
  layers: LayerCache[];
  rows: number;
  slots: number;
}

/** Write the entries of tokens t = 0..T-1 of every row into slots 0..T-1 (prompt), or one token into slot `lengths[b]`. */
export function storeTokens(buffer: tf.Tensor, entries: tf.Tensor, slots: tf.Tensor): void {
  const width = buffer.shape[2]! * buffer.shape[3]!;
  storeRows(buffer, entries.reshape([-1, width]), slots);
}

/** Flat slot numbers for storeTokens: row b's token t goes to b * S + positions[b, t]. */
export function slotsOf(positions: tf.Tensor, slots: number): tf.Tensor {
  const rows = tf.range(0, positions.shape[0], 1, "int32").mul(tf.scalar(slots, "int32")).expandDims(1);
  return positions.add(rows).reshape([-1]).cast("int32");
}

/** A cache that holds only these rows. The old one is disposed of. */
export function keepCacheRows(cache: KvCache, rows: number[]): KvCache {
  const indices = tf.tensor1d(rows, "int32");
  const layers = cache.layers.map((layer) => ({
    keys: tf.gather(layer.keys, indices),
    values: layer.values && tf.gather(layer.values, indices),
    absorbed: layer.absorbed && { keyUp: layer.absorbed.keyUp.clone(), valueUp: layer.absorbed.valueUp.clone() },
  }));
  indices.dispose();
  disposeCache(cache);
  return { layers, rows: rows.length, slots: cache.slots };
}

export function disposeCache(cache: KvCache): void {
  for (const layer of cache.layers) {
    tf.dispose([layer.keys, layer.values, layer.absorbed?.keyUp, layer.absorbed?.valueUp].filter((x) => x != null));
  }
}
