// What decoding remembers of earlier tokens, per layer: MLA's latent and rotary key, or GQA's keys and values.

import * as tf from "../engine/tf.ts";

// B rows, S slots: the token at position p of a row lies in slot p.

/** MLA: buffers written in place. */
export interface LatentCache {
  kind: "latent";
  latents: tf.Tensor; // [B, S, R+P], latent then rotary key
  /** kv_b_proj with its adapter merged, for the absorbed form. */
  kvB: tf.Tensor; // [H*(N+V), R]
}

/** GQA: buffers written in place. */
export interface GroupedCache {
  kind: "grouped";
  keys: tf.Tensor; // [B, S, G, D], rotated
  values: tf.Tensor; // [B, S, G, D]
}

export type LayerCache = LatentCache | GroupedCache;

export interface KvCache {
  layers: LayerCache[];
  rows: number;
  slots: number;
}

/** A cache that holds only these rows. The old one is disposed of. */
export function keepCacheRows(cache: KvCache, rows: number[]): KvCache {
  const indices = tf.tensor1d(rows, "int32");
  const layers = cache.layers.map(
    (layer): LayerCache =>
      layer.kind === "latent"
        ? { ...layer, latents: tf.gather(layer.latents, indices), kvB: layer.kvB.clone() }
        : { ...layer, keys: tf.gather(layer.keys, indices), values: tf.gather(layer.values, indices) },
  );
  indices.dispose();
  disposeCache(cache);
  return { layers, rows: rows.length, slots: cache.slots };
}

export function disposeCache(cache: KvCache): void {
  for (const layer of cache.layers) {
    tf.dispose(layer.kind === "latent" ? [layer.latents, layer.kvB] : [layer.keys, layer.values]);
  }
}
