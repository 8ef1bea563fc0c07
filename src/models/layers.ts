// The small parts that both families share: linear maps (with an optional LoRA adapter), norms, the gated MLP, rotary tables.

import { gatedMlp } from "../engine/ops/gatedMlp.ts";
import { linear as linearOp, linears as linearsOp } from "../engine/ops/linear.ts";
import { matmul } from "../engine/ops/matmul.ts";
import { rmsNorm } from "../engine/ops/rmsNorm.ts";
import type { RopeTable, RotaryLayout } from "../engine/ops/rotate.ts";
import { swiGlu } from "../engine/ops/swiGlu.ts";
import { unpackedMatrix } from "../engine/ops/unpack.ts";
import { isPacked, type Matrix } from "../engine/packed.ts";
import * as tf from "../engine/tf.ts";
import type { Yarn } from "../formats/hfConfig.ts";
import { plainMlp } from "./plainMlp.ts";

/** A LoRA adapter (Hu et al., 2021, eq. 3): adds scale * B(A(x)). */
export interface Lora {
  a: tf.Tensor; // [r, in]
  b: tf.Tensor; // [out, r]
  /** alpha / r */
  scale: number;
  /** The scale is alpha / sqrt(r) instead. */
  rsLora?: boolean;
}

export interface Linear {
  weight: Matrix; // [out, in]
  bias?: tf.Tensor; // [out]
  lora?: Lora;
}

export interface Norm {
  weight: tf.Tensor; // [D]
}

export interface Mlp {
  gateProj: Linear; // [F, D]
  upProj: Linear; // [F, D]
  downProj: Linear; // [D, F]
}

/** x: [..., in] -> [..., out]; `residual`: [..., out] is added. */
export function linear(p: Linear, x: tf.Tensor, residual?: tf.Tensor): tf.Tensor {
  const { weight, bias, lora } = p;
  const added = residual && asRows(residual);
  return linearOp(asRows(x), weight, { bias, lora, residual: added }).reshape(outputShape(p, x));
}

/** Several maps of one input: x: [..., in] -> [..., out] for each. */
export function linears(maps: Linear[], x: tf.Tensor): tf.Tensor[] {
  return linearsOp(asRows(x), maps).map((y, i) => y.reshape(outputShape(maps[i], x)));
}

function asRows(x: tf.Tensor): tf.Tensor {
  return x.reshape([-1, x.shape.at(-1)!]);
}

function outputShape({ weight }: Linear, x: tf.Tensor): number[] {
  return [...x.shape.slice(0, -1), weight.shape[0]!];
}

/** The weight that a linear map with its adapter amounts to: [out, in]. A new tensor, float32 whatever the weight is. */
export function mergedWeight({ weight, lora }: Linear): tf.Tensor {
  return tf.tidy(() => {
    const base = isPacked(weight) ? unpackedMatrix(weight) : weight.clone();
    return lora ? base.add(matmul(lora.b, lora.a).mul(lora.scale)) : base;
  });
}

/** x: [..., D] -> [..., D] */
export function norm(p: Norm, x: tf.Tensor, eps: number): tf.Tensor {
  return rmsNorm(x, p.weight, eps);
}

/** x: [..., D] -> [..., D]; `residual`: [..., D] is added. */
export function mlp(p: Mlp, x: tf.Tensor, residual?: tf.Tensor): tf.Tensor {
  const plain = plainMlp(p);
  if (plain) return gatedMlp(asRows(x), plain, residual ? asRows(residual) : null).reshape(x.shape);
  const [gate, up] = linears([p.gateProj, p.upProj], x); // [..., F]
  return linear(p.downProj, swiGlu(gate, up), residual);
}

/**
 * Cosines and sines of every position's angles, for `width` rotary entries: [positions, width/2] each.
 *
 * With YaRN (Peng et al., 2023, eq. 23-25) frequencies are blended by a ramp and cos and sin scaled as the checkpoint asks.
 */
export function ropeTable(
  positions: number,
  width: number,
  theta: number,
  layout: RotaryLayout,
  yarn: Yarn | null,
): RopeTable {
  const half = width / 2;
  const scale = yarn ? yarnAmplitude(yarn) : 1;
  const cos = new Float32Array(positions * half);
  const sin = new Float32Array(positions * half);
  const frequencies = Array.from({ length: half }, (_, i) => frequency(i, width, theta, yarn));
  for (let t = 0; t < positions; t++) {
    for (let i = 0; i < half; i++) {
      // As the reference implementations: the angle is a float32 product of float32 factors.
      const angle = Math.fround(t * frequencies[i]);
      cos[t * half + i] = Math.cos(angle) * scale;
      sin[t * half + i] = Math.sin(angle) * scale;
    }
  }
  return { cos: tf.tensor2d(cos, [positions, half]), sin: tf.tensor2d(sin, [positions, half]), layout };
}

function frequency(i: number, width: number, theta: number, yarn: Yarn | null): number {
  const plain = Math.fround(theta ** ((-2 * i) / width));
  if (!yarn) return plain;
  const correction = (rotations: number) =>
    (width * Math.log(yarn.originalMaxPositionEmbeddings / (rotations * 2 * Math.PI))) / (2 * Math.log(theta));
  let low = correction(yarn.betaFast);
  let high = correction(yarn.betaSlow);
  if (yarn.truncate) [low, high] = [Math.floor(low), Math.ceil(high)];
  low = Math.max(low, 0);
  high = Math.min(high, width - 1);
  if (low === high) high += 0.001;
  const ramp = Math.min(1, Math.max(0, (i - low) / (high - low)));
  return Math.fround((plain / yarn.factor) * ramp + plain * (1 - ramp));
}

/** 0.1 * m * ln(s) + 1: how much attention sharpens when the context grows s-fold. */
export function yarnGain(factor: number, mscale: number): number {
  return factor <= 1 ? 1 : 0.1 * mscale * Math.log(factor) + 1;
}

function yarnAmplitude({ factor, mscale, mscaleAllDim, attentionFactor }: Yarn): number {
  if (mscale && mscaleAllDim) return yarnGain(factor, mscale) / yarnGain(factor, mscaleAllDim);
  return attentionFactor ?? yarnGain(factor, 1);
}
