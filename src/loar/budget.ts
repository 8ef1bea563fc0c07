// What to remove for a given number of parameters: a plan, as plain data that a person can read.

import type { DeepSeekConfig, Qwen2Config } from "../formats/hfConfig.ts";
import type { Layer, Model } from "../models/decoder.ts";
import { modelSize } from "../models/weights.ts";
import type { LayerPlan, Plan, Scores } from "../protocol/report.ts";
import { headCount } from "./importance.ts";

/** Channels go in blocks of this many, so that what is left fills SIMD lanes and GPU tiles. */
export const CHANNEL_BLOCK = 8;

/** One thing that can be removed. */
interface Option {
  /** Score per parameter: the least is removed first, over all layers and kinds alike. */
  value: number;
  /** Parameters freed, given what is already gone. */
  remove(): number;
}

/**
 * Remove units in the order of their score per parameter until `share` of all parameters is gone.
 *
 * Scores of different layers and kinds are compared as they are: normalising them per layer makes the cut worse. Every
 * layer keeps at least one head, one block of channels in each network, and as many experts as a token is sent to (all
 * of them where the router chooses among groups of experts: the groups have to stay of one size).
 * Throws if the share cannot be reached so.
 */
export function planByBudget(model: Model, scores: Scores, share: number): Plan {
  const layers = model.layers.map((layer) => keepAll(layer, model));
  const total = modelSize(model).total;
  const wanted = Math.round(share * total);
  const options = model.layers.flatMap((layer, l) => optionsOf(layer, layers[l], scores.layers[l], model));
  options.sort((a, b) => a.value - b.value);
  let removed = 0;
  for (const option of options) {
    if (removed >= wanted) break;
    removed += option.remove();
  }
  if (removed < wanted) {
    throw new Error(
      `Removing ${Math.round(share * 100)} % of the parameters was asked for; at most ${Math.floor((100 * removed) / total)} % ` +
        "can go while every layer keeps a head, some channels and enough experts. Ask for less.",
    );
  }
  return { layers, removedParameters: removed, removedShare: removed / total };
}

/** The plan that changes nothing. */
export function keepAll(layer: Layer, model: Model): LayerPlan {
  const { mlp } = layer;
  const dense = mlp.kind === "dense" ? mlp : mlp.sharedExperts;
  const offsets = mlp.kind === "experts" ? mlp.experts.offsets : [0];
  return {
    heads: range(headCount(layer, model)),
    channels: range(dense ? dense.gateProj.weight.shape[0] : 0),
    experts: range(offsets.length - 1),
    expertChannels: offsets.slice(1).map((to, e) => range(to - offsets[e])),
  };
}

function optionsOf(layer: Layer, plan: LayerPlan, scores: Scores["layers"][number], model: Model): Option[] {
  const D = model.config.hiddenSize;
  return [
    ...headOptions(plan, scores.heads, headCost(layer, model)),
    ...channelOptions(plan.channels, scores.channels, 3 * D, (kept) => {
      plan.channels = kept;
    }),
    ...expertOptions(plan, scores, model),
  ];
}

function headOptions(plan: LayerPlan, scores: number[], cost: number): Option[] {
  return plan.heads.map((head) => ({
    value: scores[head] / cost,
    remove: () => {
      if (plan.heads.length === 1) return 0;
      plan.heads = plan.heads.filter((kept) => kept !== head);
      return cost;
    },
  }));
}

/** Parameters that go with a head: its rows of the projections in, its columns of the projection out. */
function headCost({ selfAttn: p }: Layer, { config }: Model): number {
  const D = config.hiddenSize;
  if (p.kind === "grouped") {
    const { headDim } = config as Qwen2Config;
    const queriesPerGroup = p.qProj.weight.shape[0] / p.kProj.weight.shape[0];
    return headDim * (queriesPerGroup * (2 * D + 1) + 2 * (D + 1));
  }
  const { qLoraRank, kvLoraRank: R, qkNopeHeadDim: N, qkRopeHeadDim: P, vHeadDim: V } = config as DeepSeekConfig;
  return (N + P) * (qLoraRank ?? D) + (N + V) * R + V * D;
}

/** The channels of one network in blocks, least important first; the last block stays. */
function channelOptions(kept: number[], scores: number[], cost: number, keep: (kept: number[]) => void): Option[] {
  const order = kept.toSorted((a, b) => scores[a] - scores[b]);
  const blocks = Math.ceil(order.length / CHANNEL_BLOCK) - 1;
  let left = kept;
  return Array.from({ length: Math.max(0, blocks) }, (_, b) => {
    // What does not fill a block goes with the first, so that what is left is a multiple of it.
    const odd = order.length % CHANNEL_BLOCK;
    const first = b === 0 ? 0 : b * CHANNEL_BLOCK - (odd === 0 ? 0 : CHANNEL_BLOCK - odd);
    const last = (b + 1) * CHANNEL_BLOCK - (odd === 0 ? 0 : CHANNEL_BLOCK - odd);
    const block = order.slice(first, last);
    return {
      value: block.reduce((total, channel) => total + scores[channel], 0) / (block.length * cost),
      remove: () => {
        const gone = new Set(block);
        left = left.filter((channel) => !gone.has(channel));
        keep(left);
        return block.length * cost;
      },
    };
  });
}

function expertOptions(plan: LayerPlan, scores: Scores["layers"][number], model: Model): Option[] {
  const { hiddenSize: D, numExpertsPerTok, nGroup, topkMethod } = model.config as DeepSeekConfig;
  const cost = 3 * D;
  const routerCost = D + (topkMethod === "noaux_tc" ? 1 : 0); // A row of the router, and its bias where there is one.
  const fewest = nGroup > 1 ? plan.experts.length : numExpertsPerTok;
  return plan.experts.flatMap((expert) => {
    const all = plan.expertChannels[expert];
    let gone = false;
    const blocks = channelOptions(all, scores.expertChannels[expert], cost, (kept) => {
      plan.expertChannels[expert] = kept;
    });
    const whole: Option = {
      value: scores.experts[expert] / (all.length * cost + routerCost),
      remove: () => {
        if (gone || plan.experts.length <= fewest) return 0;
        gone = true;
        plan.experts = plan.experts.filter((kept) => kept !== expert);
        const freed = plan.expertChannels[expert].length * cost + routerCost;
        plan.expertChannels[expert] = [];
        return freed;
      },
    };
    return [whole, ...blocks.map((block) => ({ ...block, remove: () => (gone ? 0 : block.remove()) }))];
  });
}

function range(count: number): number[] {
  return Array.from({ length: count }, (_, i) => i);
}
