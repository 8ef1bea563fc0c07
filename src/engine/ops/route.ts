// The router of a mixture of experts: which experts a token goes to, and with what weights.
// DeepSeek-V3 section 2.1.2: sigmoid scores, a bias that only takes part in the choice. V2: softmax, no bias.

import { detached } from "../gradients.ts";
import { constant, groupsFor, launch, THREADS } from "../launch.ts";
import * as tf from "../tf.ts";
import { SIGMOID, withScratch } from "../wgsl.ts";
import type { Form } from "./blockProduct.ts";
import { ORDER, type Plan } from "./gatedMlpKernels.ts";

export interface RouteOptions {
  topK: number;
  scoring: "sigmoid" | "softmax";
  /** Divide the chosen scores by their sum. */
  normalize: boolean;
  /** Multiply the weights by this (routed_scaling_factor). */
  scale: number;
  /** Experts lie in this many groups; a token keeps `groupsKept` of them (sum of each group's two best). */
  groups: number;
  groupsKept: number;
}

/**
 * logits: [N, E], bias: [E] (added for the choice only) -> experts: int32 [N, topK], best first, of equals the first;
 * weights: [N, topK].
 *
 * The definition in plain operations. Gradients reach the logits through the weights; choice and bias have none.
 */
export function routeReference(
  logits: tf.Tensor,
  bias: tf.Tensor,
  { topK, scoring, normalize, scale, groups, groupsKept }: RouteOptions,
): { experts: tf.Tensor; weights: tf.Tensor } {
  const [N, E] = logits.shape as [number, number];
  const scores = scoring === "sigmoid" ? logits.sigmoid() : tf.softmax(logits); // [N, E]
  const choose = (s: tf.Tensor) => {
    let choice = s.add(bias);
    if (groups > 1) {
      const perGroup = choice.reshape([N, groups, E / groups]);
      const best = tf.topk(perGroup, Math.min(2, E / groups)).values.sum(-1); // [N, groups]
      const kept = tf.oneHot(tf.topk(best, groupsKept).indices as tf.Tensor2D, groups).sum(1); // [N, groups]
      const mask = kept
        .expandDims(2)
        .tile([1, 1, E / groups])
        .reshape([N, E]);
      choice = tf.where(mask.greater(0), choice, tf.fill([N, E], -1e9));
    }
    return tf.topk(choice, topK).indices; // int32 [N, topK]
  };
  // The choice has no gradient, and TensorFlow.js stops at one that it does not know.
  const onTape = tf.customGrad((s) => ({ value: choose(s as tf.Tensor), gradFunc: () => tf.zeros([N, E]) }))(scores);
  const experts = detached(onTape);
  const chosen = tf
    .oneHot(experts as tf.Tensor2D, E)
    .mul(scores.expandDims(1))
    .sum(-1); // [N, topK]
  const weights = normalize ? chosen.div(chosen.sum(-1, true).add(1e-20)) : chosen;
  return { experts, weights: weights.mul(scale) };
}

type Tensors = Record<string, tf.TensorInfo>;

const TOKENS = 16; // Of a workgroup, where it multiplies in its own memory; and as many experts at a time.
const DEPTH = 32;

/** On the GPU: x [N, D], router [E, D], bias [E] -> logits [N, E], weights [N, topK], chosen int32 [N, topK]. */
export function launchRoute(form: Form, reads: Tensors, writes: Tensors, options: RouteOptions): void {
  const { topK, scoring, normalize, scale, groups, groupsKept } = options;
  if (groups > 32) throw new Error(`route: ${groups} groups, the GPU's kernel takes at most 32`);
  const [N, E] = writes.logits.shape;
  withScratch([N, E], (choice) => {
    launch({
      name: "route",
      source: /* wgsl */ `
        ${scores(scoring)}
        ${choosing(normalize)}
        ${form === "tiles" ? BY_WORKGROUP : BY_THREAD}
      `,
      reads,
      writes: { ...writes, choice },
      sizes: { N, D: reads.x.shape[1], E, topK, groups, groupsKept },
      numbers: { scale },
      workgroups: form === "tiles" ? Math.ceil(N / TOKENS) : groupsFor(N),
    });
  });
}

/**
 * On the GPU: overlaps, whose rows (in the order of `order`) add up to the gradients by the weights, logits and chosen ->
 * dlogits [N, E].
 */
export function launchRouteGradient(reads: Tensors, writes: Tensors, plan: Plan, options: RouteOptions): void {
  launch({
    name: "routeGradient",
    source: routingGradient(options.scoring, options.normalize),
    reads: { ...reads, offsets: constant(plan.offsets) },
    writes,
    sizes: plan.sizes,
    numbers: { scale: options.scale },
    workgroups: groupsFor(plan.sizes.N),
  });
}

/** `prepare` and `score(e, of)`: expert e's score from its logit and what the whole row gives. */
const scores = (scoring: RouteOptions["scoring"]): string =>
  scoring === "sigmoid"
    ? /* wgsl */ `
      ${SIGMOID}
      fn prepare(n: u32) -> vec2<f32> { return vec2<f32>(); }
      fn score(i: u32, row: vec2<f32>) -> f32 { return sigmoid(logits[i]); }
    `
    : /* wgsl */ `
      fn prepare(n: u32) -> vec2<f32> {
        var most = -3.0e38;
        for (var e = 0u; e < u.E; e++) { most = max(most, logits[n * u.E + e]); }
        var sum = 0.0;
        for (var e = 0u; e < u.E; e++) { sum += exp(logits[n * u.E + e] - most); }
        return vec2(most, sum);
      }
      fn score(i: u32, row: vec2<f32>) -> f32 { return exp(logits[i] - row.x) / row.y; }
    `;

const SMALLEST = "1.0e-20"; // Added to the sum that the weights are divided by.

/**
 * `choose(n)`: a token's experts and weights from its logits. The next best is the best of those behind the last in the
 * order (value down, index up), so that nothing must be remembered of what was taken. choice: [N, E], what is chosen by.
 */
const choosing = (normalize: boolean): string => /* wgsl */ `
  fn groupScore(start: u32) -> f32 { // The sum of the two best.
    var best = -3.0e38;
    var second = -3.0e38;
    let size = u.E / u.groups;
    for (var i = start; i < start + size; i++) {
      let value = choice[i];
      second = max(second, min(best, value));
      best = max(best, value);
    }
    return select(best + second, best, size == 1u);
  }
  fn choose(n: u32) {
    let row = prepare(n);
    for (var e = 0u; e < u.E; e++) { choice[n * u.E + e] = score(n * u.E + e, row) + bias[e]; }
    if (u.groups > 1u) { dropGroups(n); }
    var last = 3.0e38;
    var lastExpert = -1;
    var sum = 0.0;
    for (var slot = 0u; slot < u.topK; slot++) {
      var best = -3.0e38;
      var expert = -1;
      for (var e = 0; e < i32(u.E); e++) {
        let value = choice[n * u.E + u32(e)];
        let behind = value < last || (value == last && e > lastExpert);
        if (behind && (expert < 0 || value > best)) {
          best = value;
          expert = e;
        }
      }
      expert = max(expert, 0); // Only where scores are NaN is none behind.
      last = best;
      lastExpert = expert;
      let weight = score(n * u.E + u32(expert), row);
      chosen[n * u.topK + slot] = expert;
      weights[n * u.topK + slot] = weight;
      sum += weight;
    }
    let factor = ${normalize ? `u.scale / (sum + ${SMALLEST})` : "u.scale"};
    for (var slot = 0u; slot < u.topK; slot++) { weights[n * u.topK + slot] *= factor; }
  }
  /** A group is kept if fewer than groupsKept groups come before it in the order (score down, index up). */
  fn dropGroups(n: u32) {
    let size = u.E / u.groups;
    let start = n * u.E;
    var kept = 0u; // A bit per group.
    for (var g = 0u; g < u.groups; g++) {
      let own = groupScore(start + g * size);
      var before = 0u;
      for (var other = 0u; other < u.groups; other++) {
        let score = groupScore(start + other * size);
        if (score > own || (score == own && other < g)) { before++; }
      }
      if (before < u.groupsKept) { kept |= 1u << g; }
    }
    for (var e = 0u; e < u.E; e++) {
      if (((kept >> (e / size)) & 1u) == 0u) { choice[start + e] = -1.0e9; }
    }
  }
`;

// One thread per token, four experts at a time.
const BY_THREAD = /* wgsl */ `
  fn main(group: u32, thread: u32) {
    let n = group * THREADS + thread;
    if (n >= u.N) { return; }
    for (var e = 0u; e < u.E; e += 4u) {
      let rows = min(vec4(e, e + 1u, e + 2u, e + 3u), vec4(u.E - 1u)) * u.D;
      var sums = vec4<f32>();
      for (var d = 0u; d < u.D; d++) {
        sums += x[n * u.D + d] * vec4(router[rows.x + d], router[rows.y + d], router[rows.z + d], router[rows.w + d]);
      }
      for (var j = 0u; j < min(4u, u.E - e); j++) { logits[n * u.E + e + j] = sums[j]; }
    }
    choose(n);
  }
`;

// TOKENS tokens by as many experts at a time, each thread 2 of both; then one thread per token.
const BY_WORKGROUP = /* wgsl */ `
  var<workgroup> xs: array<f32, ${TOKENS * (DEPTH + 1)}>;
  var<workgroup> rows: array<f32, ${TOKENS * (DEPTH + 1)}>;
  fn main(group: u32, thread: u32) {
    let first = group * ${TOKENS}u;
    let t = thread / ${TOKENS / 2}u * 2u;
    let o = thread % ${TOKENS / 2}u * 2u;
    for (var e0 = 0u; e0 < u.E; e0 += ${TOKENS}u) {
      var sums = vec4<f32>();
      for (var d0 = 0u; d0 < u.D; d0 += ${DEPTH}u) {
        for (var i = thread; i < ${TOKENS * DEPTH}u; i += ${THREADS}u) {
          let place = i / ${DEPTH}u;
          let d = d0 + i % ${DEPTH}u;
          let slot = place * ${DEPTH + 1}u + i % ${DEPTH}u;
          xs[slot] = 0.0;
          rows[slot] = 0.0;
          if (d < u.D && first + place < u.N) { xs[slot] = x[(first + place) * u.D + d]; }
          if (d < u.D && e0 + place < u.E) { rows[slot] = router[(e0 + place) * u.D + d]; }
        }
        workgroupBarrier();
        for (var k = 0u; k < ${DEPTH}u; k++) {
          let a = vec2(xs[t * ${DEPTH + 1}u + k], xs[(t + 1u) * ${DEPTH + 1}u + k]);
          let b = vec2(rows[o * ${DEPTH + 1}u + k], rows[(o + 1u) * ${DEPTH + 1}u + k]);
          sums += a.xxyy * b.xyxy;
        }
        workgroupBarrier();
      }
      for (var j = 0u; j < 4u; j++) {
        let n = first + t + j / 2u;
        let e = e0 + o + j % 2u;
        if (n < u.N && e < u.E) { logits[n * u.E + e] = sums[j]; }
      }
    }
    storageBarrier();
    if (thread < ${TOKENS}u && first + thread < u.N) { choose(first + thread); }
  }
`;

// One thread per token. With s the scores and w = scale * s / sum(s), each chosen score's gradient is
// scale / sum * (dw - sum(dw * s) / sum); without the division it is scale * dw.
const routingGradient = (scoring: RouteOptions["scoring"], normalize: boolean): string => /* wgsl */ `
  ${ORDER}
  ${scores(scoring)}
  fn dweight(slot: u32) -> f32 {
    let width = u32(offsets[chosen[slot] + 1] - offsets[chosen[slot]]);
    let start = u32(order[rowOf(slot)]) * u.overlapWidth;
    var sum = 0.0;
    for (var j = 0u; j < (width + 3u) / 4u; j++) { sum += overlaps[start + j]; }
    return sum;
  }
  fn main(group: u32, thread: u32) {
    let n = group * THREADS + thread;
    if (n >= u.N) { return; }
    let row = prepare(n);
    for (var e = 0u; e < u.E; e++) { dlogits[n * u.E + e] = 0.0; }
    var sum = 0.0;
    var along = 0.0;
    for (var slot = n * u.topK; slot < (n + 1u) * u.topK; slot++) {
      let i = n * u.E + u32(chosen[slot]);
      let s = score(i, row);
      let dw = dweight(slot);
      dlogits[i] = dw;
      sum += s;
      along += s * dw;
    }
    ${
      normalize
        ? `let factor = u.scale / (sum + ${SMALLEST}); let shift = along / (sum + ${SMALLEST});`
        : "let factor = u.scale; let shift = 0.0;"
    }
    for (var slot = n * u.topK; slot < (n + 1u) * u.topK; slot++) {
      let i = n * u.E + u32(chosen[slot]);
      let s = score(i, row);
      dlogits[i] = factor * (dlogits[i] - shift) * s${scoring === "sigmoid" ? " * (1.0 - s)" : ""};
    }
    ${scoring === "softmax" ? SOFTMAX_PULL : ""}
  }
`;

// The softmax takes from every score what the chosen ones' gradients add up to.
const SOFTMAX_PULL = /* wgsl */ `
  let pull = factor * (along - shift * sum);
  for (var e = 0u; e < u.E; e++) { dlogits[n * u.E + e] -= pull * score(n * u.E + e, row); }
`;
