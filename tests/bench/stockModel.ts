// DeepSeek-V3 in TensorFlow.js's own operations, as one would write it without an engine of ours: on the same tree, from the
// same weights. What our operations say they compute (their definitions) is reused where it is that anyway.

// B batch, T tokens, D hidden size, H heads, R latent width, N and P the plain and rotary parts of a query or key head, V the
// width of a value head, S tokens seen so far.

import { type ExpertWeights, expertsReference } from "../../src/engine/ops/mixture.ts";
import { rmsNormReference } from "../../src/engine/ops/rmsNorm.ts";
import { rotateReference } from "../../src/engine/ops/rotate.ts";
import { routeReference } from "../../src/engine/ops/route.ts";
import * as tf from "../../src/engine/tf.ts";
import type { DeepSeekConfig } from "../../src/formats/hfConfig.ts";
import type { Attention } from "../../src/models/attention.ts";
import type { Layer, Model } from "../../src/models/decoder.ts";
import type { Linear, Mlp } from "../../src/models/layers.ts";
import type { Moe } from "../../src/models/moe.ts";

const INNER_EPS = 1e-6; // Of the norms inside the attention.

/** Per layer, what decoding remembers: latents and rotary keys [B, S, R+P]. */
export type StockCache = tf.Tensor3D[];

/**
 * Hidden states after the final norm, [B, T, D], of tokens that stand at positions `from` on; and the cache with them.
 *
 * Without a cache, and with one in its first call, keys and values are expanded from the latents; later calls take one token
 * per row and stay in the latents' space.
 */
export function stockHiddenStates(
  model: Model,
  ids: tf.Tensor2D,
  from = 0,
  cache: StockCache | null = null,
): { hidden: tf.Tensor3D; cache: StockCache } {
  const config = model.config as DeepSeekConfig;
  const [B, T] = ids.shape;
  const positions = tf
    .range(from, from + T, 1, "int32")
    .expandDims(0)
    .tile([B, 1]);
  let x = tf.gather(model.embedTokens as tf.Tensor, ids) as tf.Tensor3D; // [B, T, D]
  const grown = model.layers.map((layer, i) => {
    const place = { model, config, positions, seen: cache?.[i] ?? null };
    const normed = rmsNormReference(x, layer.inputLayernorm.weight, config.rmsNormEps) as tf.Tensor3D;
    const { attended, entries } = attention(layer.selfAttn as Attention, normed, place);
    const middle = x.add(attended);
    x = middle.add(
      feedForward(layer, rmsNormReference(middle, layer.postAttentionLayernorm.weight, config.rmsNormEps), config),
    );
    return entries;
  });
  return { hidden: rmsNormReference(x, model.norm.weight, config.rmsNormEps) as tf.Tensor3D, cache: grown };
}

/** hidden: [M, D] -> [M, vocabulary] */
export function stockLogits(model: Model, hidden: tf.Tensor): tf.Tensor2D {
  return times(hidden, (model.lmHead ?? model.embedTokens) as tf.Tensor);
}

interface Place {
  model: Model;
  config: DeepSeekConfig;
  positions: tf.Tensor; // int32 [B, T]
  seen: tf.Tensor3D | null; // [B, S, R+P]
}

function attention(p: Attention, x: tf.Tensor3D, { model, config, positions, seen }: Place) {
  const { numAttentionHeads: H, kvLoraRank: R, qkNopeHeadDim: N, qkRopeHeadDim: P, vHeadDim: V } = config;
  const [B, T] = x.shape;
  const q = rotateReference(queries(p, x).reshape([B, T, H, N + P]), positions, model.rope);
  const [compressed, rotary] = tf.split(linear(p.kvAProjWithMqa, x), [R, P], -1);
  const latent = rmsNormReference(compressed, p.kvALayernorm.weight, INNER_EPS); // [B, T, R]
  const shared = rotateReference(rotary.reshape([B, T, 1, P]), positions, model.rope); // [B, T, 1, P]
  const own = tf.concat([latent, shared.reshape([B, T, P])], -1) as tf.Tensor3D;
  const entries = seen ? tf.concat([seen, own], 1) : own;
  const scale = 1 / Math.sqrt(N + P);
  const heads = seen ? absorbed(p, q as tf.Tensor4D, entries, config, scale) : expanded();
  return { attended: linear(p.oProj, heads.reshape([B, T, H * V])), entries };

  function expanded(): tf.Tensor {
    const [plain, value] = tf.split(linear(p.kvBProj, latent).reshape([B, T, H, N + V]), [N, V], -1);
    const key = tf.concat([plain, shared.tile([1, 1, H, 1])], -1);
    const logits = tf.matMul(byHead(q), byHead(key), false, true).mul(scale); // [B, H, T, T]
    const future = tf.linalg
      .bandPart(tf.ones([T, T]), -1, 0)
      .sub(1)
      .mul(1e9);
    return tf.matMul(tf.softmax(logits.add(future)), byHead(value)).transpose([0, 2, 1, 3]);
  }
}

/** q: [B, 1, H, N+P], entries: [B, S, R+P] -> [B, H, V] */
function absorbed(
  p: Attention,
  q: tf.Tensor4D,
  entries: tf.Tensor3D,
  config: DeepSeekConfig,
  scale: number,
): tf.Tensor {
  const { kvLoraRank: R, qkNopeHeadDim: N, qkRopeHeadDim: P, vHeadDim: V } = config;
  const [B, , H] = q.shape;
  const [keyUp, valueUp] = tf.split((p.kvBProj.weight as tf.Tensor).reshape([H, N + V, R]), [N, V], 1); // [H, N or V, R]
  const [plain, rotary] = tf.split(q.reshape([B, H, N + P]), [N, P], -1);
  const inLatent = tf.matMul(plain.transpose([1, 0, 2]), keyUp).transpose([1, 0, 2]); // [B, H, R]
  const logits = tf.matMul(tf.concat([inLatent, rotary], -1), entries, false, true).mul(scale); // [B, H, S]
  const collected = tf.matMul(tf.softmax(logits), entries.slice([0, 0, 0], [-1, -1, R])); // [B, H, R]
  return tf.matMul(collected.transpose([1, 0, 2]), valueUp, false, true).transpose([1, 0, 2]);
}

function queries(p: Attention, x: tf.Tensor): tf.Tensor {
  if ("qProj" in p.query) return linear(p.query.qProj, x);
  const { qAProj, qALayernorm, qBProj } = p.query;
  return linear(qBProj, rmsNormReference(linear(qAProj, x), qALayernorm.weight, INNER_EPS));
}

function feedForward({ mlp: p }: Layer, x: tf.Tensor, config: DeepSeekConfig): tf.Tensor {
  return p.kind === "dense" ? mlp(p, x) : mixture(p, x, config);
}

function mixture(p: Moe, x: tf.Tensor, config: DeepSeekConfig): tf.Tensor {
  const flat = x.reshape([-1, x.shape.at(-1)!]);
  const { experts, weights } = routeReference(linear(p.gate, flat), p.eScoreCorrectionBias, {
    topK: config.numExpertsPerTok,
    scoring: config.scoringFunc,
    normalize: config.normTopkProb,
    scale: config.routedScalingFactor,
    groups: config.nGroup,
    groupsKept: config.topkGroup,
  });
  const routed = routedExperts(p, flat, experts, weights);
  return (p.sharedExperts ? routed.add(mlp(p.sharedExperts, flat)) : routed).reshape(x.shape);
}

/** Every expert sees every token, in the form that is faster on the backend. x: [M, D], chosen, weights: [M, topK] */
function routedExperts({ experts }: Moe, x: tf.Tensor, chosen: tf.Tensor, weights: tf.Tensor): tf.Tensor {
  const run = tf.getBackend() === "wasm" ? expertsReference : wideExperts;
  return run(x, chosen, weights, experts);
}

/** One wide MLP whose channels carry the router's weights, zero for the experts that were not chosen: three products. */
function wideExperts(
  x: tf.Tensor,
  chosen: tf.Tensor,
  weights: tf.Tensor,
  { gate, up, down, offsets }: ExpertWeights,
): tf.Tensor {
  const [M, S] = [x.shape[0], gate.shape[0]];
  const E = offsets.length - 1;
  const shares = tf
    .oneHot(chosen as tf.Tensor2D, E)
    .mul(weights.expandDims(2))
    .sum(1); // [M, E]
  const perChannel = shares
    .expandDims(2)
    .tile([1, 1, S / E])
    .reshape([M, S]);
  const act = gated(times(x, gate as tf.Tensor), times(x, up as tf.Tensor)).mul(perChannel);
  return times(act, down as tf.Tensor);
}

function mlp(p: Mlp, x: tf.Tensor): tf.Tensor {
  return linear(p.downProj, gated(linear(p.gateProj, x), linear(p.upProj, x)));
}

/** SwiGLU (Shazeer, 2020): silu(gate) * up. */
function gated(gate: tf.Tensor, up: tf.Tensor): tf.Tensor {
  return gate.mul(gate.sigmoid()).mul(up);
}

function linear({ weight, lora }: Linear, x: tf.Tensor): tf.Tensor {
  const [out, width] = weight.shape as [number, number];
  const flat = x.reshape([-1, width]);
  const y = times(flat, weight as tf.Tensor);
  const adapted = lora ? y.add(times(times(flat, lora.a), lora.b).mul(lora.scale)) : y;
  return adapted.reshape([...x.shape.slice(0, -1), out]);
}

/** x: [M, in], weight: [out, in] -> [M, out] */
function times(x: tf.Tensor, weight: tf.Tensor): tf.Tensor2D {
  return tf.matMul(x as tf.Tensor2D, weight as tf.Tensor2D, false, true);
}

/** [B, T, H, width] -> [B, H, T, width] */
function byHead(x: tf.Tensor): tf.Tensor4D {
  return x.transpose([0, 2, 1, 3]) as tf.Tensor4D;
}
