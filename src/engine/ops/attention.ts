// Causal scaled dot-product attention (Vaswani et al., 2017, eq. 1) for grouped queries (GQA: fewer key than query heads).

// B batch, T tokens, H query heads, G key-value heads (query head h uses key head floor(h / (H/G))), K a query or key
// head's width, V a value head's width.

import { allocate } from "../launch.ts";
import { defineOp, hasKernel, runOps } from "../op.ts";
import * as tf from "../tf.ts";
import { at, cpu, make, run, workspace } from "../wasm/heap.ts";
import { launchForward, launchGradient } from "./attention/launches.ts";
import { sizesOf } from "./attention/shape.ts";

/**
 * q: [B, T, H, K], k: [B, T, G, K], v: [B, T, G, V] -> [B, T, H, V].
 *
 * The logits are q·k * scale; token t sees tokens 0..t, or starts[t]..t with `starts`, int32 [B, T], which must not fall
 * along a row: so a row holds several sequences (packing). Right padding needs no mask.
 */
export function causalAttention(
  q: tf.Tensor,
  k: tf.Tensor,
  v: tf.Tensor,
  starts: tf.Tensor | null,
  scale: number,
): tf.Tensor {
  const [B, T, G, K] = k.shape as [number, number, number, number];
  const right =
    q.shape[2]! % G === 0 &&
    q.shape[3]! === K &&
    tf.util.arraysEqual(v.shape.slice(0, 3), [B, T, G]) &&
    (!starts || tf.util.arraysEqual(starts.shape, [B, T]));
  if (!right) {
    const shapes = `q is [${q.shape}], k is [${k.shape}], v is [${v.shape}], starts [${starts?.shape ?? "none"}]`;
    throw new Error(`causalAttention: ${shapes}`);
  }
  if (!hasKernel("CausalAttention")) return causalAttentionReference(q, k, v, starts, scale);
  const [o, stats] = runOps("CausalAttention", starts ? { q, k, v, starts } : { q, k, v }, { scale });
  stats.dispose(); // The tape has a clone where it needs one.
  return o;
}

/** The definition in plain operations. */
export function causalAttentionReference(
  q: tf.Tensor,
  k: tf.Tensor,
  v: tf.Tensor,
  starts: tf.Tensor | null,
  scale: number,
): tf.Tensor {
  const [B, T, H] = q.shape as [number, number, number];
  const logits = tf.matMul(heads(q), repeatGroups(heads(k), H), false, true).mul(scale); // [B, H, T, T]
  const tokens = tf.range(0, T, 1, "int32");
  let seen = tokens.reshape([1, 1, 1, T]).lessEqual(tokens.reshape([1, 1, T, 1]));
  if (starts) seen = seen.logicalAnd(tokens.reshape([1, 1, 1, T]).greaterEqual(starts.reshape([B, 1, T, 1])));
  const probabilities = tf.softmax(logits.add(seen.cast("float32").sub(1).mul(1e9)));
  return tf
    .matMul(probabilities, repeatGroups(heads(v), H))
    .transpose([0, 2, 1, 3])
    .reshape([B, T, H, v.shape[3]!]);
}

/** [B, T, H, D] -> [B, H, T, D] */
export function heads(x: tf.Tensor): tf.Tensor4D {
  return x.transpose([0, 2, 1, 3]) as tf.Tensor4D;
}

/** [B, G, T, D] -> [B, H, T, D]: each key head as often as it has query heads, side by side. */
export function repeatGroups(x: tf.Tensor4D, H: number): tf.Tensor4D {
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

/** Outputs: o [B, T, H, V]; stats [B, H, T, 2], the logits' logsumexp and the first token seen, for the gradient. */
defineOp<Attributes>({
  name: "CausalAttention",
  saves: ["q", "k", "v"],
  savesOutputs: [true, true],
  wasm: ({ q, k, v, starts }, { scale }) => {
    const { B, T, H, G, K, P, V } = sizesOf({ q, k, v });
    const [o, stats] = [make([B, T, H, V]), make([B, H, T, 2])];
    const addresses = [at(q), at(k), at(v), 0, starts ? at(starts) : 0, at(o), at(stats)] as const;
    const work = workspace(cpu().causalAttentionBytes(T, K, P));
    run(() => cpu().causalAttention(...addresses, B, T, H, G, K, P, V, K, V, scale, work));
    return [o, stats];
  },
  webgpu: ({ q, k, v, starts }, { scale }) => {
    const { B, T, H, V } = sizesOf({ q, k, v });
    const [o, stats] = [allocate([B, T, H, V]), allocate([B, H, T, 2])];
    launchForward({ q, k, v }, starts, { o, stats }, scale);
    return [o, stats];
  },
  gradient: ([dy], [q, k, v, o, stats], { scale }) => {
    const [dq, dk, dv] = runOps("CausalAttentionGradient", { dy, q, k, v, o, stats }, { scale });
    return { q: () => dq, k: () => dk, v: () => dv };
  },
});

/** dy and what the forward saved -> [dq, dk, dv]. */
defineOp<Attributes>({
  name: "CausalAttentionGradient",
  wasm: ({ dy, q, k, v, o, stats }, { scale }) => {
    const { B, T, H, G, K, P, V } = sizesOf({ q, k, v });
    const outputs = [q, k, v].map(({ shape }) => make(shape));
    const [dq, dk, dv] = outputs.map(at);
    const addresses = [at(dy), at(q), at(k), at(v), 0, at(o), at(stats), dq, dk, dv, 0] as const;
    const work = workspace(cpu().causalAttentionGradientBytes(B, T, G, K, P));
    run(() => cpu().causalAttentionGradient(...addresses, B, T, H, G, K, P, V, K, V, scale, work));
    return outputs;
  },
  webgpu: ({ dy, q, k, v, o, stats }, { scale }) => {
    const [dq, dk, dv] = [q, k, v].map(({ shape }) => allocate(shape));
    launchGradient({ q, k, v }, { dy, o, stats }, { dq, dk, dv }, scale);
    return [dq, dk, dv];
  },
});
