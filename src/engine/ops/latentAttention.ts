// Causal attention of MLA (DeepSeek-V2, section 2.1): a head's key and value lie side by side, and all heads share a
// rotary part of the key.

// B batch, T tokens, H heads, N and P the plain and rotary parts of a query or key head, V the width of a value head.

import { allocate } from "../launch.ts";
import { defineOp, hasKernel, runOps } from "../op.ts";
import * as tf from "../tf.ts";
import { at, cpu, make, run, workspace } from "../wasm/heap.ts";
import { withScratch } from "../wgsl.ts";
import { causalAttentionReference } from "./attention.ts";
import { launchForward, launchGradient } from "./attention/launches.ts";
import { sizesOf } from "./attention/shape.ts";
import { launchRotation, type RopeTable, type RotaryLayout, rotateOnHeap, rotateReference } from "./rotate.ts";

/**
 * q: [B, T, H, N+P], kv: [B, T, H, N+V], rotary: [B, T, P], positions: int32 [B, T], table of width P/2 -> [B, T, H, V].
 *
 * The rotary parts of q and of the key come as projected and are rotated here. The logits are
 * (q[:N]·kv[:N] + rotate(q[N:])·rotate(rotary)) * scale. For `starts` see `causalAttention`.
 */
export function latentAttention(
  q: tf.Tensor,
  kv: tf.Tensor,
  rotary: tf.Tensor,
  positions: tf.Tensor,
  table: RopeTable,
  starts: tf.Tensor | null,
  scale: number,
): tf.Tensor {
  const [B, T, H, width] = q.shape as [number, number, number, number];
  const P = 2 * table.cos.shape[1]!;
  const right =
    tf.util.arraysEqual(kv.shape.slice(0, 3), [B, T, H]) &&
    tf.util.arraysEqual(rotary.shape, [B, T, P]) &&
    kv.shape[3]! > width - P &&
    [positions, ...(starts ? [starts] : [])].every(({ shape }) => tf.util.arraysEqual(shape, [B, T]));
  if (!right) {
    throw new Error(
      `latentAttention: q is [${q.shape}], kv is [${kv.shape}], rotary is [${rotary.shape}], positions are ` +
        `[${positions.shape}], starts [${starts?.shape ?? "none"}], the table rotates ${P} entries`,
    );
  }
  if (!hasKernel("LatentAttention")) return latentAttentionReference(q, kv, rotary, positions, table, starts, scale);
  const inputs = { q, kv, rotary, positions, cos: table.cos, sin: table.sin };
  const attributes = { scale, layout: table.layout };
  const [o, ...kept] = runOps("LatentAttention", starts ? { ...inputs, starts } : inputs, attributes);
  tf.dispose(kept); // The tape has clones where it needs them.
  return o;
}

/** The definition in plain operations. */
export function latentAttentionReference(
  q: tf.Tensor,
  kv: tf.Tensor,
  rotary: tf.Tensor,
  positions: tf.Tensor,
  table: RopeTable,
  starts: tf.Tensor | null,
  scale: number,
): tf.Tensor {
  const [B, T, H, width] = q.shape as [number, number, number, number];
  const P = rotary.shape[2]!;
  const N = width - P;
  const turned = rotateReference(q, positions, table);
  const shared = rotateReference(rotary.reshape([B, T, 1, P]), positions, table);
  const [k, v] = tf.split(kv, [N, kv.shape[3]! - N], -1) as [tf.Tensor, tf.Tensor];
  return causalAttentionReference(turned, tf.concat([k, shared.tile([1, 1, H, 1])], -1), v, starts, scale);
}

interface Attributes {
  scale: number;
  layout: RotaryLayout;
}

/** Outputs: o [B, T, H, V]; for the gradient stats (see CausalAttention), q and rotary rotated. */
defineOp<Attributes>({
  name: "LatentAttention",
  saves: ["kv", "positions", "cos", "sin"],
  savesOutputs: [true, true, true, true],
  wasm: ({ q, kv, rotary, positions, cos, sin, starts }, { scale, layout }) => {
    const { B, T, H, G, K, P, V } = sizesOf({ q, kv, rotary });
    const [turned, shared] = [make(q.shape), make(rotary.shape)];
    rotateOnHeap(q, turned, { positions, cos, sin }, layout, false);
    rotateOnHeap(rotary, shared, { positions, cos, sin }, layout, false);
    const [o, stats] = [make([B, T, H, V]), make([B, H, T, 2])];
    const [kvAt, startsAt] = [at(kv), starts ? at(starts) : 0];
    const addresses = [at(turned), kvAt, kvAt + 4 * K, at(shared), startsAt, at(o), at(stats)] as const;
    const work = workspace(cpu().causalAttentionBytes(T, K, P));
    run(() => cpu().causalAttention(...addresses, B, T, H, G, K, P, V, K + V, K + V, scale, work));
    return [o, stats, turned, shared];
  },
  webgpu: ({ q, kv, rotary, positions, cos, sin, starts }, { scale, layout }) => {
    const { B, T, H, V } = sizesOf({ q, kv, rotary });
    const [turned, shared] = [allocate(q.shape), allocate(rotary.shape)];
    launchRotation({ x: q, y: rotary, positions, cos, sin }, { turnedX: turned, turnedY: shared }, layout, false);
    const [o, stats] = [allocate([B, T, H, V]), allocate([B, H, T, 2])];
    launchForward({ q: turned, kv, rotary: shared }, starts, { o, stats }, scale);
    return [o, stats, turned, shared];
  },
  gradient: ([dy], [kv, positions, cos, sin, o, stats, turned, shared], attributes) => {
    const inputs = { dy, kv, positions, cos, sin, o, stats, turned, shared };
    const [dq, dkv, drotary] = runOps("LatentAttentionGradient", inputs, attributes);
    return { q: () => dq, kv: () => dkv, rotary: () => drotary };
  },
});

/** dy and what the forward saved -> [dq, dkv, drotary]. */
defineOp<Attributes>({
  name: "LatentAttentionGradient",
  wasm: ({ dy, kv, positions, cos, sin, o, stats, turned, shared }, { scale, layout }) => {
    const { B, T, H, G, K, P, V } = sizesOf({ q: turned, kv, rotary: shared });
    const outputs = [turned, kv, shared].map(({ shape }) => make(shape));
    const [dq, dkv, drotary] = outputs;
    const [kvAt, dkvAt] = [at(kv), at(dkv)];
    const inputs = [at(dy), at(turned), kvAt, kvAt + 4 * K, at(shared), at(o), at(stats)] as const;
    const addresses = [...inputs, at(dq), dkvAt, dkvAt + 4 * K, at(drotary)] as const;
    const work = workspace(cpu().causalAttentionGradientBytes(B, T, G, K, P));
    run(() => cpu().causalAttentionGradient(...addresses, B, T, H, G, K, P, V, K + V, K + V, scale, work));
    rotateOnHeap(dq, dq, { positions, cos, sin }, layout, true);
    rotateOnHeap(drotary, drotary, { positions, cos, sin }, layout, true);
    return outputs;
  },
  webgpu: ({ dy, kv, positions, cos, sin, o, stats, turned, shared }, { scale, layout }) => {
    const inputs = { q: turned, kv, rotary: shared };
    const { B, T, H, P } = sizesOf(inputs);
    const [dq, dkv, drotary] = [turned, kv, shared].map(({ shape }) => allocate(shape));
    withScratch(turned.shape, (dturned) =>
      withScratch([B, T, H, P], (shares) => {
        launchGradient(inputs, { dy, o, stats }, { dq: dturned, dkv, drotary: shares }, scale);
        const tensors = { x: dturned, y: shares, positions, cos, sin };
        launchRotation(tensors, { turnedX: dq, turnedY: drotary }, layout, true); // Back, and the shares added up.
      }),
    );
    return [dq, dkv, drotary];
  },
});
