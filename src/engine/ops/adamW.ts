// AdamW (Loshchilov & Hutter, 2019, algorithm 2; bias-corrected, as PyTorch computes it), in place, over all parameters
// of a step at once.

import { gpuBackend } from "../device.ts";
import { launch, THREADS } from "../launch.ts";
import * as tf from "../tf.ts";
import { at, cpu, endOfOperation, run, workspace } from "../wasm/heap.ts";
import { sumOverLanes, withScratch } from "../wgsl.ts";

export interface AdamWSettings {
  beta1: number;
  beta2: number;
  eps: number;
  weightDecay: number;
  /** Gradients are scaled down so that the norm over all of them is at most this; 0 leaves them alone. */
  clipNorm: number;
}

/** Parameters, of which each is moved by its gradient and its first and second moment. */
export interface AdamWState {
  parameters: tf.Tensor[];
  /** Whether weight decay applies. */
  decays: boolean[];
  m: tf.Tensor[];
  v: tf.Tensor[];
  /** On WebGPU they lie side by side, so that one launch does for all (for as many as a binding holds). */
  packs: Pack[];
}

interface Pack {
  /** Which parameters. */
  members: number[];
  /** First element of each member. */
  starts: number[];
  parameters: tf.Tensor;
  gradients: tf.Tensor;
  m: tf.Tensor;
  v: tf.Tensor;
}

/** Moments of zero for these parameters, which stay the caller's: on WebGPU their content moves to another buffer. */
export function adamWState(parameters: tf.Tensor[], decays: boolean[]): AdamWState {
  const [m, v] = [0, 1].map(() => parameters.map(({ shape }) => tf.zeros(shape))) as [tf.Tensor[], tf.Tensor[]];
  const packs = tf.getBackend() === "webgpu" ? members(parameters).map((own) => pack(own, parameters, m, v)) : [];
  return { parameters, decays, m, v, packs };
}

export function disposeAdamWState({ m, v, packs }: AdamWState): void {
  tf.dispose([m, v, packs.map((own) => [own.parameters, own.gradients, own.m, own.v])]);
}

/** What changes from one update to the next, as `adamW` wants it: float32 [3]. `step` counts updates, from 1. */
export function adamWRates(learningRate: number, step: number, settings: AdamWSettings): Float32Array {
  const { beta1, beta2, weightDecay } = settings;
  return Float32Array.of(learningRate / (1 - beta1 ** step), 1 / (1 - beta2 ** step), 1 - learningRate * weightDecay);
}

/**
 * Update parameters and moments in place; where a gradient is null they stay as they are. rates: float32 [3], of
 * adamWRates. PyTorch's order: decay the weight, then move it. Gradients whose norm is no number move nothing.
 */
export function adamW(
  state: AdamWState,
  gradients: (tf.Tensor | null)[],
  rates: tf.Tensor,
  settings: AdamWSettings,
): void {
  state.parameters.forEach(({ shape }, i) => {
    const gradient = gradients[i];
    if (gradient && !tf.util.arraysEqual(shape, gradient.shape)) {
      throw new Error(`adamW: parameter ${i} is [${shape}], its gradient [${gradient.shape}]`);
    }
  });
  switch (tf.getBackend()) {
    case "webgpu":
      return onGpu(state, gradients, rates, settings);
    case "wasm":
      return onWasm(state, gradients, rates, settings);
    default:
      return adamWReference(
        state.parameters.map(valuesOf),
        gradients.map((gradient) => gradient && valuesOf(gradient)),
        state.m.map(valuesOf),
        state.v.map(valuesOf),
        state.decays,
        valuesOf(rates),
        settings,
      );
  }
}

/** On the cpu backend this is the tensor's own memory. */
function valuesOf(tensor: tf.Tensor): Float32Array {
  return tensor.dataSync() as Float32Array;
}

/** The definition, on plain arrays, in place. */
export function adamWReference(
  parameters: Float32Array[],
  gradients: (Float32Array | null)[],
  m: Float32Array[],
  v: Float32Array[],
  decays: boolean[],
  [stepSize, vScale, keep]: Float32Array,
  { beta1, beta2, eps, clipNorm }: AdamWSettings,
): void {
  let squares = 0;
  for (const gradient of gradients) for (const g of gradient ?? []) squares += g * g;
  const norm = Math.sqrt(squares);
  if (!Number.isFinite(norm)) return;
  const clip = clipNorm > 0 && norm > clipNorm ? clipNorm / norm : 1;
  gradients.forEach((gradient, p) => {
    gradient?.forEach((value, i) => {
      const g = value * clip;
      m[p][i] = beta1 * m[p][i] + (1 - beta1) * g;
      v[p][i] = beta2 * v[p][i] + (1 - beta2) * g * g;
      const decayed = parameters[p][i] * (decays[p] ? keep : 1);
      parameters[p][i] = decayed - (stepSize * m[p][i]) / (Math.sqrt(v[p][i] * vScale) + eps);
    });
  });
}

function onWasm(
  { parameters, decays, m, v }: AdamWState,
  gradients: (tf.Tensor | null)[],
  rates: tf.Tensor,
  { beta1, beta2, eps, clipNorm }: AdamWSettings,
): void {
  const count = gradients.length;
  const parts = cpu().squaredSumBytes(Math.max(0, ...parameters.map(({ size }) => size)));
  const work = workspace(parts + 4 * (count + 1));
  const squares = work + parts;
  const norm = squares + 4 * count;
  const rate = at(rates);
  const works = parameters.flatMap((parameter, i) => {
    const gradient = gradients[i];
    if (!gradient) return [];
    const addresses = [at(parameter), at(gradient), at(m[i]), at(v[i])] as const;
    return [{ addresses, gradient: at(gradient), size: parameter.size, decays: decays[i] }];
  });
  run(() => {
    works.forEach(({ gradient, size }, i) => cpu().squaredSum(gradient, squares + 4 * i, size, work));
    cpu().columnSums(squares, norm, works.length, 1);
    for (const { addresses, size, decays: decayed } of works) {
      cpu().adamW(...addresses, norm, rate, size, clipNorm, beta1, beta2, 1 - beta1, 1 - beta2, eps, decayed);
    }
  });
  endOfOperation();
}

/** Parameters in groups that a binding holds. */
function members(parameters: tf.Tensor[]): number[][] {
  const most = gpuBackend().device.limits.maxStorageBufferBindingSize;
  const groups: number[][] = [];
  let bytes = Infinity;
  parameters.forEach(({ size }, i) => {
    bytes += 4 * BLOCK * Math.ceil(size / BLOCK);
    if (bytes > most) {
      groups.push([]);
      bytes = 4 * BLOCK * Math.ceil(size / BLOCK);
    }
    groups.at(-1)!.push(i);
  });
  return groups;
}

function pack(own: number[], parameters: tf.Tensor[], m: tf.Tensor[], v: tf.Tensor[]): Pack {
  const together = (tensors: tf.Tensor[]) => {
    const { whole, starts } = gpuBackend().inOneBuffer(own.map((i) => tensors[i]));
    return { whole: tf.keep(tf.engine().makeTensorFromTensorInfo(whole)), starts };
  };
  const { whole, starts } = together(parameters);
  const [first, second] = [together(m).whole, together(v).whole];
  const gradients = tf.keep(tf.zeros(whole.shape));
  return { members: own, starts, parameters: whole, gradients, m: first, v: second };
}

const BLOCK = 64; // Elements: a pack's members begin at multiples of it.
const PARTS = 64; // Of the squared norm, per pack.

function onGpu(
  { parameters, decays, packs }: AdamWState,
  gradients: (tf.Tensor | null)[],
  rates: tf.Tensor,
  { beta1, beta2, eps, clipNorm }: AdamWSettings,
): void {
  withScratch([packs.length * PARTS], (squares) => {
    const all = packs.map((own, nth) => {
      gather(own, gradients);
      const flags = flagsOf(own, parameters, gradients, decays);
      const blocks = flags.size;
      const sizes = { blocks, perPart: Math.ceil(blocks / PARTS), start: nth * PARTS };
      launch({
        name: "squaredNorm",
        source: SQUARES,
        reads: { gradients: own.gradients, flags },
        writes: { squares },
        vectors: ["gradients"],
        sizes,
        workgroups: PARTS,
      });
      return { own, flags, blocks };
    });
    for (const { own, flags, blocks } of all) {
      launch({
        name: "adamW",
        source: UPDATE,
        reads: { gradients: own.gradients, flags, squares, rates },
        writes: { parameters: own.parameters, m: own.m, v: own.v },
        vectors: ["gradients", "squares", "parameters", "m", "v"],
        sizes: { blocks, parts: packs.length * PARTS },
        // 1 - beta is computed here: near 1 it would lose its digits in float32.
        numbers: { keepM: beta1, takeM: 1 - beta1, keepV: beta2, takeV: 1 - beta2, clipNorm, eps },
        workgroups: Math.ceil(blocks / BLOCKS),
      });
      flags.dispose();
    }
  });
}

/** Bring the gradients into the pack; in a recording they are computed there to begin with. */
function gather({ members: own, starts, gradients: whole }: Pack, gradients: (tf.Tensor | null)[]): void {
  const backend = gpuBackend();
  own.forEach((p, nth) => {
    const gradient = gradients[p];
    if (!gradient || (backend.noted && backend.place(gradient, whole, starts[nth]))) return;
    launch({
      name: "gatherGradient",
      source: COPY,
      reads: { gradient },
      writes: { whole },
      sizes: { start: starts[nth], size: gradient.size },
      workgroups: Math.ceil(gradient.size / THREADS),
    });
  });
}

/** For each block of a pack: 0 left alone, 1 updated, 2 updated and decayed. */
function flagsOf(
  { members: own, starts, gradients: whole }: Pack,
  parameters: tf.Tensor[],
  gradients: (tf.Tensor | null)[],
  decays: boolean[],
): tf.Tensor {
  const flags = new Int32Array(whole.size / BLOCK);
  own.forEach((p, nth) => {
    const first = starts[nth] / BLOCK;
    const flag = gradients[p] ? (decays[p] ? 2 : 1) : 0;
    flags.fill(flag, first, first + Math.ceil(parameters[p].size / BLOCK));
  });
  return tf.tensor1d(flags, "int32");
}

const COPY = /* wgsl */ `
  fn main(group: u32, thread: u32) {
    let i = group * THREADS + thread;
    if (i < u.size) { whole[u.start + i] = gradient[i]; }
  }
`;

const VECTORS = BLOCK / 4; // Of a block.

const SQUARES = /* wgsl */ `
  ${sumOverLanes(THREADS)}
  fn main(group: u32, thread: u32) {
    let first = group * u.perPart;
    let end = min(first + u.perPart, u.blocks) * ${VECTORS}u;
    var own = 0.0;
    for (var i = first * ${VECTORS}u + thread; i < end; i += THREADS) {
      if (flags[i / ${VECTORS}u] == 0) { continue; }
      let g = gradients[i];
      own += dot(g, g);
    }
    let sum = sumOverLanes(own, thread);
    if (group < ${PARTS}u && thread == 0u) { squares[u.start + group] = sum; }
  }
`;

const BLOCKS = 64; // Per workgroup, so that adding up the norm's parts costs little beside.

// Uniforms are read before the loop: software GPUs would read them each time.
const UPDATE = /* wgsl */ `
  fn main(group: u32, thread: u32) {
    var sums = vec4<f32>();
    for (var i = 0u; i < u.parts / 4u; i++) { sums += squares[i]; }
    let square = dot(sums, vec4(1.0));
    if ((bitcast<u32>(square) & 0x7f800000u) == 0x7f800000u) { return; } // Infinite, or no number.
    let norm = sqrt(square);
    let clip = select(1.0, u.clipNorm / norm, u.clipNorm > 0.0 && norm > u.clipNorm);
    let stepSize = rates[0];
    let vScale = rates[1];
    let keep = rates[2];
    let rest = vec2(u.keepM, u.keepV);
    let taken = vec2(u.takeM, u.takeV);
    let eps = u.eps;
    let end = min((group + 1u) * ${BLOCKS}u, u.blocks) * ${VECTORS}u;
    for (var i = group * ${BLOCKS * VECTORS}u + thread; i < end; i += THREADS) {
      let flag = flags[i / ${VECTORS}u];
      if (flag == 0) { continue; }
      let g = gradients[i] * clip;
      let first = rest.x * m[i] + taken.x * g;
      let second = rest.y * v[i] + taken.y * g * g;
      m[i] = first;
      v[i] = second;
      let kept = parameters[i] * select(1.0, keep, flag == 2);
      parameters[i] = kept - stepSize * first / (sqrt(second * vScale) + eps);
    }
  }
`;
