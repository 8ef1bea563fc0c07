// One new token per row against the cached keys and values of that row (GQA), and what puts them there.

// B rows, T tokens, S slots of the cache, H query heads, G key-value heads, D width of a head.

import { allocate, groupsFor, launch } from "../launch.ts";
import { defineOp, hasKernel, runOp } from "../op.ts";
import * as tf from "../tf.ts";
import { at, cpu, make, run, view, workspace } from "../wasm/heap.ts";
import { heads, repeatGroups } from "./attention.ts";
import { attendText, DECODE_THREADS } from "./attention/decode.ts";
import { type RopeTable, type RotaryLayout, rotateReference, turnText } from "./rotate.ts";

/** What a layer remembers: keys (rotated) and values, [B, S, G, D] each. Written in place. */
export interface KeyValueCache {
  keys: tf.Tensor;
  values: tf.Tensor;
}

/**
 * In place: the token at position p of row b goes to slot p of that row, its keys rotated.
 *
 * k, v: [B, T, G, D], positions: int32 [B, T]. No gradient.
 */
export function storeKeys(
  k: tf.Tensor,
  v: tf.Tensor,
  positions: tf.Tensor,
  table: RopeTable,
  { keys, values }: KeyValueCache,
): void {
  const whole = [k, v, keys, values].every(
    ({ shape }) => shape[0] === k.shape[0] && tf.util.arraysEqual(shape.slice(2), k.shape.slice(2)),
  );
  if (!whole || !tf.util.arraysEqual(positions.shape, k.shape.slice(0, 2))) {
    const cache = `the cache holds [${keys.shape}] and [${values.shape}]`;
    throw new Error(`storeKeys: k is [${k.shape}], v is [${v.shape}], positions are [${positions.shape}], ${cache}`);
  }
  const { cos, sin, layout } = table;
  if (hasKernel("StoreKeys")) {
    runOp("StoreKeys", { k, v, positions, cos, sin, keys, values }, { layout }).dispose();
    return;
  }
  tf.tidy(() => {
    storeReference(keys, rotateReference(k, positions, table), positions);
    storeReference(values, v, positions);
  });
}

/** In place, on the cpu backend: cache[b, positions[b, t]] = entries[b, t]. */
export function storeReference(cache: tf.Tensor, entries: tf.Tensor, positions: tf.Tensor): void {
  const [slots, T] = [cache.shape[1]!, positions.shape[1]!];
  const width = entries.size / positions.size;
  const to = cache.dataSync() as Float32Array; // The tensor's own memory.
  const from = entries.dataSync() as Float32Array;
  positions.dataSync().forEach((position, i) => {
    const slot = Math.floor(i / T) * slots + position;
    to.set(from.subarray(i * width, (i + 1) * width), slot * width);
  });
}

/**
 * q: [B, 1, H, D], positions: int32 [B, 1] -> [B, 1, H, D]. Row b sees slots 0..positions[b]. No gradient.
 */
export function decodeAttention(
  q: tf.Tensor,
  cache: KeyValueCache,
  positions: tf.Tensor,
  table: RopeTable,
  scale: number,
): tf.Tensor {
  const { keys, values } = cache;
  const [B, one, H, D] = q.shape as [number, number, number, number];
  const right = one === 1 && keys.shape[0] === B && H % keys.shape[2]! === 0 && keys.shape[3] === D;
  if (!right || !tf.util.arraysEqual(positions.shape, [B, 1])) {
    const shapes = `q is [${q.shape}], positions are [${positions.shape}], the cache holds [${keys.shape}]`;
    throw new Error(`decodeAttention: ${shapes}`);
  }
  const { cos, sin, layout } = table;
  if (!hasKernel("DecodeAttention")) return decodeAttentionReference(q, cache, positions, table, scale);
  return runOp("DecodeAttention", { q, keys, values, positions, cos, sin }, { layout, scale });
}

/** The definition in plain operations. */
export function decodeAttentionReference(
  q: tf.Tensor,
  { keys, values }: KeyValueCache,
  positions: tf.Tensor,
  table: RopeTable,
  scale: number,
): tf.Tensor {
  const H = q.shape[2]!;
  const turned = heads(rotateReference(q, positions, table)); // [B, H, 1, D]
  const logits = tf.matMul(turned, repeatGroups(heads(keys), H), false, true).mul(scale); // [B, H, 1, S]
  return tf.matMul(softmaxOverSeen(logits, positions), repeatGroups(heads(values), H)).reshape(q.shape);
}

/** logits: [B, H, 1, S], positions: int32 [B, 1] -> the same, 0 past each row's position. */
export function softmaxOverSeen(logits: tf.Tensor, positions: tf.Tensor): tf.Tensor4D {
  const S = logits.shape[3]!;
  const seen = tf
    .range(0, S, 1, "int32")
    .reshape([1, 1, 1, S])
    .lessEqual(positions.reshape([-1, 1, 1, 1]));
  return tf.softmax(tf.where(seen, logits, tf.fill(logits.shape, -1e9))) as tf.Tensor4D;
}

/** The part of positions' check that both caches' wasm kernels share; `known` positions have a slot and an angle. */
export function checkPositions(positions: tf.TensorInfo, address: number, tokens: number, known: number): void {
  const wrong = cpu().firstWrongPosition(address, tokens, known);
  if (wrong >= 0) {
    throw new Error(`decoding: position ${view(positions)[wrong]} is not among the ${known} that cache and table have`);
  }
}

interface Attributes {
  layout: RotaryLayout;
}

/** The kernel's own output is one unused element: TensorFlow.js wants one. */
defineOp<Attributes>({
  name: "StoreKeys",
  wasm: ({ k, v, positions, cos, sin, keys, values }, { layout }) => {
    const [B, T, G, D] = k.shape;
    const S = keys.shape[1];
    const [known, half] = [Math.min(S, cos.shape[0]), cos.shape[1]];
    const positionsAt = at(positions);
    const addresses = [at(k), at(v), positionsAt, at(cos), at(sin), at(keys), at(values)] as const;
    run(() => {
      checkPositions(positions, positionsAt, B * T, known);
      cpu().storeKeys(...addresses, B, T, S, G, D, half, layout === "interleaved");
    });
    return make([1]);
  },
  webgpu: ({ k, v, positions, cos, sin, keys, values }, { layout }) => {
    const [, T, G, D] = k.shape;
    const size = tf.util.sizeFromShape(k.shape);
    const [known, half] = cos.shape;
    launch({
      name: "storeKeys",
      source: store(layout),
      reads: { k, v, positions, cos, sin },
      writes: { keys, values },
      sizes: { size, T, S: keys.shape[1], D, perToken: G * D, half, known },
      numbers: { direction: 1, none: Number.NaN },
      workgroups: groupsFor(size),
    });
    return allocate([1]);
  },
});

/** A position without a slot is left out. */
const store = (layout: RotaryLayout): string => /* wgsl */ `
  ${turnText(layout)}
  fn main(group: u32, thread: u32) {
    let i = group * THREADS + thread;
    if (i >= u.size) { return; }
    let token = i / u.perToken;
    let position = positions[token];
    if (position < 0 || position >= i32(u.S)) { return; }
    let slot = token / u.T * u.S + u32(position);
    let turn = turnOf(i, u.D, token);
    keys[slot * u.perToken + i % u.perToken] = turn.keep * k[i] + turn.take * k[turn.partner];
    values[slot * u.perToken + i % u.perToken] = v[i];
  }
`;

defineOp<Attributes & { scale: number }>({
  name: "DecodeAttention",
  wasm: ({ q, keys, values, positions, cos, sin }, { layout, scale }) => {
    const [B, , H, D] = q.shape;
    const [, S, G] = keys.shape;
    const [known, half] = [Math.min(S, cos.shape[0]), cos.shape[1]];
    const o = make(q.shape);
    const positionsAt = at(positions);
    const addresses = [at(q), at(keys), at(values), positionsAt, at(cos), at(sin), at(o)] as const;
    const work = workspace(cpu().decodeAttentionBytes(S, D));
    run(() => {
      checkPositions(positions, positionsAt, B, known);
      cpu().decodeAttention(...addresses, B, S, H, G, D, half, layout === "interleaved", scale, work);
    });
    return o;
  },
  webgpu: ({ q, keys, values, positions, cos, sin }, { layout, scale }) => {
    const [B, , H, D] = q.shape;
    const [, S, G] = keys.shape;
    const [known, half] = cos.shape;
    const o = allocate(q.shape);
    launch({
      name: "decodeAttention",
      source: decode(D, layout),
      reads: { q, keys, values, positions, cos, sin },
      writes: { o },
      sizes: { B, S, H, G, half, known },
      numbers: { scale, direction: 1, none: Number.NaN },
      workgroups: B * H,
      threads: DECODE_THREADS,
    });
    return o;
  },
});

const decode = (D: number, layout: RotaryLayout): string => /* wgsl */ `
  ${turnText(layout)}
  ${attendText({
    width: D,
    valueWidth: D,
    key: (slot, d) => `keys[((b * u.S + ${slot}) * u.G + head % u.H / (u.H / u.G)) * ${D}u + ${d}]`,
    value: (slot, d) => `values[((b * u.S + ${slot}) * u.G + head % u.H / (u.H / u.G)) * ${D}u + ${d}]`,
  })}
  fn main(group: u32, thread: u32) {
    let head = min(group, u.B * u.H - 1u); // Spare workgroups do the last head again and store nothing.
    let b = head / u.H;
    for (var d = thread; d < ${D}u; d += THREADS) {
      let turn = turnOf(head * ${D}u + d, ${D}u, b);
      query[d] = turn.keep * q[head * ${D}u + d] + turn.take * q[turn.partner];
    }
    attend(b, head, thread);
    if (group != head) { return; }
    for (var d = thread; d < ${D}u; d += THREADS) { o[head * ${D}u + d] = collected[d]; }
  }
`;
