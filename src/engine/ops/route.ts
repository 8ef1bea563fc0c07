// The router of a mixture of experts: which experts a token goes to, and with what weights.
// DeepSeek-V3 section 2.1.2: sigmoid scores, a bias that only takes part in the choice. V2: softmax, no bias.

import { detached } from "../gradients.ts";
import { allocate, groupsFor, launch } from "../launch.ts";
import { defineOp, hasKernel, runOp, runOps } from "../op.ts";
import * as tf from "../tf.ts";
import { at, cpu, make, run, workspace } from "../wasm/heap.ts";
import { SIGMOID, withScratch } from "../wgsl.ts";

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
 * logits: [N, E], bias: [E] (added for the choice only) -> experts: int32 [N, topK], weights: [N, topK].
 *
 * Gradients reach the logits through the weights; the choice and the bias have none.
 */
export function route(
  logits: tf.Tensor,
  bias: tf.Tensor,
  options: RouteOptions,
): { experts: tf.Tensor; weights: tf.Tensor } {
  const E = logits.shape[1]!;
  if (bias.size !== E || options.topK > E || E % options.groups !== 0) {
    throw new Error(
      `route: logits are [${logits.shape}], bias is [${bias.shape}], top ${options.topK}, ${options.groups} groups`,
    );
  }
  if (!hasKernel("Route")) return routeReference(logits, bias, options);
  const [weights, experts] = runOps("Route", { logits, bias }, options) as [tf.Tensor, tf.Tensor];
  return { experts: detached(experts), weights };
}

/** The definition in plain operations. */
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

/** Outputs: weights [N, topK], experts int32 [N, topK]; best first, of equals the first. */
defineOp<RouteOptions>({
  name: "Route",
  saves: ["logits"],
  wasm: ({ logits, bias }, { topK, scoring, normalize, scale, groups, groupsKept }) => {
    const [N, E] = logits.shape;
    const [weights, experts] = [make([N, topK]), make([N, topK], "int32")];
    const addresses = [at(logits), at(bias), at(weights), at(experts)] as const;
    const work = workspace((2 * E + groups) * 4);
    const softmax = scoring === "softmax";
    run(() => cpu().route(...addresses, N, E, topK, softmax, normalize, scale, groups, groupsKept, work));
    return [weights, experts];
  },
  webgpu: ({ logits, bias }, { topK, scoring, normalize, scale, groups, groupsKept }) => {
    const [N, E] = logits.shape;
    if (groups > 32) throw new Error(`route: ${groups} groups, the GPU's kernel takes at most 32`);
    const [weights, chosen] = [allocate([N, topK]), allocate([N, topK], "int32")];
    withScratch([N, E], (choice) => {
      launch({
        name: "route",
        source: routing(scoring, normalize),
        reads: { logits, bias },
        writes: { weights, chosen, choice },
        sizes: { N, E, topK, groups, groupsKept },
        numbers: { scale },
        workgroups: groupsFor(N),
      });
    });
    return [weights, chosen];
  },
  savesOutputs: [false, true],
  gradient: ([dweights], [logits, chosen], options) => ({
    logits: () => runOp("RouteGradient", { dweights, logits, experts: chosen }, options),
    bias: () => tf.zeros([logits.shape[1]!]),
  }),
});

/** dweights: [N, topK], logits: [N, E], experts: int32 [N, topK] -> dlogits [N, E]. */
defineOp<RouteOptions>({
  name: "RouteGradient",
  wasm: ({ dweights, logits, experts }, { topK, scoring, normalize, scale }) => {
    const [N, E] = logits.shape;
    const dlogits = make(logits.shape);
    const addresses = [at(dweights), at(logits), at(experts), at(dlogits)] as const;
    const work = workspace(E * 4);
    const softmax = scoring === "softmax";
    run(() => cpu().routeGradient(...addresses, N, E, topK, softmax, normalize, scale, work));
    return dlogits;
  },
  webgpu: ({ dweights, logits, experts }, { topK, scoring, normalize, scale }) => {
    const [N, E] = logits.shape;
    const dlogits = allocate(logits.shape);
    launch({
      name: "routeGradient",
      source: routingGradient(scoring, normalize),
      reads: { dweights, logits, chosen: experts },
      writes: { dlogits },
      sizes: { N, E, topK },
      numbers: { scale },
      workgroups: groupsFor(N),
    });
    return dlogits;
  },
});

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

// One thread per token. The next best is the best of those behind the last in the order (value down, index up), so that
// nothing must be remembered of what was taken. choice: [N, E], the scores to choose by.
const routing = (scoring: RouteOptions["scoring"], normalize: boolean): string => /* wgsl */ `
  ${scores(scoring)}
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
  fn main(group: u32, thread: u32) {
    let n = group * THREADS + thread;
    if (n >= u.N) { return; }
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

// One thread per token. With s the scores and w = scale * s / sum(s), each chosen score's gradient is
// scale / sum * (dw - sum(dw * s) / sum); without the division it is scale * dw.
const routingGradient = (scoring: RouteOptions["scoring"], normalize: boolean): string => /* wgsl */ `
  ${scores(scoring)}
  fn main(group: u32, thread: u32) {
    let n = group * THREADS + thread;
    if (n >= u.N) { return; }
    let row = prepare(n);
    var sum = 0.0;
    var along = 0.0;
    for (var slot = n * u.topK; slot < (n + 1u) * u.topK; slot++) {
      let s = score(n * u.E + u32(chosen[slot]), row);
      sum += s;
      along += s * dweights[slot];
    }
    ${
      normalize
        ? `let factor = u.scale / (sum + ${SMALLEST}); let shift = along / (sum + ${SMALLEST});`
        : "let factor = u.scale; let shift = 0.0;"
    }
    let pull = factor * (along - shift * sum); // The sum of each score times its gradient.
    for (var e = 0u; e < u.E; e++) {
      dlogits[n * u.E + e] = ${scoring === "softmax" ? "-pull * score(n * u.E + e, row)" : "0.0"};
    }
    for (var slot = n * u.topK; slot < (n + 1u) * u.topK; slot++) {
      let i = n * u.E + u32(chosen[slot]);
      let s = score(i, row);
      dlogits[i] += factor * (dweights[slot] - shift) * s${scoring === "sigmoid" ? " * (1.0 - s)" : ""};
    }
  }
`;
