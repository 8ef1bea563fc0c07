// The router of a mixture of experts: which experts a token goes to, and with what weights.
// DeepSeek-V3 section 2.1.2: sigmoid scores, a bias that only takes part in the choice. V2: softmax, no bias.

import { detached } from "../gradients.ts";
import { defineOp, hasKernel, runOp, runOps } from "../op.ts";
import * as tf from "../tf.ts";
import { at, cpu, make, workspace } from "../wasm/heap.ts";

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
    cpu().route(...addresses, N, E, topK, scoring === "softmax", normalize, scale, groups, groupsKept, work);
    return [weights, experts];
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
    cpu().routeGradient(...addresses, N, E, topK, scoring === "softmax", normalize, scale, workspace(E * 4));
    return dlogits;
  },
});
