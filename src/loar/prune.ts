// Structured removal: a new, smaller tree that obeys a plan.

import type { ExpertWeights } from "../engine/ops/mixture.ts";
import type { Matrix } from "../engine/packed.ts";
import * as tf from "../engine/tf.ts";
import type { DeepSeekConfig, LayerSizes, ModelConfig, Qwen2Config } from "../formats/hfConfig.ts";
import type { Attention } from "../models/attention.ts";
import type { Layer, Model } from "../models/decoder.ts";
import { keepAll } from "./budget.ts";
import type { GroupedAttention } from "../models/groupedAttention.ts";
import type { Linear, Mlp } from "../models/layers.ts";
import { plainTensor, type Table } from "../models/storage.ts";
import type { LayerPlan, Plan } from "../protocol/report.ts";

/**
 * A new model that has only what the plan keeps. The old one still owns its weights; the two share none.
 *
 * Adapters are cut along. Kept indices are in the order of the old model; experts keep their relative order.
 */
export function prune(model: Model, plan: Plan): Model {
  if (plan.layers.length !== model.layers.length) {
    throw new Error(`The plan is for ${plan.layers.length} layers, the model has ${model.layers.length}.`);
  }
  const layers = model.layers.map((layer, l) => pruneLayer(layer, plan.layers[l], model.config));
  return {
    ...model,
    embedTokens: copy(model.embedTokens),
    layers,
    norm: { weight: copy(model.norm.weight) },
    lmHead: model.lmHead && copy(model.lmHead),
    mtp: [], // A multi-token prediction layer was trained beside the whole model; it is not needed to run the pruned one.
    rope: { ...model.rope, cos: copy(model.rope.cos), sin: copy(model.rope.sin) },
    config: {
      ...model.config,
      ...(model.config.family === "deepseek" ? { numNextnPredictLayers: 0 } : {}),
      layers: layers.map((layer) => sizesOf(layer, model.config)),
    },
  };
}

function pruneLayer(layer: Layer, plan: LayerPlan, config: ModelConfig): Layer {
  const { selfAttn, mlp } = layer;
  return {
    inputLayernorm: { weight: copy(layer.inputLayernorm.weight) },
    selfAttn:
      selfAttn.kind === "latent"
        ? keepHeads(selfAttn, plan.heads, config as DeepSeekConfig)
        : keepGroups(selfAttn, plan.heads, config as Qwen2Config),
    postAttentionLayernorm: { weight: copy(layer.postAttentionLayernorm.weight) },
    mlp:
      mlp.kind === "dense"
        ? { kind: "dense", ...keepChannels(mlp, plan.channels) }
        : {
            kind: "experts",
            gate: keepRows(mlp.gate, plan.experts),
            eScoreCorrectionBias: take(mlp.eScoreCorrectionBias, plan.experts, 0),
            experts: keepExperts(mlp.experts, plan),
            sharedExperts: mlp.sharedExperts && keepChannels(mlp.sharedExperts, plan.channels),
          },
  };
}

/** Keep only these heads of a latent attention. The latent itself is shared by all heads and stays. */
export function keepHeads(p: Attention, keep: number[], config: DeepSeekConfig): Attention {
  const { qkNopeHeadDim: N, qkRopeHeadDim: P, vHeadDim: V } = config;
  const queryRows = blocks(keep, N + P);
  return {
    kind: "latent",
    query:
      "qProj" in p.query
        ? { qProj: keepRows(p.query.qProj, queryRows) }
        : {
            qAProj: copyLinear(p.query.qAProj),
            qALayernorm: { weight: copy(p.query.qALayernorm.weight) },
            qBProj: keepRows(p.query.qBProj, queryRows),
          },
    kvAProjWithMqa: copyLinear(p.kvAProjWithMqa),
    kvALayernorm: { weight: copy(p.kvALayernorm.weight) },
    kvBProj: keepRows(p.kvBProj, blocks(keep, N + V)),
    oProj: keepColumns(p.oProj, blocks(keep, V)),
  };
}

/** Keep only these key-value groups, each with all of its query heads. */
export function keepGroups(p: GroupedAttention, keep: number[], { headDim }: Qwen2Config): GroupedAttention {
  const queriesPerGroup = p.qProj.weight.shape[0] / p.kProj.weight.shape[0];
  const queryBlocks = blocks(keep, headDim * queriesPerGroup); // Query heads of a group lie side by side.
  return {
    kind: "grouped",
    qProj: keepRows(p.qProj, queryBlocks),
    kProj: keepRows(p.kProj, blocks(keep, headDim)),
    vProj: keepRows(p.vProj, blocks(keep, headDim)),
    oProj: keepColumns(p.oProj, queryBlocks),
  };
}

/** Keep only these channels of a gated network. */
export function keepChannels(p: Mlp, keep: number[]): Mlp {
  return {
    gateProj: keepRows(p.gateProj, keep),
    upProj: keepRows(p.upProj, keep),
    downProj: keepColumns(p.downProj, keep),
  };
}

/** Keep only these experts, and of each only these channels. */
export function keepExperts(p: ExpertWeights, plan: LayerPlan): ExpertWeights {
  const rows = plan.experts.flatMap((e) => plan.expertChannels[e].map((channel) => p.offsets[e] + channel));
  const offsets = [0];
  for (const e of plan.experts) offsets.push(offsets.at(-1) + plan.expertChannels[e].length);
  return { gate: take(p.gate, rows, 0), up: take(p.up, rows, 0), down: take(p.down, rows, 1), offsets };
}

/** Keep only these outputs. */
export function keepRows(p: Linear, rows: number[]): Linear {
  return {
    weight: take(p.weight, rows, 0),
    ...(p.bias ? { bias: take(p.bias, rows, 0) } : {}),
    ...(p.lora ? { lora: { a: copy(p.lora.a), b: take(p.lora.b, rows, 0), scale: p.lora.scale } } : {}),
  };
}

/** Keep only these inputs. */
export function keepColumns(p: Linear, columns: number[]): Linear {
  return {
    weight: take(p.weight, columns, 1),
    ...(p.bias ? { bias: copy(p.bias) } : {}),
    ...(p.lora ? { lora: { a: take(p.lora.a, columns, 1), b: copy(p.lora.b), scale: p.lora.scale } } : {}),
  };
}

function copyLinear(p: Linear): Linear {
  return {
    weight: copy(p.weight),
    ...(p.bias ? { bias: copy(p.bias) } : {}),
    ...(p.lora ? { lora: { a: copy(p.lora.a), b: copy(p.lora.b), scale: p.lora.scale } } : {}),
  };
}

/** A tensor with memory of its own: weights change in place, so a clone that shares memory would change along. */
export function copy(x: Table): tf.Tensor {
  return pruned(x).mul(1);
}

function take(x: Matrix, indices: number[], axis: number): tf.Tensor {
  return tf.tidy(() => tf.gather(pruned(x), tf.tensor1d(indices, "int32"), axis));
}

function pruned(x: Table): tf.Tensor {
  return plainTensor("A weight that is to be pruned", x);
}

/** Rows of unit i are i*size .. (i+1)*size-1. */
function blocks(unitsKept: number[], size: number): number[] {
  return unitsKept.flatMap((unit) => Array.from({ length: size }, (_, i) => unit * size + i));
}

/** A layer's sizes as the config carries them. */
function sizesOf({ selfAttn: p, mlp }: Layer, config: ModelConfig): LayerSizes {
  const attention: LayerSizes =
    p.kind === "latent"
      ? {
          numAttentionHeads: p.oProj.weight.shape[1]! / (config as DeepSeekConfig).vHeadDim,
          numKeyValueHeads: p.oProj.weight.shape[1]! / (config as DeepSeekConfig).vHeadDim,
        }
      : {
          numAttentionHeads: p.qProj.weight.shape[0] / (config as Qwen2Config).headDim,
          numKeyValueHeads: p.kProj.weight.shape[0] / (config as Qwen2Config).headDim,
        };
  if (mlp.kind === "dense") return { ...attention, intermediateSize: mlp.gateProj.weight.shape[0] };
  const { offsets } = mlp.experts;
  return {
    ...attention,
    sharedIntermediateSize: mlp.sharedExperts ? mlp.sharedExperts.gateProj.weight.shape[0] : 0,
    expertIntermediateSizes: offsets.slice(1).map((to, e) => to - offsets[e]),
  };
}

/** A copy with weights of its own, adapters and multi-token prediction layers too. */
export function copyModel(model: Model): Model {
  const layers = model.layers.map((layer) => keepAll(layer, model));
  const copied = prune(model, { layers, removedParameters: 0, removedShare: 0 });
  const mtp = model.mtp.map(({ enorm, hnorm, ehProj, layer, sharedHeadNorm }) => ({
    enorm: { weight: copy(enorm.weight) },
    hnorm: { weight: copy(hnorm.weight) },
    ehProj: copyLinear(ehProj),
    layer: pruneLayer(layer, keepAll(layer, model), model.config),
    sharedHeadNorm: { weight: copy(sharedHeadNorm.weight) },
  }));
  return { ...copied, mtp, config: model.config };
}
