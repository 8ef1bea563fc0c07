// One new token per row against the cached latents of that row (MLA), and what puts them there.

// B rows, T tokens, S slots of the cache, H heads, R latent width, N and P the plain and rotary parts of a query or key
// head, V a value head.

import { allocate, groupsFor, launch } from "../launch.ts";
import { defineOp, hasKernel, runOp } from "../op.ts";
import * as tf from "../tf.ts";
import { at, cpu, make, run, workspace } from "../wasm/heap.ts";
import { sumOverLanes } from "../wgsl.ts";
import { attendText, DECODE_THREADS } from "./attention/decode.ts";
import { checkPositions, softmaxOverSeen, storeReference } from "./decodeAttention.ts";
import { lanesFor, rmsNormOfPartReference } from "./rmsNorm.ts";
import { type RopeTable, type RotaryLayout, rotateReference, turnText } from "./rotate.ts";

/**
 * In place: the token at position p of row b goes to slot p of that row, its first R entries normed, its last P rotated.
 *
 * compressed: [B, T, R+P], weight: [R], positions: int32 [B, T], cache: [B, S, R+P]. No gradient.
 */
export function storeLatents(
  compressed: tf.Tensor,
  weight: tf.Tensor,
  eps: number,
  positions: tf.Tensor,
  table: RopeTable,
  cache: tf.Tensor,
): void {
  const [B, T, width] = compressed.shape as [number, number, number];
  const right = weight.size + 2 * table.cos.shape[1]! === width && cache.shape[0] === B && cache.shape[2] === width;
  if (!right || !tf.util.arraysEqual(positions.shape, [B, T])) {
    const shapes = `compressed is [${compressed.shape}], positions are [${positions.shape}], the cache is [${cache.shape}]`;
    throw new Error(`storeLatents: ${shapes}`);
  }
  const { cos, sin, layout } = table;
  if (hasKernel("StoreLatents")) {
    runOp("StoreLatents", { compressed, weight, positions, cos, sin, cache }, { layout, eps }).dispose();
    return;
  }
  tf.tidy(() => {
    const [latent, rotary] = rmsNormOfPartReference(compressed, weight, eps);
    const turned = rotateReference(rotary.expandDims(2), positions, table).reshape(rotary.shape);
    storeReference(cache, tf.concat([latent, turned], -1), positions);
  });
}

/**
 * The absorbed form (DeepSeek-V2, section 2.1.2): a query is taken into the latent's space, where the cache is, and what
 * it collects back out.
 *
 * q: [B, 1, H, N+P], cache: [B, S, R+P], weight: kv_b_proj's [H*(N+V), R], positions: int32 [B, 1] -> [B, 1, H, V].
 * Row b sees slots 0..positions[b]. No gradient.
 */
export function latentDecode(
  q: tf.Tensor,
  cache: tf.Tensor,
  weight: tf.Tensor,
  positions: tf.Tensor,
  table: RopeTable,
  scale: number,
): tf.Tensor {
  const [B, one, H, width] = q.shape as [number, number, number, number];
  const [out, R] = weight.shape as [number, number];
  const P = 2 * table.cos.shape[1]!;
  const right = one === 1 && cache.shape[0] === B && cache.shape[2] === R + P && out % H === 0 && out / H > width - P;
  if (!right || !tf.util.arraysEqual(positions.shape, [B, 1])) {
    throw new Error(
      `latentDecode: q is [${q.shape}], the cache is [${cache.shape}], weight is [${weight.shape}], positions are ` +
        `[${positions.shape}], the table rotates ${P} entries`,
    );
  }
  const { cos, sin, layout } = table;
  if (!hasKernel("LatentDecode")) return latentDecodeReference(q, cache, weight, positions, table, scale);
  return runOp("LatentDecode", { q, cache, weight, positions, cos, sin }, { layout, scale });
}

/** The definition in plain operations. */
export function latentDecodeReference(
  q: tf.Tensor,
  cache: tf.Tensor,
  weight: tf.Tensor,
  positions: tf.Tensor,
  table: RopeTable,
  scale: number,
): tf.Tensor {
  const [B, , H, width] = q.shape as [number, number, number, number];
  const [out, R] = weight.shape as [number, number];
  const [S, P] = [cache.shape[1]!, 2 * table.cos.shape[1]!];
  const [N, V] = [width - P, out / H - (width - P)];
  const [keyUp, valueUp] = tf.split(weight.reshape([H, N + V, R]), [N, V], 1) as [tf.Tensor, tf.Tensor];
  const turned = rotateReference(q, positions, table).reshape([B, H, width]);
  const [plain, rotary] = tf.split(turned, [N, P], -1) as [tf.Tensor, tf.Tensor];
  const inLatent = tf.matMul(plain.transpose([1, 0, 2]), keyUp).transpose([1, 0, 2]); // [B, H, R]
  const query = tf.concat([inLatent, rotary], -1) as tf.Tensor3D; // [B, H, R+P]
  const logits = tf.matMul(query, cache as tf.Tensor3D, false, true).mul(scale); // [B, H, S]
  const weights = softmaxOverSeen(logits.reshape([B, H, 1, S]), positions).reshape([B, H, S]);
  const collected = tf.matMul(weights, cache.slice([0, 0, 0], [B, S, R])); // [B, H, R]
  return tf
    .matMul(collected.transpose([1, 0, 2]), valueUp, false, true) // [H, B, V]
    .transpose([1, 0, 2])
    .reshape([B, 1, H, V]);
}

interface Attributes {
  layout: RotaryLayout;
}

/** The kernel's own output is one unused element: TensorFlow.js wants one. */
defineOp<Attributes & { eps: number }>({
  name: "StoreLatents",
  wasm: ({ compressed, weight, positions, cos, sin, cache }, { layout, eps }) => {
    const [B, T] = compressed.shape;
    const S = cache.shape[1];
    const [known, half] = [Math.min(S, cos.shape[0]), cos.shape[1]];
    const R = compressed.shape[2] - 2 * half;
    const positionsAt = at(positions);
    const addresses = [at(compressed), at(weight), positionsAt, at(cos), at(sin), at(cache)] as const;
    run(() => {
      checkPositions(positions, positionsAt, B * T, known);
      cpu().storeLatents(...addresses, B, T, S, R, half, eps, layout === "interleaved");
    });
    return make([1]);
  },
  webgpu: ({ compressed, weight, positions, cos, sin, cache }, { layout, eps }) => {
    const [B, T, width] = compressed.shape;
    const [known, half] = cos.shape;
    const lanes = lanesFor(width);
    launch({
      name: "storeLatents",
      source: store(lanes, layout),
      reads: { compressed, weight, positions, cos, sin },
      writes: { cache },
      sizes: { rows: B * T, T, S: cache.shape[1], R: width - 2 * half, width, half, known },
      numbers: { eps, direction: 1, none: Number.NaN },
      workgroups: groupsFor(B * T * lanes),
    });
    return allocate([1]);
  },
});

/** A position without a slot is left out. */
const store = (lanes: number, layout: RotaryLayout): string => /* wgsl */ `
  ${turnText(layout)}
  ${sumOverLanes(lanes)}
  fn main(group: u32, thread: u32) {
    let row = (group * THREADS + thread) / ${lanes}u;
    let lane = thread % ${lanes}u;
    let token = min(row, u.rows - 1u);
    let start = token * u.width;
    var square = 0.0;
    for (var i = lane; i < u.R; i += ${lanes}u) { square += compressed[start + i] * compressed[start + i]; }
    let scale = inverseSqrt(sumOverLanes(square, lane) / f32(u.R) + u.eps);
    let position = positions[token];
    if (row >= u.rows || position < 0 || position >= i32(u.S)) { return; }
    let slot = (token / u.T * u.S + u32(position)) * u.width;
    for (var i = lane; i < u.R; i += ${lanes}u) { cache[slot + i] = compressed[start + i] * scale * weight[i]; }
    for (var i = u.R + lane; i < u.width; i += ${lanes}u) {
      let turn = turnOf(start + i, u.width, token);
      cache[slot + i] = turn.keep * compressed[start + i] + turn.take * compressed[turn.partner];
    }
  }
`;

defineOp<Attributes & { scale: number }>({
  name: "LatentDecode",
  wasm: ({ q, cache, weight, positions, cos, sin }, { layout, scale }) => {
    const { B, S, H, N, V, R, half } = sizesOf(q, cache, weight, cos);
    const o = make([B, 1, H, V]);
    const positionsAt = at(positions);
    const addresses = [at(q), at(cache), at(weight), positionsAt, at(cos), at(sin), at(o)] as const;
    const work = workspace(cpu().latentDecodeBytes(S, cache.shape[2]));
    const known = Math.min(S, cos.shape[0]);
    run(() => {
      checkPositions(positions, positionsAt, B, known);
      cpu().latentDecode(...addresses, B, S, H, N, V, R, half, layout === "interleaved", scale, work);
    });
    return o;
  },
  webgpu: ({ q, cache, weight, positions, cos, sin }, { layout, scale }) => {
    const { B, S, H, N, V, R, half } = sizesOf(q, cache, weight, cos);
    const o = allocate([B, 1, H, V]);
    launch({
      name: "latentDecode",
      source: decode({ N, P: 2 * half, V, R }, layout),
      reads: { q, cache, weight, positions, cos, sin },
      writes: { o },
      sizes: { B, S, H, half, known: cos.shape[0] },
      numbers: { scale, direction: 1, none: Number.NaN },
      workgroups: B * H,
      threads: DECODE_THREADS,
    });
    return o;
  },
});

function sizesOf(q: tf.TensorInfo, cache: tf.TensorInfo, weight: tf.TensorInfo, cos: tf.TensorInfo) {
  const [B, , H, width] = q.shape;
  const [out, R] = weight.shape;
  const half = cos.shape[1];
  const N = width - 2 * half;
  return { B, S: cache.shape[1], H, N, V: out / H - N, R, half };
}

// One workgroup per row and head.
const decode = ({ N, P, V, R }: Record<"N" | "P" | "V" | "R", number>, layout: RotaryLayout): string => /* wgsl */ `
  ${turnText(layout)}
  ${attendText({
    width: R + P,
    valueWidth: R,
    key: (slot, d) => `cache[(b * u.S + ${slot}) * ${R + P}u + ${d}]`,
    value: (slot, d) => `cache[(b * u.S + ${slot}) * ${R + P}u + ${d}]`,
  })}
  fn main(group: u32, thread: u32) {
    let head = min(group, u.B * u.H - 1u); // Spare workgroups do the last head again and store nothing.
    let b = head / u.H;
    let own = head * ${N + P}u;
    let rows = head % u.H * ${N + V}u;
    for (var r = thread; r < ${R}u; r += THREADS) {
      var sum = 0.0;
      for (var n = 0u; n < ${N}u; n++) { sum += q[own + n] * weight[(rows + n) * ${R}u + r]; }
      query[r] = sum;
    }
    for (var d = thread; d < ${P}u; d += THREADS) {
      let i = own + ${N}u + d;
      let turn = turnOf(i, ${N + P}u, b);
      query[${R}u + d] = turn.keep * q[i] + turn.take * q[turn.partner];
    }
    attend(b, head, thread);
    if (group != head) { return; }
    for (var d = thread; d < ${V}u; d += THREADS) {
      var sum = 0.0;
      for (var r = 0u; r < ${R}u; r++) { sum += collected[r] * weight[(rows + ${N}u + d) * ${R}u + r]; }
      o[head * ${V}u + d] = sum;
    }
  }
`;
