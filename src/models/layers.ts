// The small parts that both families share: linear maps (with an optional LoRA adapter), norms, the gated MLP, rotary tables.

import { constantTensor } from "../engine/constants.ts";
import { matmul } from "../engine/ops/matmul.ts";
import { rmsNorm } from "../engine/ops/rmsNorm.ts";
import type { RopeTable, RotaryLayout } from "../engine/ops/rotate.ts";
import { swiGlu } from "../engine/ops/swiGlu.ts";
import { takeRows } from "../engine/ops/takeRows.ts";
import { isPacked, type Matrix } from "../engine/packed.ts";
import * as tf from "../engine/tf.ts";
import type { Yarn } from "../formats/hfConfig.ts";
import { plainTensor } from "./storage.ts";

/** A LoRA adapter (Hu et al., 2021, eq. 3): adds scale * B(A(x)). */
export interface Lora {
  a: tf.Tensor; // [r, in]
  b: tf.Tensor; // [out, r]
  /** alpha / r */
  scale: number;
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
  const [out, width] = p.weight.shape as [number, number];
  const flat = x.reshape([-1, width]); // [N, in]
  let y = matmul(flat, plainTensor("weight", p.weight), false, true); // [N, out]
  if (p.bias) y = y.add(p.bias);
  if (p.lora) y = y.add(matmul(matmul(flat, p.lora.a, false, true).mul(p.lora.scale), p.lora.b, false, true));
  const shaped = y.reshape([...x.shape.slice(0, -1), out]);
  return residual ? shaped.add(residual) : shaped;
}

/** Several maps of one input: x: [..., in] -> [..., out] for each. */
export function linears(maps: Linear[], x: tf.Tensor): tf.Tensor[] {
  return maps.map((p) => linear(p, x));
}

/** The weight that a linear map with its adapter amounts to: [out, in]. A new tensor, float32 whatever the weight is. */
export function mergedWeight(p: Linear): tf.Tensor {
  return tf.tidy(() => {
    const weight = asTensor(p.weight);
    return p.lora ? weight.add(matmul(p.lora.b, p.lora.a).mul(p.lora.scale)) : weight;
  });
}

/** A new tensor of a matrix's values. */
function asTensor(matrix: Matrix): tf.Tensor {
  if (!isPacked(matrix)) return matrix.clone();
  const rows = constantTensor(
    Array.from({ length: matrix.shape[0] }, (_, i) => i),
    [matrix.shape[0]],
    "int32",
  );
  return takeRows(matrix as unknown as tf.Tensor, rows);
}

/** x: [..., D] -> [..., D] */
export function norm(p: Norm, x: tf.Tensor, eps: number): tf.Tensor {
  return rmsNorm(x, p.weight, eps);
}

/** x: [..., D] -> [..., D]; `residual`: [..., D] is added. */
export function mlp(p: Mlp, x: tf.Tensor, residual?: tf.Tensor): tf.Tensor {
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
