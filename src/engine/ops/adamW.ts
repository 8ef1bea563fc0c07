// AdamW (Loshchilov & Hutter, 2019, algorithm 2; bias-corrected, as PyTorch computes it), in place.

import { allocate, groupsFor, launch, THREADS } from "../launch.ts";
import { hasKernel, runOp, defineOp } from "../op.ts";
import * as tf from "../tf.ts";
import { at, cpu, make } from "../wasm/heap.ts";
import { sumOverLanes, total, withScratch } from "../wgsl.ts";

export interface AdamWSettings {
  learningRate: number;
  beta1: number;
  beta2: number;
  eps: number;
  weightDecay: number;
  /** Number of this update, from 1. */
  step: number;
  /** Gradients are scaled down so that the norm over all of them is at most this; 0 leaves them alone. */
  clipNorm: number;
}

/** First and second moment of one parameter, owned by the optimizer. */
export interface Moments {
  m: tf.Tensor;
  v: tf.Tensor;
}

/**
 * The squared L2 norm over all gradients, as a scalar tensor: it never visits the processor on its way to the update.
 */
export function squaredNorm(gradients: tf.Tensor[]): tf.Scalar {
  return tf.tidy(() => {
    const parts = gradients.map((g) => (hasKernel("SquaredSum") ? runOp("SquaredSum", { x: g }) : g.square().sum()));
    return (parts.length === 1 ? parts[0] : tf.stack(parts.map((p) => p.reshape([]))).sum()) as tf.Scalar;
  });
}

/**
 * Update `parameter` and its moments in place. `squaredNorm` is that of all gradients of the step.
 *
 * The tensors keep their identity; their contents change. PyTorch's order: decay the weight, then move it.
 */
export function adamW(
  parameter: tf.Tensor,
  gradient: tf.Tensor,
  { m, v }: Moments,
  squaredNorm: tf.Scalar,
  settings: AdamWSettings,
): void {
  if (parameter.size !== gradient.size || m.size !== parameter.size || v.size !== parameter.size) {
    throw new Error(
      `adamW: parameter is [${parameter.shape}], gradient [${gradient.shape}], moments [${m.shape}], [${v.shape}]`,
    );
  }
  if (hasKernel("AdamW")) {
    runOp("AdamW", { parameter, gradient, m, v, squaredNorm }, settings).dispose();
    return;
  }
  const norm = Math.sqrt(squaredNorm.dataSync()[0]);
  adamWReference(
    parameter.dataSync() as Float32Array, // On the cpu backend these are the tensors' own memory.
    gradient.dataSync() as Float32Array,
    m.dataSync() as Float32Array,
    v.dataSync() as Float32Array,
    norm,
    settings,
  );
}

/** The definition, on plain arrays, in place. */
export function adamWReference(
  parameter: Float32Array,
  gradient: Float32Array,
  m: Float32Array,
  v: Float32Array,
  norm: number,
  { learningRate, beta1, beta2, eps, weightDecay, step, clipNorm }: AdamWSettings,
): void {
  const clip = clipNorm > 0 && norm > clipNorm ? clipNorm / norm : 1;
  const bias1 = 1 - beta1 ** step;
  const bias2 = 1 - beta2 ** step;
  for (let i = 0; i < parameter.length; i++) {
    const g = gradient[i] * clip;
    m[i] = beta1 * m[i] + (1 - beta1) * g;
    v[i] = beta2 * v[i] + (1 - beta2) * g * g;
    const decayed = parameter[i] * (1 - learningRate * weightDecay);
    parameter[i] = decayed - (learningRate * (m[i] / bias1)) / (Math.sqrt(v[i] / bias2) + eps);
  }
}

/** In place; the output is one unused element: TensorFlow.js wants one. */
defineOp<AdamWSettings>({
  name: "AdamW",
  wasm: ({ parameter, gradient, m, v, squaredNorm }, settings) => {
    const { learningRate, beta1, beta2, eps, weightDecay, step, clipNorm } = settings;
    const addresses = [at(parameter), at(gradient), at(m), at(v), at(squaredNorm)] as const;
    const moments = [beta1, beta2, 1 - beta1, 1 - beta2, eps] as const;
    const keep = 1 - learningRate * weightDecay;
    const stepSize = learningRate / (1 - beta1 ** step);
    const size = tf.util.sizeFromShape(parameter.shape);
    cpu().adamW(...addresses, size, clipNorm, ...moments, keep, stepSize, 1 / (1 - beta2 ** step));
    return make([1]);
  },
  webgpu: ({ parameter, gradient, m, v, squaredNorm }, settings) => {
    const { learningRate, beta1, beta2, eps, weightDecay, step, clipNorm } = settings;
    const size = tf.util.sizeFromShape(parameter.shape);
    const kept = { keep: 1 - learningRate * weightDecay, keepM: beta1, keepV: beta2 };
    // 1 - beta is computed here: near 1 it would lose its digits in float32.
    const taken = { takeM: 1 - beta1, takeV: 1 - beta2, clipNorm, eps };
    const bias = { stepSize: learningRate / (1 - beta1 ** step), vScale: 1 / (1 - beta2 ** step) };
    launch({
      name: "adamW",
      source: UPDATE,
      reads: { gradient, squaredNorm },
      writes: { parameter, m, v },
      sizes: { size },
      numbers: { ...kept, ...taken, ...bias },
      workgroups: groupsFor(size),
    });
    return allocate([1]);
  },
});

/** x -> [] */
defineOp({
  name: "SquaredSum",
  wasm: ({ x }) => {
    const y = make([]);
    cpu().squaredSum(at(x), at(y), tf.util.sizeFromShape(x.shape));
    return y;
  },
  webgpu: ({ x }) => {
    const y = allocate([]);
    const size = tf.util.sizeFromShape(x.shape);
    const parts = Math.ceil(size / (THREADS * SQUARES));
    const sizes = { size, parts };
    const addTo = (partial: tf.TensorInfo): void =>
      launch({ name: "squaredSum", source: SQUARED_SUM, reads: { x }, writes: { partial }, sizes, workgroups: parts });
    if (parts === 1) addTo(y);
    else {
      withScratch([parts], (partial) => {
        addTo(partial);
        total(partial, y, parts);
      });
    }
    return y;
  },
});

const UPDATE = /* wgsl */ `
  fn main(group: u32, thread: u32) {
    let i = group * THREADS + thread;
    if (i >= u.size) { return; }
    let norm = sqrt(squaredNorm[0]);
    let g = gradient[i] * select(1.0, u.clipNorm / norm, u.clipNorm > 0.0 && norm > u.clipNorm);
    let mean = u.keepM * m[i] + u.takeM * g;
    let square = u.keepV * v[i] + u.takeV * g * g;
    m[i] = mean;
    v[i] = square;
    parameter[i] = parameter[i] * u.keep - u.stepSize * mean / (sqrt(square * u.vScale) + u.eps);
  }
`;

const SQUARES = 64; // Per thread.

const SQUARED_SUM = /* wgsl */ `
  ${sumOverLanes(THREADS)}
  fn main(group: u32, thread: u32) {
    let start = min(group, u.parts - 1u) * THREADS * ${SQUARES}u + thread;
    var own = 0.0;
    for (var j = 0u; j < ${SQUARES}u; j++) {
      let i = start + j * THREADS;
      if (i < u.size) { own += x[i] * x[i]; }
    }
    let sum = sumOverLanes(own, thread);
    if (group < u.parts && thread == 0u) { partial[group] = sum; }
  }
`;
