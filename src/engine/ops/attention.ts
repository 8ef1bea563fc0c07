// Causal scaled dot-product attention (Vaswani et al., 2017, eq. 1), for grouped queries (GQA: fewer key than query
// heads) and for MLA (a rotary part of the key that all heads share; value heads of another width).

// B batch, T tokens, H query heads, G key-value heads (query head h uses key head floor(h / (H/G))),
// K a key head's own width, P the width of the shared part of a key, V a value head's width.

import { allocate, groupsFor, launch, THREADS } from "../launch.ts";
import { defineOp, hasKernel, runOp, runOps, type Inputs, type OpDefinition } from "../op.ts";
import * as tf from "../tf.ts";
import { at, cpu, make, run, workspace } from "../wasm/heap.ts";
import { lines, loadVector, storeVector, sumOverLanes, vectors, withScratch } from "../wgsl.ts";

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
    const addresses = [at(q), at(k), at(v), shared ? at(shared) : 0, at(o), at(logsumexp)] as const;
    const work = workspace(cpu().causalAttentionBytes(T, K, P));
    run(() => cpu().causalAttention(...addresses, ...sizes, scale, work));
    return [o, logsumexp];
  },
  webgpu: ({ q, k, v, shared }, { scale }) => {
    const [B, T, H, G, K, P, V] = sizesOf(q, k, v);
    const [o, logsumexp] = [allocate([B, T, H, V]), allocate([B, H, T])];
    launch({
      name: "causalAttention",
      source: forward(K, P, V),
      reads: shared ? { q, k, v, rotary: shared } : { q, k, v },
      writes: { o, logsumexp },
      sizes: { B, T, H, G },
      numbers: { scale },
      workgroups: groupsFor(B * H * T),
    });
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
    run(() => cpu().causalAttentionGradient(...inputs, dq, dk, dv, dshared, ...sizes, scale, work));
    return outputs;
  },
  webgpu: ({ dy, q, k, v, shared, o, logsumexp }, { scale }) => {
    const [B, T, H, G, K, P, V] = sizesOf(q, k, v);
    const outputs = [q, k, v, ...(shared ? [shared] : [])].map(({ shape }) => allocate(shape));
    const [dq, dk, dv, dshared] = outputs;
    const settings = { sizes: { B, T, H, G }, numbers: { scale } };
    const keys: Inputs = shared ? { k, rotary: shared } : { k }; // "shared" is reserved in WGSL.
    withScratch([B, H, T, 2], (stats) => {
      launch({
        name: "causalAttentionStats",
        source: rowStats(V),
        reads: { dy, o, logsumexp },
        writes: { stats },
        sizes: settings.sizes,
        workgroups: groupsFor(B * H * T),
      });
      launch({
        name: "causalAttentionQueryGradient",
        source: queryGradient(K, P, V),
        reads: { q, ...keys, v, dy, stats },
        writes: { dq },
        ...settings,
        workgroups: groupsFor(B * H * T),
      });
      const perKey = (dkey: tf.TensorInfo) =>
        launch({
          name: "causalAttentionKeyGradient",
          source: keyGradient(K, P, V),
          reads: { q, ...keys, v, dy, stats },
          writes: { dkey, dv },
          ...settings,
          workgroups: groupsFor(B * G * T),
        });
      if (!shared) return perKey(dk);
      // Eight buffers are all that a kernel is sure to get, so both parts of the key's gradient come in one.
      return withScratch([B, T, G, K + P], (dkey) => {
        perKey(dkey);
        const [reads, writes] = [{ dkey }, { dk, dshared }];
        const workgroups = groupsFor(B * T * (G * K + P));
        launch({ name: "splitKeyGradient", source: splitKey(K, P), reads, writes, sizes: { B, T, G }, workgroups });
      });
    });
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
    const sizes = [B, S, H, G, D, value.shape[3]!, valueWidth] as const;
    const work = workspace(S * 4);
    run(() => cpu().decodeAttention(...addresses, ...sizes, scale, work));
    return o;
  },
  webgpu: ({ q, k, v, lengths }, { valueWidth, scale }) => {
    const [B, H, D] = q.shape;
    const [, S, G] = k.shape;
    const values = v ?? k;
    const o = allocate([B, H, valueWidth]);
    withScratch([B, H, S], (probabilities) => {
      launch({
        name: "decodeAttentionWeights",
        source: DECODE_WEIGHTS,
        reads: { q, k, lengths },
        writes: { probabilities },
        sizes: { B, S, H, G, D },
        numbers: { scale },
        workgroups: B * H,
      });
      launch({
        name: "decodeAttentionSum",
        source: DECODE_SUM,
        reads: { probabilities, values, lengths },
        writes: { o },
        sizes: { B, S, H, G, width: values.shape[3], V: valueWidth },
        workgroups: groupsFor(B * H * valueWidth),
      });
    });
    return o;
  },
});

// The kernels below need no S x S buffer: the forward keeps a running maximum and sum (Milakov & Gimelshein, 2018), the
// backward recomputes each probability from the logsumexp (Dao et al., 2022, algorithm 4). One thread per query or key,
// its vectors in registers; neighbouring threads read the same key or query.

/** Declares i (of `count` threads) and where things lie: (b, h or g, t). */
const place = (heads: "H" | "G"): string => /* wgsl */ `
  let i = group * THREADS + thread;
  if (i >= u.B * u.${heads} * u.T) { return; }
  let own = i % u.T;
  let b = i / (u.T * u.${heads});
`;

/** Statements that load a key: vectors k0.. and, with a shared part, r0.. */
const loadKey = (K: number, P: number, token: string): string => /* wgsl */ `
  let kAt = ((b * u.T + ${token}) * u.G + g) * ${K}u;
  ${lines(vectors(K), (j) => `let k${j} = ${loadVector("k", "kAt", K, j)};`)}
  let rAt = (b * u.T + ${token}) * ${P}u;
  ${lines(vectors(P), (j) => `let r${j} = ${loadVector("rotary", "rAt", P, j)};`)}
`;

/** Statements that load a query: vectors q0.. for the key's own part, s0.. for the shared part. */
const loadQuery = (K: number, P: number, token: string): string => /* wgsl */ `
  let qAt = ((b * u.T + ${token}) * u.H + h) * ${K + P}u;
  ${lines(vectors(K), (j) => `let q${j} = ${loadVector("q", "qAt", K, j)};`)}
  let sAt = qAt + ${K}u;
  ${lines(vectors(P), (j) => `let s${j} = ${loadVector("q", "sAt", P, j)};`)}
`;

/** Vectors y0.. of the output's gradient at a query. */
const loadOutputGradient = (V: number, token: string): string => /* wgsl */ `
  let oAt = ((b * u.T + ${token}) * u.H + h) * ${V}u;
  ${lines(vectors(V), (j) => `let y${j} = ${loadVector("dy", "oAt", V, j)};`)}
`;

const loadValue = (V: number, token: string): string => /* wgsl */ `
  let vAt = ((b * u.T + ${token}) * u.G + g) * ${V}u;
  ${lines(vectors(V), (j) => `let v${j} = ${loadVector("v", "vAt", V, j)};`)}
`;

const dots = (pairs: string[]): string => pairs.map((pair) => `dot(${pair})`).join(" + ");

const logit = (K: number, P: number): string =>
  `u.scale * (${dots([
    ...Array.from({ length: vectors(K) }, (_, j) => `q${j}, k${j}`),
    ...Array.from({ length: vectors(P) }, (_, j) => `s${j}, r${j}`),
  ])})`;

const along = (V: number, other: string): string =>
  dots(Array.from({ length: vectors(V) }, (_, j) => `y${j}, ${other}${j}`));

const forward = (K: number, P: number, V: number): string => /* wgsl */ `
  fn main(group: u32, thread: u32) {
    ${place("H")}
    let h = i / u.T % u.H;
    let g = h / (u.H / u.G);
    ${loadQuery(K, P, "own")}
    ${lines(vectors(V), (j) => `var o${j} = vec4<f32>();`)}
    var most = -3.0e38;
    var sum = 0.0;
    for (var token = 0u; token <= own; token++) {
      ${loadKey(K, P, "token")}
      let logit = ${logit(K, P)};
      let above = max(most, logit);
      let keep = exp(most - above);
      let p = exp(logit - above);
      most = above;
      sum = sum * keep + p;
      ${loadValue(V, "token")}
      ${lines(vectors(V), (j) => `o${j} = o${j} * keep + p * v${j};`)}
    }
    let oAt = ((b * u.T + own) * u.H + h) * ${V}u;
    ${lines(vectors(V), (j) => `let y${j} = o${j} / sum; ${storeVector("o", "oAt", V, j, `y${j}`)}`)}
    logsumexp[i] = most + log(sum);
  }
`;

/** stats: [logsumexp, delta], delta = dy·o. */
const rowStats = (V: number): string => /* wgsl */ `
  fn main(group: u32, thread: u32) {
    ${place("H")}
    let h = i / u.T % u.H;
    ${loadOutputGradient(V, "own")}
    ${lines(vectors(V), (j) => `let o${j} = ${loadVector("o", "oAt", V, j)};`)}
    stats[2u * i] = logsumexp[i];
    stats[2u * i + 1u] = ${along(V, "o")};
  }
`;

// For each key: p = exp(logit - logsumexp), dlogit = p * (dy·v - delta).
const queryGradient = (K: number, P: number, V: number): string => /* wgsl */ `
  fn main(group: u32, thread: u32) {
    ${place("H")}
    let h = i / u.T % u.H;
    let g = h / (u.H / u.G);
    ${loadQuery(K, P, "own")}
    ${loadOutputGradient(V, "own")}
    let logsumexp = stats[2u * i];
    let delta = stats[2u * i + 1u];
    ${lines(vectors(K), (j) => `var dq${j} = vec4<f32>();`)}
    ${lines(vectors(P), (j) => `var ds${j} = vec4<f32>();`)}
    for (var token = 0u; token <= own; token++) {
      ${loadKey(K, P, "token")}
      let p = exp(${logit(K, P)} - logsumexp);
      ${loadValue(V, "token")}
      let dlogit = u.scale * p * (${along(V, "v")} - delta);
      ${lines(vectors(K), (j) => `dq${j} += dlogit * k${j};`)}
      ${lines(vectors(P), (j) => `ds${j} += dlogit * r${j};`)}
    }
    ${lines(vectors(K), (j) => storeVector("dq", "qAt", K, j, `dq${j}`))}
    ${lines(vectors(P), (j) => storeVector("dq", "sAt", P, j, `ds${j}`))}
  }
`;

// dkey: [B, T, G, K+P], the key's own part and this head's share of the shared part.
const keyGradient = (K: number, P: number, V: number): string => /* wgsl */ `
  fn main(group: u32, thread: u32) {
    ${place("G")}
    let g = i / u.T % u.G;
    ${loadKey(K, P, "own")}
    ${loadValue(V, "own")}
    ${lines(vectors(K), (j) => `var dk${j} = vec4<f32>();`)}
    ${lines(vectors(P), (j) => `var dr${j} = vec4<f32>();`)}
    ${lines(vectors(V), (j) => `var dv${j} = vec4<f32>();`)}
    for (var h = g * (u.H / u.G); h < (g + 1u) * (u.H / u.G); h++) {
      for (var token = own; token < u.T; token++) {
        let at = 2u * ((b * u.H + h) * u.T + token);
        ${loadQuery(K, P, "token")}
        ${loadOutputGradient(V, "token")}
        let p = exp(${logit(K, P)} - stats[at]);
        let dlogit = u.scale * p * (${along(V, "v")} - stats[at + 1u]);
        ${lines(vectors(K), (j) => `dk${j} += dlogit * q${j};`)}
        ${lines(vectors(P), (j) => `dr${j} += dlogit * s${j};`)}
        ${lines(vectors(V), (j) => `dv${j} += p * y${j};`)}
      }
    }
    let dkAt = ((b * u.T + own) * u.G + g) * ${K + P}u;
    ${lines(vectors(K), (j) => storeVector("dkey", "dkAt", K, j, `dk${j}`))}
    let drAt = dkAt + ${K}u;
    ${lines(vectors(P), (j) => storeVector("dkey", "drAt", P, j, `dr${j}`))}
    ${lines(vectors(V), (j) => storeVector("dv", "vAt", V, j, `dv${j}`))}
  }
`;

/** dkey -> dk, and dshared as the sum over the heads. */
const splitKey = (K: number, P: number): string => /* wgsl */ `
  fn main(group: u32, thread: u32) {
    let i = group * THREADS + thread;
    let width = u.G * ${K}u + ${P}u;
    if (i >= u.B * u.T * width) { return; }
    let token = i / width;
    let entry = i % width;
    if (entry < u.G * ${K}u) {
      dk[token * u.G * ${K}u + entry] = dkey[(token * u.G + entry / ${K}u) * ${K + P}u + entry % ${K}u];
      return;
    }
    let part = entry - u.G * ${K}u;
    var sum = 0.0;
    for (var g = 0u; g < u.G; g++) { sum += dkey[(token * u.G + g) * ${K + P}u + ${K}u + part]; }
    dshared[token * ${P}u + part] = sum;
  }
`;

// One workgroup per row and head; each thread keeps to its own slots. Spare workgroups redo the last head and store nothing.
const DECODE_WEIGHTS = /* wgsl */ `
  ${sumOverLanes(THREADS)}
  var<workgroup> mosts: array<f32, THREADS>;
  fn main(group: u32, thread: u32) {
    let head = min(group, u.B * u.H - 1u);
    let b = head / u.H;
    let length = min(u32(max(lengths[b], 0)), u.S);
    var most = -3.0e38;
    for (var slot = thread; slot < length; slot += THREADS) {
      let value = logit(head, b, slot);
      if (group == head) { probabilities[head * u.S + slot] = value; }
      most = max(most, value);
    }
    mosts[thread] = most;
    workgroupBarrier();
    for (var i = 0u; i < THREADS; i++) { most = max(most, mosts[i]); }
    var own = 0.0;
    for (var slot = thread; slot < length; slot += THREADS) { own += exp(probabilities[head * u.S + slot] - most); }
    let sum = sumOverLanes(own, thread);
    if (group != head) { return; }
    for (var slot = thread; slot < length; slot += THREADS) {
      probabilities[head * u.S + slot] = exp(probabilities[head * u.S + slot] - most) / sum;
    }
  }
  fn logit(head: u32, b: u32, slot: u32) -> f32 {
    let g = head % u.H / (u.H / u.G);
    let kAt = ((b * u.S + slot) * u.G + g) * u.D;
    var sum = 0.0;
    for (var d = 0u; d < u.D; d++) { sum += q[head * u.D + d] * k[kAt + d]; }
    return sum * u.scale;
  }
`;

const DECODE_SUM = /* wgsl */ `
  fn main(group: u32, thread: u32) {
    let i = group * THREADS + thread;
    if (i >= u.B * u.H * u.V) { return; }
    let head = i / u.V;
    let b = head / u.H;
    let g = head % u.H / (u.H / u.G);
    let length = min(u32(max(lengths[b], 0)), u.S);
    var sum = 0.0;
    for (var slot = 0u; slot < length; slot++) {
      sum += probabilities[head * u.S + slot] * values[((b * u.S + slot) * u.G + g) * u.width + i % u.V];
    }
    o[i] = sum;
  }
`;
