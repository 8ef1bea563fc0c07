// Causal scaled dot-product attention (Vaswani et al., 2017, eq. 1), for grouped queries (GQA: fewer key than query
// heads) and for MLA (a rotary part of the key that all heads share; value heads of another width).

// B batch, T tokens, H query heads, G key-value heads (query head h uses key head floor(h / (H/G))),
// K a key head's own width, P the width of the shared part of a key, V a value head's width.

import { defineOp, hasKernel, runOp, runOps, type OpDefinition } from "../op.ts";
import * as tf from "../tf.ts";
import { at, cpu, make, workspace } from "../wasm/heap.ts";

/**
 * q: [B, T, H, K+P], k: [B, T, G, K], v: [B, T, G, V], shared: [B, T, P] or null (then P is 0) -> [B, T, H, V].
 *
 * The logits are (q[:K]·k + q[K:]·shared) * scale; token t sees tokens 0..t. Right padding needs no mask.
 */
export function causalAttention(
  q: tf.Tensor,
  k: tf.Tensor,
  v: tf.Tensor,
  shared: tf.Tensor | null,
  scale: number,
): tf.Tensor {
  check("causalAttention", q, k, v, shared);
  if (!hasKernel("CausalAttention")) return causalAttentionReference(q, k, v, shared, scale);
  const [o, logsumexp] = shared
    ? runOps("CausalAttentionShared", { q, k, v, shared }, { scale })
    : runOps("CausalAttention", { q, k, v }, { scale });
  logsumexp.dispose(); // The tape has a clone where it needs one.
  return o;
}

function check(name: string, q: tf.Tensor, k: tf.Tensor, v: tf.Tensor, shared: tf.Tensor | null): void {
  const P = shared ? shared.shape[2]! : 0;
  const right =
    q.shape[2]! % k.shape[2]! === 0 &&
    q.shape[3]! === k.shape[3]! + P &&
    k.shape[1]! === v.shape[1]! &&
    k.shape[2]! === v.shape[2]!;
  if (!right) {
    throw new Error(
      `${name}: q is [${q.shape}], k is [${k.shape}], v is [${v.shape}], shared is [${shared?.shape ?? "none"}]`,
    );
  }
}

/** The definition in plain operations. */
export function causalAttentionReference(
  q: tf.Tensor,
  k: tf.Tensor,
  v: tf.Tensor,
  shared: tf.Tensor | null,
  scale: number,
): tf.Tensor {
  const [B, T, H] = q.shape as [number, number, number];
  const key = shared
    ? tf.concat([k, shared.expandDims(2).tile([1, 1, k.shape[2]!, 1])], -1) // [B, T, G, K+P]
    : k;
  const logits = tf.matMul(heads(q), repeatGroups(heads(key), H), false, true).mul(scale); // [B, H, T, T]
  const future = tf.linalg
    .bandPart(tf.ones([T, T]), -1, 0)
    .sub(1)
    .mul(1e9);
  const probabilities = tf.softmax(logits.add(future));
  return tf
    .matMul(probabilities, repeatGroups(heads(v), H))
    .transpose([0, 2, 1, 3])
    .reshape([B, T, H, v.shape[3]!]);
}

/** [B, T, H, D] -> [B, H, T, D] */
function heads(x: tf.Tensor): tf.Tensor4D {
  return x.transpose([0, 2, 1, 3]) as tf.Tensor4D;
}

/** [B, G, T, D] -> [B, H, T, D]: each key head as often as it has query heads, side by side. */
function repeatGroups(x: tf.Tensor4D, H: number): tf.Tensor4D {
  const [B, G, T, D] = x.shape;
  if (G === H) return x;
  return x
    .reshape([B, G, 1, T * D])
    .tile([1, 1, H / G, 1]) // Four axes: with five, TensorFlow.js has no gradient.
    .reshape([B, H, T, D]);
}

interface Attributes {
  scale: number;
}

/** B, T, H, G, K, P, V */
function sizesOf(q: tf.TensorInfo, k: tf.TensorInfo, v: tf.TensorInfo) {
  const [B, T, H, width] = q.shape;
  const [G, K] = k.shape.slice(2);
  return [B, T, H, G, K, width - K, v.shape[3]] as const;
}

/** Outputs: o [B, T, H, V], logsumexp of the logits [B, H, T] (kept for the gradient). */
const causalAttentionOp: Omit<OpDefinition<Attributes>, "name" | "saves"> = {
  savesOutputs: [true, true],
  wasm: ({ q, k, v, shared }, { scale }) => {
    const sizes = sizesOf(q, k, v);
    const [B, T, H, , K, P, V] = sizes;
    const [o, logsumexp] = [make([B, T, H, V]), make([B, H, T])];
    const inputs = [at(q), at(k), at(v), shared ? at(shared) : 0] as const;
    const work = workspace(cpu().causalAttentionBytes(T, K, P));
    cpu().causalAttention(...inputs, at(o), at(logsumexp), ...sizes, scale, work);
    return [o, logsumexp];
  },
  gradient: ([dy], saved, { scale }) => {
    const [q, k, v] = saved;
    const [o, logsumexp] = saved.slice(-2);
    const inputs: tf.NamedTensorMap = { dy, q, k, v, o, logsumexp };
    if (saved.length === 6) inputs.shared = saved[3];
    const [dq, dk, dv, dshared] = runOps("CausalAttentionGradient", inputs, { scale });
    return { q: () => dq, k: () => dk, v: () => dv, shared: () => dshared };
  },
};

// Two names, because TensorFlow.js cannot save an input that is not there.
defineOp({ name: "CausalAttention", saves: ["q", "k", "v"], ...causalAttentionOp });
defineOp({ name: "CausalAttentionShared", saves: ["q", "k", "v", "shared"], ...causalAttentionOp });

/** dy and what the forward saved, with or without `shared` -> [dq, dk, dv], and dshared where there is a shared part. */
defineOp<Attributes>({
  name: "CausalAttentionGradient",
  wasm: ({ dy, q, k, v, shared, o, logsumexp }, { scale }) => {
    const sizes = sizesOf(q, k, v);
    const [, T, , , K, P] = sizes;
    const outputs = [q, k, v, ...(shared ? [shared] : [])].map(({ shape }) => make(shape));
    const [dq, dk, dv, dshared = 0] = outputs.map(at);
    const inputs = [at(dy), at(q), at(k), at(v), shared ? at(shared) : 0, at(o), at(logsumexp)] as const;
    const work = workspace(cpu().causalAttentionGradientBytes(T, K, P));
    cpu().causalAttentionGradient(...inputs, dq, dk, dv, dshared, ...sizes, scale, work);
    return outputs;
  },
});

/**
 * One new token per row against what the cache holds of that row.
 *
 * q: [B, H, D], k: [B, S, G, D] (the cache, S slots), v: [B, S, G, V] or null, lengths: int32 [B] -> [B, H, V].
 * Row b sees slots 0..lengths[b]-1. With v null the value is the first `valueWidth` entries of the key (MLA's
 * absorbed form, DeepSeek-V2 section 2.1.2: one cached latent is key and value). No gradient.
 */
export function decodeAttention(
  q: tf.Tensor,
  k: tf.Tensor,
  v: tf.Tensor | null,
  valueWidth: number,
  lengths: tf.Tensor,
  scale: number,
): tf.Tensor {
  if (q.shape[2]! !== k.shape[3]! || (v && v.shape[3]! !== valueWidth) || valueWidth > (v ?? k).shape[3]!) {
    throw new Error(`decodeAttention: q is [${q.shape}], k is [${k.shape}], v is [${v?.shape ?? "none"}]`);
  }
  if (!hasKernel("DecodeAttention")) return decodeAttentionReference(q, k, v, valueWidth, lengths, scale);
  return runOp("DecodeAttention", v ? { q, k, v, lengths } : { q, k, lengths }, { valueWidth, scale });
}

/** The definition in plain operations. */
export function decodeAttentionReference(
  q: tf.Tensor,
  k: tf.Tensor,
  v: tf.Tensor | null,
  valueWidth: number,
  lengths: tf.Tensor,
  scale: number,
): tf.Tensor {
  const [B, H] = q.shape as [number, number];
  const S = k.shape[1]!;
  const value = v ?? k.slice([0, 0, 0, 0], [-1, -1, -1, valueWidth]);
  const logits = tf.matMul(q.expandDims(2) as tf.Tensor4D, repeatGroups(heads(k), H), false, true).mul(scale); // [B, H, 1, S]
  const seen = tf
    .range(0, S, 1, "int32")
    .reshape([1, 1, 1, S])
    .less(lengths.reshape([B, 1, 1, 1]));
  const probabilities = tf.softmax(tf.where(seen, logits, tf.fill(logits.shape, -1e9)));
  return tf.matMul(probabilities, repeatGroups(heads(value), H)).reshape([B, H, valueWidth]);
}

defineOp<{ valueWidth: number; scale: number }>({
  name: "DecodeAttention",
  wasm: ({ q, k, v, lengths }, { valueWidth, scale }) => {
    const [B, H, D] = q.shape;
    const [, S, G] = k.shape;
    const value = v ?? k;
    const o = make([B, H, valueWidth]);
    const addresses = [at(q), at(k), at(value), at(lengths), at(o)] as const;
    cpu().decodeAttention(...addresses, B, S, H, G, D, value.shape[3], valueWidth, scale, workspace(S * 4));
    return o;
  },
});
