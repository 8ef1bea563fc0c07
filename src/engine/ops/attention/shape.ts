// What attention's kernels are told about their tensors, whichever model they come from.

// B batch, T tokens, H query heads, G key-value heads (query head h uses key head floor(h / (H/G))), K a key head's own
// width, P the width of a rotary part of the key that all heads share (0: none), V a value head's width.

import type * as tf from "../../tf.ts";

/** What shapes a kernel's text. */
export interface HeadShape {
  K: number;
  P: number;
  V: number;
  /** Key and value of a head lie side by side in one tensor kv [B, T, G, K+V]; else in k [B, T, G, K], v [B, T, G, V]. */
  joined: boolean;
}

export interface AttentionSizes {
  B: number;
  T: number;
  H: number;
  G: number;
}

/** Queries [B, T, H, K+P], and keys and values: k and v, or kv with the rotary part `rotary` [B, T, P]. */
export type AttentionInputs =
  | { q: tf.TensorInfo; k: tf.TensorInfo; v: tf.TensorInfo }
  | { q: tf.TensorInfo; kv: tf.TensorInfo; rotary: tf.TensorInfo };

export function sizesOf(inputs: AttentionInputs): AttentionSizes & HeadShape {
  const [B, T, H, width] = inputs.q.shape;
  if ("k" in inputs) {
    const [G, K] = inputs.k.shape.slice(2);
    return { B, T, H, G, K, P: width - K, V: inputs.v.shape[3], joined: false };
  }
  const P = inputs.rotary.shape[2];
  const [G, both] = inputs.kv.shape.slice(2);
  return { B, T, H, G, K: width - P, P, V: both - (width - P), joined: true };
}
