// RMSNorm (Zhang & Sennrich, 2019, eq. 4): y = weight * x / rms(x).

import { allocate, groupsFor, launch, THREADS } from "../launch.ts";
import { defineOp, hasKernel, runOp, runOps } from "../op.ts";
import * as tf from "../tf.ts";
import { at, cpu, make, run } from "../wasm/heap.ts";
import { addUp, sumOverLanes, withScratch } from "../wgsl.ts";

/**
 * Scale each row of the last axis to unit root mean square, then by `weight`.
 *
 * x: [..., D], weight: [D] -> [..., D]. `eps` is added to the mean square.
 */
export function rmsNorm(x: tf.Tensor, weight: tf.Tensor, eps: number): tf.Tensor {
  if (x.shape.at(-1) !== weight.size) {
    throw new Error(`rmsNorm: x is [${x.shape}], weight is [${weight.shape}]`);
  }
  if (!hasKernel("RmsNorm")) return rmsNormReference(x, weight, eps);
  return runOp("RmsNorm", { x, weight }, { eps });
}

/** The definition in plain operations. The kernels are tested against it. */
export function rmsNormReference(x: tf.Tensor, weight: tf.Tensor, eps: number): tf.Tensor {
  return x.mul(x.square().mean(-1, true).add(eps).rsqrt()).mul(weight);
}

interface Attributes {
  eps: number;
}

/** All axes but the last, folded. */
function rowsOf(x: tf.TensorInfo): number {
  return tf.util.sizeFromShape(x.shape.slice(0, -1));
}

defineOp<Attributes>({
  name: "RmsNorm",
  saves: ["x", "weight"],
  wasm: ({ x, weight }, { eps }) => {
    const y = make(x.shape);
    const addresses = [at(x), at(weight), at(y)] as const;
    const [rows, width] = [rowsOf(x), x.shape.at(-1)!];
    run(() => cpu().rmsNorm(...addresses, rows, width, eps));
    return y;
  },
  webgpu: ({ x, weight }, { eps }) => {
    const y = allocate(x.shape);
    const [rows, width] = [rowsOf(x), x.shape.at(-1)];
    const tensors = { reads: { x, weight }, writes: { y } };
    launch({
      name: "rmsNorm",
      source: forward(lanesFor(width)),
      ...tensors,
      ...rowwise(rows, width),
      numbers: { eps },
    });
    return y;
  },
  gradient: ([dy], [x, weight], { eps }) => {
    const [dx, dweight] = runOps("RmsNormGradient", { dy, x, weight }, { eps });
    return { x: () => dx, weight: () => dweight };
  },
});

/** dy, x, weight -> [dx, dweight], shaped like x and weight. */
defineOp<Attributes>({
  name: "RmsNormGradient",
  wasm: ({ dy, x, weight }, { eps }) => {
    const [dx, dweight] = [make(x.shape), make(weight.shape)];
    const addresses = [at(dy), at(x), at(weight), at(dx), at(dweight)] as const;
    const [rows, width] = [rowsOf(x), x.shape.at(-1)!];
    run(() => cpu().rmsNormGradient(...addresses, rows, width, eps));
    return [dx, dweight];
  },
  webgpu: ({ dy, x, weight }, { eps }) => {
    const [dx, dweight] = [allocate(x.shape), allocate(weight.shape)];
    const [rows, width] = [rowsOf(x), x.shape.at(-1)];
    const chunks = Math.ceil(rows / CHUNK_ROWS);
    withScratch([rows], (scales) => {
      const tensors = { reads: { dy, x, weight }, writes: { dx, scales } };
      const source = gradient(lanesFor(width));
      launch({ name: "rmsNormGradient", source, ...tensors, ...rowwise(rows, width), numbers: { eps } });
      const addTo = (partial: tf.TensorInfo): void =>
        launch({
          name: "rmsNormWeightGradient",
          source: WEIGHT_GRADIENT,
          reads: { dy, x, scales },
          writes: { partial },
          sizes: { rows, width },
          workgroups: groupsFor(chunks * width),
        });
      if (chunks === 1) return addTo(dweight);
      return withScratch([chunks, width], (partial) => {
        addTo(partial);
        addUp(partial, dweight, chunks, width);
      });
    });
    return [dx, dweight];
  },
});

/** Threads per row: one where the row is narrow, else a workgroup. */
function lanesFor(width: number): number {
  return width <= 256 ? 1 : 32;
}

function rowwise(rows: number, width: number) {
  const lanes = lanesFor(width);
  const threads = Math.max(lanes, THREADS / 2);
  return { sizes: { rows, width }, threads, workgroups: groupsFor(rows * lanes, threads) };
}

// Past 65,535 workgroups the grid is folded and has spare ones: they meet the barrier but store nothing.
const forward = (lanes: number): string => /* wgsl */ `
  ${sumOverLanes(lanes)}
  fn main(group: u32, thread: u32) {
    let row = (group * THREADS + thread) / ${lanes}u;
    let lane = thread % ${lanes}u;
    let start = min(row, u.rows - 1u) * u.width;
    var square = 0.0;
    for (var i = lane; i < u.width; i += ${lanes}u) { square += x[start + i] * x[start + i]; }
    let scale = inverseSqrt(sumOverLanes(square, lane) / f32(u.width) + u.eps);
    if (row >= u.rows) { return; }
    for (var i = lane; i < u.width; i += ${lanes}u) { y[start + i] = x[start + i] * scale * weight[i]; }
  }
`;

// With r = 1 / rms(x) and g = weight * dy: dx = r * (g - x * r^2 * mean(g * x)).
const gradient = (lanes: number): string => /* wgsl */ `
  ${sumOverLanes(lanes, "vec2<f32>")}
  fn main(group: u32, thread: u32) {
    let row = (group * THREADS + thread) / ${lanes}u;
    let lane = thread % ${lanes}u;
    let start = min(row, u.rows - 1u) * u.width;
    var sums = vec2<f32>(); // Of x * x and g * x.
    for (var i = lane; i < u.width; i += ${lanes}u) {
      sums += x[start + i] * vec2(x[start + i], dy[start + i] * weight[i]);
    }
    let means = sumOverLanes(sums, lane) / f32(u.width);
    let scale = inverseSqrt(means.x + u.eps);
    let pull = means.y * scale * scale;
    if (row >= u.rows) { return; }
    for (var i = lane; i < u.width; i += ${lanes}u) {
      dx[start + i] = scale * (dy[start + i] * weight[i] - x[start + i] * pull);
    }
    if (lane == 0u) { scales[row] = scale; }
  }
`;

const CHUNK_ROWS = 64; // Rows whose share of the weight's gradient one thread adds up.

const WEIGHT_GRADIENT = /* wgsl */ `
  fn main(group: u32, thread: u32) {
    let i = group * THREADS + thread;
    let first = i / u.width * ${CHUNK_ROWS}u;
    if (first >= u.rows) { return; }
    let column = i % u.width;
    var sum = 0.0;
    for (var row = first; row < min(first + ${CHUNK_ROWS}u, u.rows); row++) {
      sum += dy[row * u.width + column] * x[row * u.width + column] * scales[row];
    }
    partial[i] = sum;
  }
`;
