// DeepSeek-V3 (and V2, by its router): the tree of a checkpoint's tensors.

import type { ExpertWeights } from "../engine/ops/mixture.ts";
import * as tf from "../engine/tf.ts";
import { type DeepSeekConfig, isExpertLayer } from "../formats/hfConfig.ts";
import type { Attention } from "./attention.ts";
import type { DenseMlp, Layer, Model, MtpLayer } from "./decoder.ts";
import { type Linear, type Mlp, type Norm, ropeTable } from "./layers.ts";
import type { Moe } from "./moe.ts";
import type { Maker } from "./storage.ts";
import { layerSizes } from "./weights.ts";

/** Build the tree. `make` is asked once for every tensor of the checkpoint, by its name there. The caller owns the tree. */
export function buildDeepSeek(config: DeepSeekConfig, make: Maker, positions: number): Model {
  const { vocabSize, hiddenSize: D, numHiddenLayers: L } = config;
  const model: Model = {
    config,
    embedTokens: make.table("model.embed_tokens.weight", [vocabSize, D]),
    layers: Array.from({ length: L }, (_, i) => buildLayer(config, make, i)),
    norm: norm(make, "model.norm", D),
    lmHead: config.tieWordEmbeddings ? null : make.table("lm_head.weight", [vocabSize, D]),
    mtp: Array.from({ length: config.numNextnPredictLayers }, (_, k) => buildMtp(config, make, L + k)),
    rope: ropeTable(positions, config.qkRopeHeadDim, config.ropeTheta, "interleaved", config.ropeScaling),
  };
  return model;
}

function buildLayer(config: DeepSeekConfig, make: Maker, index: number): Layer {
  const at = `model.layers.${index}`;
  const D = config.hiddenSize;
  return {
    inputLayernorm: norm(make, `${at}.input_layernorm`, D),
    selfAttn: buildAttention(config, make, index),
    postAttentionLayernorm: norm(make, `${at}.post_attention_layernorm`, D),
    mlp: isExpertLayer(config, index)
      ? buildMoe(config, make, index)
      : ({ kind: "dense", ...mlp(make, `${at}.mlp`, D, layerSizes(config, index).intermediate) } satisfies DenseMlp),
  };
}

function buildAttention(config: DeepSeekConfig, make: Maker, index: number): Attention {
  const { hiddenSize: D, qLoraRank, kvLoraRank: R, qkNopeHeadDim: N, qkRopeHeadDim: P, vHeadDim: V } = config;
  const at = `model.layers.${index}.self_attn`;
  const H = layerSizes(config, index).heads;
  return {
    kind: "latent",
    query:
      qLoraRank === null
        ? { qProj: linear(make, `${at}.q_proj`, [H * (N + P), D]) }
        : {
            qAProj: linear(make, `${at}.q_a_proj`, [qLoraRank, D]),
            qALayernorm: norm(make, `${at}.q_a_layernorm`, qLoraRank),
            qBProj: linear(make, `${at}.q_b_proj`, [H * (N + P), qLoraRank]),
          },
    kvAProjWithMqa: linear(make, `${at}.kv_a_proj_with_mqa`, [R + P, D]),
    kvALayernorm: norm(make, `${at}.kv_a_layernorm`, R),
    kvBProj: linear(make, `${at}.kv_b_proj`, [H * (N + V), R]),
    oProj: linear(make, `${at}.o_proj`, [D, H * V]),
  };
}

function buildMoe(config: DeepSeekConfig, make: Maker, index: number): Moe {
  const at = `model.layers.${index}.mlp`;
  const D = config.hiddenSize;
  const sizes = layerSizes(config, index);
  const E = sizes.experts.length;
  const hasBias = config.topkMethod === "noaux_tc";
  return {
    kind: "experts",
    gate: { weight: make.plain(`${at}.gate.weight`, [E, D]) }, // Small, and a choice hangs on it: never packed.
    eScoreCorrectionBias: hasBias ? make.plain(`${at}.gate.e_score_correction_bias`, [E]) : tf.zeros([E]),
    experts: stackExperts(make, `${at}.experts`, D, sizes.experts),
    sharedExperts: sizes.shared > 0 ? mlp(make, `${at}.shared_experts`, D, sizes.shared) : null,
  };
}

/** The checkpoint has one set of matrices per expert; the tree has them one below the other, or `down` side by side. */
function stackExperts(make: Maker, at: string, D: number, widths: number[]): ExpertWeights {
  const offsets = [0];
  for (const width of widths) offsets.push(offsets.at(-1)! + width);
  const stack = (projection: string, shapeOf: (width: number) => [number, number]) => ({
    name: `${at}.${projection}.weight`,
    parts: widths.map((width, e) => ({ name: `${at}.${e}.${projection}.weight`, shape: shapeOf(width) })),
    beside: projection === "down_proj",
  });
  const [gate, up, down] = make.stacks([
    stack("gate_proj", (width) => [width, D]),
    stack("up_proj", (width) => [width, D]),
    stack("down_proj", (width) => [D, width]),
  ]);
  return { gate, up, down, offsets };
}

function buildMtp(config: DeepSeekConfig, make: Maker, index: number): MtpLayer {
  const at = `model.layers.${index}`;
  const D = config.hiddenSize;
  return {
    enorm: norm(make, `${at}.enorm`, D),
    hnorm: norm(make, `${at}.hnorm`, D),
    ehProj: linear(make, `${at}.eh_proj`, [D, 2 * D]),
    layer: buildLayer(config, make, index),
    sharedHeadNorm: norm(make, `${at}.shared_head.norm`, D),
  };
}

function linear(make: Maker, at: string, shape: [number, number]): Linear {
  return { weight: make.matrix(`${at}.weight`, shape) };
}

function norm(make: Maker, at: string, width: number): Norm {
  return { weight: make.plain(`${at}.weight`, [width]) };
}

function mlp(make: Maker, at: string, D: number, F: number): Mlp {
  return {
    gateProj: linear(make, `${at}.gate_proj`, [F, D]),
    upProj: linear(make, `${at}.up_proj`, [F, D]),
    downProj: linear(make, `${at}.down_proj`, [D, F]),
  };
}
