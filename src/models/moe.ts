// DeepSeekMoE (Dai et al., 2024; DeepSeek-V3 section 2.1.2): a shared expert for every token, routed experts for some.

// N tokens, D hidden size, E experts, S the sum of the experts' widths.

import { type ExpertWeights, experts } from "../engine/ops/experts.ts";
import { type RouteOptions, route } from "../engine/ops/route.ts";
import type * as tf from "../engine/tf.ts";
import type { DeepSeekConfig } from "../formats/hfConfig.ts";
import { type Linear, linear, type Mlp, mlp } from "./layers.ts";

export interface Moe {
  kind: "experts";
  gate: Linear; // [E, D]
  /** Added to the scores for the choice only; moved by balancing, not by gradients. Zero where the family has none. */
  eScoreCorrectionBias: tf.Tensor; // [E]
  /** All routed experts one below the other: expert e has rows offsets[e]..offsets[e+1]-1. */
  experts: ExpertWeights;
  /** The shared experts, as one MLP; null if there are none (or all their channels were pruned). */
  sharedExperts: Mlp | null;
}

/** Sees which experts each token was sent to: chosen is int32 [N, topK]. */
export type RouteObserver = (layer: number, chosen: tf.Tensor) => void;

/** x: [B, T, D] -> [B, T, D] */
export function moe(p: Moe, x: tf.Tensor, config: DeepSeekConfig, observe?: (chosen: tf.Tensor) => void): tf.Tensor {
  const flat = x.reshape([-1, x.shape.at(-1)!]); // [N, D]
  const { experts: chosen, weights } = route(linear(p.gate, flat), p.eScoreCorrectionBias, routeOptions(p, config));
  observe?.(chosen);
  const routed = experts(flat, chosen, weights, p.experts);
  const all = p.sharedExperts ? routed.add(mlp(p.sharedExperts, flat)) : routed;
  return all.reshape(x.shape);
}

function routeOptions(p: Moe, config: DeepSeekConfig): RouteOptions {
  const E = p.gate.weight.shape[0];
  return {
    topK: Math.min(config.numExpertsPerTok, E), // A pruned layer may have fewer experts than tokens choose.
    scoring: config.scoringFunc,
    normalize: config.normTopkProb,
    scale: config.routedScalingFactor,
    groups: config.nGroup,
    groupsKept: config.topkGroup,
  };
}
