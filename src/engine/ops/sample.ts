// The next token of each row, drawn on the device, and what a recorded decoding step changes to be ready for the next one.

import { allocate, groupsFor, launch, THREADS } from "../launch.ts";
import { defineOp, hasKernel, runOp } from "../op.ts";
import * as tf from "../tf.ts";
import { at, cpu, make, run, workspace } from "../wasm/heap.ts";
import { sumOverLanes } from "../wgsl.ts";

// B rows, V vocabulary.

export interface SampleSettings {
  /** What logits are divided by; 0: the likeliest token, the first of equals. */
  temperature: number;
  /** Only tokens that fewer than this many are likelier than; 0: all. */
  topK: number;
  /** Of those only tokens that are likelier tokens, together, are less probable than this before; 1: all. */
  topP: number;
}

/**
 * logits: [B, V], uniforms: [B], each in [0, 1) -> int32 [B]; -1 for a row with a logit that is NaN or infinite (-Infinity
 * is not, it is a token that cannot come) or with no token that can.
 *
 * In the order of Hugging Face's transformers: temperature, then top-k, then top-p (Holtzman et al., 2020, section 3.1) on
 * the probabilities that top-k left, which add up to 1. Tokens of equal logits are kept or dropped together. Of what is
 * kept the token is the first at which the running sum of probabilities, in the order of the vocabulary, passes `uniforms`.
 */
export function sampleTokens(logits: tf.Tensor, settings: SampleSettings, uniforms: tf.Tensor): tf.Tensor {
  const [B, V] = logits.shape as [number, number];
  if (logits.rank !== 2 || uniforms.size !== B) {
    throw new Error(`sampleTokens: logits are [${logits.shape}], uniforms [${uniforms.shape}]`);
  }
  const { temperature, topK, topP } = settings;
  if (!(temperature >= 0 && topK >= 0 && topP > 0 && topP <= 1)) {
    throw new Error(
      `sampleTokens: temperature is ${temperature} (wanted 0 or more), topK ${topK} (0 or more), topP ${topP} (above 0, at most 1)`,
    );
  }
  if (hasKernel("SampleTokens")) return runOp("SampleTokens", { logits, uniforms }, settings);
  const [scores, draws] = [logits.dataSync(), uniforms.dataSync()];
  const tokens = Array.from(draws, (draw, b) => sampleReference(scores.subarray(b * V, (b + 1) * V), settings, draw));
  return tf.tensor1d(tokens, "int32");
}

/** The definition, for one row. */
export function sampleReference(
  logits: ArrayLike<number>,
  { temperature, topK, topP }: SampleSettings,
  uniform: number,
): number {
  const scores = Array.from(logits);
  const top = Math.max(...scores);
  if (!Number.isFinite(top)) return -1;
  if (temperature === 0) return scores.indexOf(top);
  const descending = scores.toSorted((a, b) => b - a);
  const least = topK > 0 ? descending[Math.min(topK, scores.length) - 1] : -Infinity;
  const weigh = (from: number) => scores.map((score) => (score >= from ? Math.exp((score - top) / temperature) : 0));
  const sum = (weights: number[]) => weights.reduce((a, b) => a + b, 0);
  const weights = weigh(least);
  const limit = topP * sum(weights);
  const above = (score: number) => sum(weights.filter((_, v) => scores[v] > score));
  // Each distinct score has likelier ones of more weight than the one before.
  const distinct = [...new Set(descending)].filter((score) => score >= least);
  const kept = weigh(topP < 1 ? distinct.findLast((score) => above(score) < limit)! : least);
  const place = Math.min(uniform, LARGEST_UNIFORM) * sum(kept);
  let running = 0;
  return kept.findIndex((weight) => (running += weight) > place);
}

/** The largest float32 below 1, which a number that is below 1 in float64 may not be. */
const LARGEST_UNIFORM = 1 - 2 ** -24;

defineOp<SampleSettings>({
  name: "SampleTokens",
  wasm: ({ logits, uniforms }, { temperature, topK, topP }) => {
    const [B, V] = logits.shape;
    const tokens = make([B], "int32");
    const addresses = [at(logits), at(uniforms), at(tokens)] as const;
    const work = workspace(cpu().sampleBytes());
    run(() => cpu().sampleTokens(...addresses, B, V, temperature, topK < V ? topK : 0, topP, work));
    return tokens;
  },
  webgpu: ({ logits, uniforms }, { temperature, topK, topP }) => {
    const [rows, V] = logits.shape;
    const tokens = allocate([rows], "int32");
    const greedy = temperature === 0;
    const settings = { topK: topK > 0 && topK < V, topP: topP < 1 };
    launch({
      name: greedy ? "likeliestTokens" : "sampleTokens",
      source: greedy ? likeliestText() : sampleText(settings),
      reads: { logits, uniforms },
      writes: { tokens },
      sizes: { rows, V, most: topK, share: Math.max(1, Math.round(topP * WHOLE)) },
      numbers: { inverse: greedy ? 1 : 1 / temperature, largestUniform: LARGEST_UNIFORM },
      workgroups: rows,
      threads: V < 1024 ? 64 : 256,
    });
    return tokens;
  },
});

/** Numbers as integers of the same order, so that what is not a number is known as such whatever the GPU takes it for. */
const KEYS = /* wgsl */ `
  const ENDLESS = 0xff800000u; // The key of infinity, past which there are only numbers that are none,
  const NEVER = 0x007fffffu; // and of minus infinity.
  fn keyOf(x: f32) -> u32 {
    let bits = bitcast<u32>(x);
    if ((bits & 0x7fffffffu) > 0x7f800000u) { return 0xffffffffu; }
    if (bits == 0x80000000u) { return 0x80000000u; } // -0 is 0.
    return select(bits | 0x80000000u, ~bits, bits >= 0x80000000u);
  }
  fn numberOf(key: u32) -> f32 {
    return bitcast<f32>(select(~key, key & 0x7fffffffu, key >= 0x80000000u));
  }
  fn isWrong(largest: u32) -> bool { return largest >= ENDLESS || largest <= NEVER; }
  var<workgroup> keys: array<u32, THREADS>;
`;

/** One workgroup per row: the largest logit, the first of equals. */
const likeliestText = (): string => /* wgsl */ `
  ${KEYS}
  var<workgroup> places: array<u32, THREADS>;
  fn main(group: u32, thread: u32) {
    let row = min(group, u.rows - 1u);
    var largest = 0u;
    var place = 0u;
    for (var v = thread; v < u.V; v += THREADS) {
      let key = keyOf(logits[row * u.V + v]);
      if (key > largest) {
        largest = key;
        place = v;
      }
    }
    keys[thread] = largest;
    places[thread] = place;
    workgroupBarrier();
    if (group != row || thread != 0u) { return; }
    for (var i = 1u; i < THREADS; i++) {
      if (keys[i] > largest || (keys[i] == largest && places[i] < place)) {
        largest = keys[i];
        place = places[i];
      }
    }
    tokens[row] = select(i32(place), -1, isWrong(largest));
  }
`;

/** Probabilities are added up as integers, in whatever order they come: this many parts make 1. */
const WHOLE = 2 ** 30;

/**
 * One workgroup per row. What top-k and top-p keep is all from some key on: the least key of which the keys above weigh
 * less than a limit, found in four rounds of eight bits each.
 */
const sampleText = ({ topK, topP }: { topK: boolean; topP: boolean }): string => /* wgsl */ `
  ${KEYS}
  ${sumOverLanes(THREADS)}
  var<workgroup> bins: array<atomic<u32>, 256>;
  var<workgroup> ownSums: array<f32, THREADS>;

  /** e^((logit - top) / temperature), 0 for keys below the least. */
  fn weigh(logit: f32, top: f32, least: u32) -> f32 {
    let z = (logit - top) * u.inverse;
    return select(0.0, exp(max(z, -80.0)), z > -80.0 && keyOf(logit) >= least);
  }

  ${topK ? leastKeyText("leastOfMost", "1u") : ""}
  ${topP ? leastKeyText("leastOfShare", `u32(weigh(logit, top, least) * scale + 0.5)`) : ""}

  fn main(group: u32, thread: u32) {
    let row = min(group, u.rows - 1u);
    let start = row * u.V;
    var own = 0u;
    for (var v = thread; v < u.V; v += THREADS) { own = max(own, keyOf(logits[start + v])); }
    keys[thread] = own;
    workgroupBarrier();
    var largest = 0u;
    for (var i = 0u; i < THREADS; i++) { largest = max(largest, keys[i]); }
    let top = numberOf(largest);

    var least = 0u;
    ${topK ? "least = leastOfMost(start, thread, u.most, top, least, 0.0);" : ""}
    ${topP ? NARROW : ""}

    // Each thread has a run of the vocabulary.
    let length = (u.V + THREADS - 1u) / THREADS;
    let first = min(thread * length, u.V);
    let end = min(first + length, u.V);
    var sum = 0.0;
    for (var v = first; v < end; v++) { sum += weigh(logits[start + v], top, least); }
    ownSums[thread] = sum;
    workgroupBarrier();
    var all = 0.0;
    var before = 0.0;
    for (var i = 0u; i < THREADS; i++) {
      if (i == thread) { before = all; }
      all += ownSums[i];
    }
    if (group != row) { return; }
    if (isWrong(largest)) {
      if (thread == 0u) { tokens[row] = -1; }
      return;
    }
    let place = min(uniforms[row], u.largestUniform) * all;
    if (place < before || place >= before + sum) { return; }
    var running = 0.0;
    var token = first;
    for (var v = first; v < end; v++) {
      let weight = weigh(logits[start + v], top, least);
      running += weight;
      if (weight > 0.0) { token = v; }
      if (running > place - before) { break; }
    }
    tokens[row] = i32(token);
  }
`;

const NARROW = /* wgsl */ `
  var part = 0.0;
  for (var v = thread; v < u.V; v += THREADS) { part += weigh(logits[start + v], top, least); }
  let scale = ${WHOLE}.0 / sumOverLanes(part, thread);
  least = leastOfShare(start, thread, u.share, top, least, scale);
`;

/** The least key from `least` on of which the keys above weigh less than `limit`. All threads come by. */
const leastKeyText = (name: string, weight: string): string => /* wgsl */ `
  fn ${name}(start: u32, thread: u32, limit: u32, top: f32, least: u32, scale: f32) -> u32 {
    var found = 0u;
    var above = 0u;
    for (var round = 0u; round < 4u; round++) {
      let shift = 24u - 8u * round;
      let known = select(0xffffffffu << ((shift + 8u) % 32u), 0u, round == 0u);
      for (var bin = thread; bin < 256u; bin += THREADS) { atomicStore(&bins[bin], 0u); }
      workgroupBarrier();
      for (var v = thread; v < u.V; v += THREADS) {
        let logit = logits[start + v];
        let key = keyOf(logit);
        if (key >= least && (key & known) == found) { atomicAdd(&bins[(key >> shift) & 255u], ${weight}); }
      }
      workgroupBarrier();
      var sum = above;
      var chosen = 255u;
      for (var i = 0u; i < 256u; i++) {
        let weight = atomicLoad(&bins[255u - i]);
        if (weight > 0u && sum < limit) {
          chosen = 255u - i;
          above = sum;
        }
        sum += weight;
      }
      found |= chosen << shift;
      workgroupBarrier();
    }
    return found;
  }
`;

/**
 * In place, for the next step of decoding: ids[b] = tokens[b] (0 for a token that is -1: the tokens tell), and each of
 * `positions` one further, at most `last`. All int32, of B elements. No gradient.
 */
export function advance(ids: tf.Tensor, positions: tf.Tensor, tokens: tf.Tensor, last: number): void {
  if (ids.size !== tokens.size || positions.size !== tokens.size) {
    throw new Error(`advance: ids are [${ids.shape}], positions [${positions.shape}], tokens [${tokens.shape}]`);
  }
  if (hasKernel("Advance")) {
    runOp("Advance", { ids, positions, tokens }, { last }).dispose();
    return;
  }
  // On the cpu backend these are the tensors' own memory.
  const [to, where] = [ids.dataSync() as Int32Array, positions.dataSync() as Int32Array];
  tokens.dataSync().forEach((token, b) => {
    to[b] = Math.max(token, 0);
    where[b] = Math.min(where[b] + 1, last);
  });
}

/** The kernel's own output is one unused element: TensorFlow.js wants one. */
defineOp<{ last: number }>({
  name: "Advance",
  wasm: ({ ids, positions, tokens }, { last }) => {
    const addresses = [at(ids), at(positions), at(tokens)] as const;
    const B = tf.util.sizeFromShape(tokens.shape);
    run(() => cpu().advance(...addresses, B, last));
    return make([1]);
  },
  webgpu: ({ ids, positions, tokens }, { last }) => {
    const B = tf.util.sizeFromShape(tokens.shape);
    launch({
      name: "advance",
      source: ADVANCE,
      reads: { tokens },
      writes: { ids, positions },
      sizes: { B, last },
      workgroups: groupsFor(B),
    });
    return allocate([1]);
  },
});

const ADVANCE = /* wgsl */ `
  fn main(group: u32, thread: u32) {
    let b = group * THREADS + thread;
    if (b >= u.B) { return; }
    ids[b] = max(tokens[b], 0);
    positions[b] = min(positions[b] + 1, i32(u.last));
  }
`;
