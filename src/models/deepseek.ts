// DeepSeek-V3 (and V2, by its router): the tree of a checkpoint's tensors.

import type { ExpertWeights } from "../engine/ops/experts.ts";
import * as tf from "../engine/tf.ts";
import { type DeepSeekConfig, isExpertLayer } from "../formats/hfConfig.ts";
import type { Attention } from "./attention.ts";
import type { DenseMlp, Layer, Model, MtpLayer } from "./decoder.ts";
import { type Linear, type Mlp, type Norm, ropeTable } from "./layers.ts";
import type { Moe } from "./moe.ts";
import { layerSizes, type ReadWeight } from "./weights.ts";

/** Build the tree. `read` is asked once for every tensor of the checkpoint, by its name there. The caller owns the tree. */
export function buildDeepSeek(config: DeepSeekConfig, read: ReadWeight, positions: number): Model {
  const { vocabSize, hiddenSize: D, numHiddenLayers: L } = config;
  const model: Model = {
    config,
    embedTokens: tensor(read, "model.embed_tokens.weight", [vocabSize, D]),
    layers: Array.from({ length: L }, (_, i) => buildLayer(config, read, i)),
    norm: norm(read, "model.norm", D),
    lmHead: config.tieWordEmbeddings ? null : tensor(read, "lm_head.weight", [vocabSize, D]),
    mtp: Array.from({ length: config.numNextnPredictLayers }, (_, k) => buildMtp(config, read, L + k)),
    rope: ropeTable(positions, config.qkRopeHeadDim, config.ropeTheta, "interleaved", config.ropeScaling),
  };
  return model;
}

function buildLayer(config: DeepSeekConfig, read: ReadWeight, index: number): Layer {
  const at = `model.layers.${index}`;
  const D = config.hiddenSize;
  return {
    inputLayernorm: norm(read, `${at}.input_layernorm`, D),
    selfAttn: buildAttention(config, read, index),
    postAttentionLayernorm: norm(read, `${at}.post_attention_layernorm`, D),
    mlp: isExpertLayer(config, index)
      ? buildMoe(config, read, index)
      : ({ kind: "dense", ...mlp(read, `${at}.mlp`, D, layerSizes(config, index).intermediate) } satisfies DenseMlp),
  };
}

function buildAttention(config: DeepSeekConfig, read: ReadWeight, index: number): Attention {
  const { hiddenSize: D, qLoraRank, kvLoraRank: R, qkNopeHeadDim: N, qkRopeHeadDim: P, vHeadDim: V } = config;
  const at = `model.layers.${index}.self_attn`;
  const H = layerSizes(config, index).heads;
  return {
    kind: "latent",
    query:
      qLoraRank === null
        ? { qProj: linear(read, `${at}.q_proj`, [H * (N + P), D]) }
        : {
            qAProj: linear(read, `${at}.q_a_proj`, [qLoraRank, D]),
            qALayernorm: norm(read, `${at}.q_a_layernorm`, qLoraRank),
            qBProj: linear(read, `${at}.q_b_proj`, [H * (N + P), qLoraRank]),
          },
    kvAProjWithMqa: linear(read, `${at}.kv_a_proj_with_mqa`, [R + P, D]),
    kvALayernorm: norm(read, `${at}.kv_a_layernorm`, R),
    kvBProj: linear(read, `${at}.kv_b_proj`, [H * (N + V), R]),
    oProj: linear(read, `${at}.o_proj`, [D, H * V]),
  };
}

function buildMoe(config: DeepSeekConfig, read: ReadWeight, index: number): Moe {
  const at = `model.layers.${index}.mlp`;
  const D = config.hiddenSize;
  const sizes = layerSizes(config, index);
  const E = sizes.experts.length;
  const hasBias = config.topkMethod === "noaux_tc";
  return {
    kind: "experts",
    gate: linear(read, `${at}.gate`, [E, D]),
    eScoreCorrectionBias: hasBias ? tensor(read, `${at}.gate.e_score_correction_bias`, [E]) : tf.zeros([E]),
    experts: stackExperts(read, `${at}.experts`, D, sizes.experts),
    sharedExperts: sizes.shared > 0 ? mlp(read, `${at}.shared_experts`, D, sizes.shared) : null,
  };
}

/** The checkpoint has one set of matrices per expert; the tree has them one below the other. */
function stackExperts(read: ReadWeight, at: string, D: number, widths: number[]): ExpertWeights {
  const offsets = [0];
  for (const width of widths) offsets.push(offsets.at(-1) + width);
  const S = offsets.at(-1);
  const gate = new Float32Array(S * D);
  const up = new Float32Array(S * D);
  const down = new Float32Array(D * S);
  widths.forEach((width, e) => {
    gate.set(read(`${at}.${e}.gate_proj.weight`, [width, D]), offsets[e] * D);
    up.set(read(`${at}.${e}.up_proj.weight`, [width, D]), offsets[e] * D);
    const own = read(`${at}.${e}.down_proj.weight`, [D, width]);
    for (let d = 0; d < D; d++) down.set(own.subarray(d * width, (d + 1) * width), d * S + offsets[e]);
  });
  return { gate: tf.tensor2d(gate, [S, D]), up: tf.tensor2d(up, [S, D]), down: tf.tensor2d(down, [D, S]), offsets };
}

function buildMtp(config: DeepSeekConfig, read: ReadWeight, index: number): MtpLayer {
  const at = `model.layers.${index}`;
  const D = config.hiddenSize;
  return {
    enorm: norm(read, `${at}.enorm`, D),
    hnorm: norm(read, `${at}.hnorm`, D),
    ehProj: linear(read, `${at}.eh_proj`, [D, 2 * D]),
    layer: buildLayer(config, read, index),
    sharedHeadNorm: norm(read, `${at}.shared_head.norm`, D),
  };
}

function tensor(read: ReadWeight, name: string, shape: number[]): tf.Tensor {
  return tf.tensor(read(name, shape), shape, "float32");
}

function linear(read: ReadWeight, at: string, shape: [number, number]): Linear {
  return { weight: tensor(read, `${at}.weight`, shape) };
}

function norm(read: ReadWeight, at: string, width: number): Norm {
  return { weight: tensor(read, `${at}.weight`, [width]) };
}

function mlp(read: ReadWeight, at: string, D: number, F: number): Mlp {
  return {
    gateProj: linear(read, `${at}.gate_proj`, [F, D]),
    upProj: linear(read, `${at}.up_proj`, [F, D]),
    downProj: linear(read, `${at}.down_proj`, [D, F]),
  };
}
