// Attention's launches on WebGPU: which form of the kernels, and what each reads and writes.

import { softwareGpu } from "../../device.ts";
import { groupsFor, launch } from "../../launch.ts";
import type * as tf from "../../tf.ts";
import { withScratch } from "../../wgsl.ts";
import * as byThread from "./byThread.ts";
import * as byTile from "./byTile.ts";
import { type AttentionInputs, type HeadShape, sizesOf } from "./shape.ts";

/** Which form runs: by tile (true), by thread (false), or as the adapter asks (null). Tests run both. */
export const attentionForm = { byTile: null as boolean | null };

const WIDEST_BY_THREAD = 64; // Two vectors of this width, and as many sums, still fit in a thread's registers.

function runsByTile({ K, P, V }: HeadShape): boolean {
  return attentionForm.byTile ?? (!softwareGpu() && Math.max(K + P, V) > WIDEST_BY_THREAD);
}

/** What a launch over all tokens of `heads` heads per row needs. */
function overTokens(inputs: AttentionInputs, heads: "H" | "G", scale: number) {
  const { B, T, H, G, ...shape } = sizesOf(inputs);
  const rows = B * { H, G }[heads];
  const grid = runsByTile(shape)
    ? { workgroups: rows * Math.ceil(T / byTile.TILE), threads: byTile.TILE_THREADS }
    : { workgroups: groupsFor(rows * T) };
  return { sizes: { B, T, H, G }, numbers: { scale }, ...grid };
}

/** Writes o [B, T, H, V] and stats [B, H, T, 2]: the logits' logsumexp and the first token seen. */
export function launchForward(
  inputs: AttentionInputs,
  starts: tf.TensorInfo | undefined,
  writes: { o: tf.TensorInfo; stats: tf.TensorInfo },
  scale: number,
): void {
  const shape = sizesOf(inputs);
  const { forward } = runsByTile(shape) ? byTile : byThread;
  launch({
    name: "causalAttention",
    source: forward(shape, starts !== undefined),
    reads: starts ? { ...inputs, starts } : inputs,
    writes,
    ...overTokens(inputs, "H", scale),
  });
}

/** Writes dq, and dk and dv, or dkv and every head's share of the rotary part's gradient, drotary [B, T, G, P]. */
export function launchGradient(
  inputs: AttentionInputs,
  { dy, o, stats }: Record<"dy" | "o" | "stats", tf.TensorInfo>,
  { dq, ...keys }: Record<"dq" | "dk" | "dv", tf.TensorInfo> | Record<"dq" | "dkv" | "drotary", tf.TensorInfo>,
  scale: number,
): void {
  const shape = sizesOf(inputs);
  const { queryGradient, keyGradient } = runsByTile(shape) ? byTile : byThread;
  withScratch([shape.B, shape.H, shape.T], (delta) => {
    launch({
      name: "causalAttentionQueryGradient",
      source: queryGradient(shape),
      reads: { ...inputs, dy, o, stats },
      writes: { dq, delta },
      ...overTokens(inputs, "H", scale),
    });
    launch({
      name: "causalAttentionKeyGradient",
      source: keyGradient(shape),
      reads: { ...inputs, dy, stats, delta },
      writes: keys,
      ...overTokens(inputs, "G", scale),
    });
  });
}
