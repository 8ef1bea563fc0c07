// DeepSeekMoE (Dai et al., 2024; DeepSeek-V3 section 2.1.2): a shared expert for every token, routed experts for some.

// N tokens, D hidden size, E experts, S the sum of the experts' widths.

import { type ExpertWeights, mixture } from "../engine/ops/mixture.ts";
import type { RouteOptions } from "../engine/ops/route.ts";
import type * as tf from "../engine/tf.ts";
import type { DeepSeekConfig } from "../formats/hfConfig.ts";
import { type Linear, type Mlp, mlp } from "./layers.ts";
import { bareMlp } from "./plainMlp.ts";
import { plainTensor } from "./storage.ts";

export interface Moe {
  kind: "experts";
  gate: Linear; // [E, D]
  /** Added to the scores for the choice only; moved by balancing, not by gradients. Zero where the family has none. */
  eScoreCorrectionBias: tf.Tensor; // [E]
  /** All routed experts one below the other (of `down` side by side): expert e has channels offsets[e]..offsets[e+1]-1. */
  experts: ExpertWeights;
  /** The shared experts, as one MLP; null if there are none (or all their channels were pruned). */
  sharedExperts: Mlp | null;
}

/** Sees which experts each token was sent to: chosen is int32 [N, topK]. */
export type RouteObserver = (layer: number, chosen: tf.Tensor) => void;

/** x: [B, T, D] -> what the experts make of it, [B, T, D]; `residual`: [B, T, D] is added. */
export function moe(
  p: Moe,
  x: tf.Tensor,
  config: DeepSeekConfig,
  observe?: (chosen: tf.Tensor) => void,
  residual?: tf.Tensor,
): tf.Tensor {
  const { sharedExperts } = p;
  const shared = sharedExperts && bareMlp(sharedExperts);
  // With adapters the shared experts are an MLP of their own, to whose output the others are added.
  const before = sharedExperts && !shared ? mlp(sharedExperts, x, residual) : residual;
  const weights = {
    router: plainTensor("The router", p.gate.weight),
    bias: p.eScoreCorrectionBias,
    experts: p.experts,
    shared,
  };
  const { y, chosen } = mixture(asRows(x), weights, routeOptions(p, config), before ? asRows(before) : null);
  observe?.(chosen);
  return y.reshape(x.shape);
}

/** [..., D] -> [N, D] */
function asRows(x: tf.Tensor): tf.Tensor {
  return x.reshape([-1, x.shape.at(-1)!]);
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
