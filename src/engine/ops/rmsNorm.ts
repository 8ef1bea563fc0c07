// RMSNorm (Zhang & Sennrich, 2019, eq. 4): y = weight * x / rms(x).

import { softwareGpu } from "../device.ts";
import { wantsGradient } from "../gradients.ts";
import { allocate, groupsFor, launch, THREADS } from "../launch.ts";
import { defineOp, hasKernel, type Inputs, runOp, runOps } from "../op.ts";
import * as tf from "../tf.ts";
import { at, cpu, make, run, workspace } from "../wasm/heap.ts";
import { sumOverLanes, withScratch } from "../wgsl.ts";

/**
 * Scale each row of the last axis to unit root mean square, then by `weight`.
 *
 * x: [..., D], weight: [D] -> [..., D]. `eps` is added to the mean square.
 */
export function rmsNorm(x: tf.Tensor, weight: tf.Tensor, eps: number): tf.Tensor {
  if (x.shape.at(-1) !== weight.size) throw wrong("rmsNorm", x, weight);
  if (!hasKernel("RmsNorm")) return rmsNormReference(x, weight, eps);
  return runOp("RmsNorm", { x, weight }, { eps, weightGradient: wantsGradient(weight) });
}

/**
 * The start of a residual block, which uses x twice: [x, rmsNorm(x)]. The first is x itself; that both uses come from here
 * lets one kernel add their gradients.
 */
export function rmsNormWithPass(x: tf.Tensor, weight: tf.Tensor, eps: number): [passed: tf.Tensor, normed: tf.Tensor] {
  if (x.shape.at(-1) !== weight.size) throw wrong("rmsNormWithPass", x, weight);
  if (!hasKernel("RmsNormWithPass")) return [x.clone(), rmsNormReference(x, weight, eps)];
  const attributes = { eps, weightGradient: wantsGradient(weight) };
  return runOps("RmsNormWithPass", { x, weight }, attributes) as [tf.Tensor, tf.Tensor];
}

/**
 * The norm of a row's first R entries, and its other P as they are: MLA's latent and the rotary key beside it.
 *
 * x: [..., R+P], weight: [R] -> [..., R], [..., P].
 */
export function rmsNormOfPart(x: tf.Tensor, weight: tf.Tensor, eps: number): [normed: tf.Tensor, rest: tf.Tensor] {
  if (x.shape.at(-1)! <= weight.size) throw wrong("rmsNormOfPart", x, weight);
  if (!hasKernel("RmsNormOfPart")) return rmsNormOfPartReference(x, weight, eps);
  const attributes = { eps, weightGradient: wantsGradient(weight) };
  return runOps("RmsNormOfPart", { x, weight }, attributes) as [tf.Tensor, tf.Tensor];
}

/** Some rows of several: N rows, M of them taken. */
export interface Rows {
  /** Which; one may come several times, if at most one of them has a gradient. */
  positions: tf.Tensor; // int32 [M]
  /** The way back: for each of the N rows the one that it became and whose gradient it gets, or -1. */
  places: tf.Tensor; // int32 [N]
}

/** The norm of some rows, and of no others: x: [N, D], weight: [D] -> [M, D]. */
export function rmsNormOfRows(x: tf.Tensor, weight: tf.Tensor, eps: number, { positions, places }: Rows): tf.Tensor {
  if (x.rank !== 2 || x.shape[1] !== weight.size) throw wrong("rmsNormOfRows", x, weight);
  if (places.size !== x.shape[0] || positions.dtype !== "int32" || places.dtype !== "int32") {
    throw new Error(
      `rmsNormOfRows: x is [${x.shape}], places are ${places.dtype} [${places.shape}] (wanted int32, one for each row of x), positions ${positions.dtype} (wanted int32)`,
    );
  }
  if (!hasKernel("RmsNormOfRows")) return rmsNormOfRowsReference(x, weight, eps, positions);
  return runOp("RmsNormOfRows", { x, weight, positions, places }, { eps, weightGradient: wantsGradient(weight) });
}

function wrong(name: string, x: tf.Tensor, weight: tf.Tensor): Error {
  return new Error(`${name}: x is [${x.shape}], weight is [${weight.shape}]`);
}

/** The definition in plain operations. The kernels are tested against it. */
export function rmsNormReference(x: tf.Tensor, weight: tf.Tensor, eps: number): tf.Tensor {
  return x.mul(x.square().mean(-1, true).add(eps).rsqrt()).mul(weight);
}

/** The definition in plain operations. */
export function rmsNormOfPartReference(x: tf.Tensor, weight: tf.Tensor, eps: number): [tf.Tensor, tf.Tensor] {
  const R = weight.size;
  const [part, rest] = tf.split(x, [R, x.shape.at(-1)! - R], -1) as [tf.Tensor, tf.Tensor];
  return [rmsNormReference(part, weight, eps), rest];
}

/** The definition in plain operations, where what comes several times has a gradient at most once. */
export function rmsNormOfRowsReference(x: tf.Tensor, weight: tf.Tensor, eps: number, positions: tf.Tensor): tf.Tensor {
  return rmsNormReference(tf.gather(x, positions), weight, eps);
}

interface Attributes {
  eps: number;
  /** False where the weight is frozen. */
  weightGradient: boolean;
}

/** All axes but the last, folded; a row's length; how many of its entries the norm is over. */
function sizesOf(x: tf.TensorInfo, weight: tf.TensorInfo) {
  const stride = x.shape.at(-1)!;
  const [rows, width] = [tf.util.sizeFromShape(x.shape) / stride, tf.util.sizeFromShape(weight.shape)];
  return { rows, stride, width };
}

function normOnHeap(x: tf.TensorInfo, weight: tf.TensorInfo, eps: number): tf.TensorInfo {
  const { rows, stride, width } = sizesOf(x, weight);
  const y = make([...x.shape.slice(0, -1), width]);
  const [from, scale, to] = [at(x), at(weight), at(y)];
  run(() => cpu().rmsNorm(from, stride, 0, scale, to, rows, width, eps));
  return y;
}

function launchNorm(x: tf.TensorInfo, weight: tf.TensorInfo, eps: number): tf.TensorInfo {
  const y = allocate(x.shape);
  launch({
    name: "rmsNorm",
    source: forward(lanesFor(sizesOf(x, weight).width), "all"),
    reads: { x, weight },
    writes: { y },
    ...rowwise(x, weight),
    numbers: { eps },
  });
  return y;
}

defineOp<Attributes>({
  name: "RmsNorm",
  saves: ["x", "weight"],
  wasm: ({ x, weight }, { eps }) => normOnHeap(x, weight, eps),
  webgpu: ({ x, weight }, { eps }) => launchNorm(x, weight, eps),
  gradient: ([dy], [x, weight], attributes) => gradients({ dy, x, weight }, attributes),
});

defineOp<Attributes>({
  name: "RmsNormWithPass",
  saves: ["x", "weight"],
  wasm: ({ x, weight }, { eps }) => [alias(x), normOnHeap(x, weight, eps)],
  webgpu: ({ x, weight }, { eps }) => [alias(x), launchNorm(x, weight, eps)],
  gradient: ([passed, dy], [x, weight], attributes) => gradients({ dy, x, weight, passed }, attributes),
});

function alias({ dataId, shape, dtype }: tf.TensorInfo): tf.TensorInfo {
  tf.backend().incRef(dataId);
  return { dataId, shape, dtype };
}

defineOp<Attributes>({
  name: "RmsNormOfPart",
  saves: ["x", "weight"],
  wasm: ({ x, weight }, { eps }) => {
    const { rows, stride, width } = sizesOf(x, weight);
    const y = normOnHeap(x, weight, eps);
    const rest = make([...x.shape.slice(0, -1), stride - width]);
    const [from, to] = [at(x) + 4 * width, at(rest)];
    run(() => cpu().copyRows(from, stride, to, stride - width, rows, stride - width));
    return [y, rest];
  },
  webgpu: ({ x, weight }, { eps }) => {
    const { stride, width } = sizesOf(x, weight);
    const [y, rest] = [width, stride - width].map((own) => allocate([...x.shape.slice(0, -1), own]));
    launch({
      name: "rmsNormOfPart",
      source: forward(lanesFor(width), "part"),
      reads: { x, weight },
      writes: { y, rest },
      ...rowwise(x, weight),
      numbers: { eps },
    });
    return [y, rest];
  },
  gradient: ([dy, rest], [x, weight], attributes) => gradients({ dy, x, weight, rest }, attributes),
});

defineOp<Attributes>({
  name: "RmsNormOfRows",
  saves: ["x", "weight", "places"],
  wasm: ({ x, weight, positions }, { eps }) => {
    const { rows, width } = sizesOf(x, weight);
    const taken = tf.util.sizeFromShape(positions.shape);
    const y = make([taken, width]);
    const [from, which, scale, to] = [at(x), at(positions), at(weight), at(y)];
    run(() => {
      const outside = cpu().firstOutside(which, taken, rows);
      if (outside >= 0) {
        throw new Error(`rmsNormOfRows: position ${cpu().integerAt(which, outside)} is not among the ${rows} rows`);
      }
      cpu().rmsNorm(from, width, which, scale, to, taken, width, eps);
    });
    return y;
  },
  webgpu: ({ x, weight, positions }, { eps }) => {
    const { rows: known, width } = sizesOf(x, weight);
    const rows = tf.util.sizeFromShape(positions.shape);
    const y = allocate([rows, width]);
    launch({
      name: "rmsNormOfRows",
      source: forward(lanesFor(width), "rows"),
      reads: { x, weight, positions },
      writes: { y },
      sizes: { rows, stride: width, width, known },
      numbers: { eps, none: Number.NaN },
      workgroups: groupsFor(rows * lanesFor(width)),
    });
    return y;
  },
  gradient: ([dy], [x, weight, places], attributes) => gradients({ dy, x, weight, places }, attributes),
});

function gradients(inputs: tf.NamedTensorMap, attributes: Attributes): Record<string, () => tf.Tensor> {
  const [dx, dweight] = runOps("RmsNormGradient", inputs, { ...attributes });
  return { x: () => dx, weight: () => dweight };
}

/**
 * dy, x, weight; `passed`, a gradient of x that is added to its own; or `rest`, the gradient of what follows the normed
 * part of a row; or `places`, the row of dy that belongs to each of x, if any -> [dx], or [dx, dweight] with weightGradient.
 */
defineOp<Attributes>({
  name: "RmsNormGradient",
  wasm: ({ dy, x, weight, passed, rest, places }, { eps, weightGradient }) => {
    const { rows, stride, width } = sizesOf(x, weight);
    const outputs = [x, ...(weightGradient ? [weight] : [])].map(({ shape }) => make(shape));
    const [dx, dweight = 0] = outputs.map(at);
    const inputs = [dy, places, x, weight, passed, rest].map((t) => (t ? at(t) : 0));
    const [dyAt, placesAt, xAt, weightAt, passedAt, restAt] = inputs;
    const taken = places ? dy.shape[0] : rows;
    const work = weightGradient ? workspace(cpu().rmsNormGradientBytes(rows, width)) : 0;
    run(() => {
      const given = [dyAt, placesAt, taken, xAt, stride, weightAt, passedAt] as const;
      cpu().rmsNormGradient(...given, dx, dweight, rows, width, eps, work);
      if (restAt) cpu().copyRows(restAt, stride - width, dx + 4 * width, stride, rows, stride - width);
    });
    return outputs;
  },
  webgpu: ({ dy, x, weight, passed, rest, places }, { eps, weightGradient }) => {
    const { rows, stride, width } = sizesOf(x, weight);
    const outputs = [x, ...(weightGradient ? [weight] : [])].map(({ shape }) => allocate(shape));
    const [dx, dweight] = outputs;
    const further: Inputs = passed ? { passed } : rest ? { rest } : places ? { places } : {};
    const taken: Record<string, number> = places ? { taken: dy.shape[0] } : {};
    const { sizes, workgroups } = rowwise(x, weight);
    withScratch([rows], (scales) => {
      launch({
        name: "rmsNormGradient",
        source: gradient(lanesFor(width), further),
        reads: { dy, x, weight, ...further },
        writes: { dx, scales },
        sizes: { ...sizes, ...taken },
        numbers: { eps },
        workgroups,
      });
      if (!dweight) return;
      const [columns, rowLanes] = sharesOf(rows);
      launch({
        name: "rmsNormWeightGradient",
        source: sumOverRows(columns, rowLanes, places !== undefined),
        reads: { dy, x, scales, ...(places ? { places } : {}) },
        writes: { dweight },
        sizes: { rows, stride, width, ...taken },
        threads: columns * rowLanes,
        workgroups: groupsFor(width, columns),
      });
    });
    return outputs;
  },
});

/** Threads per row: one where the row is narrow, else a workgroup. */
export function lanesFor(width: number): number {
  return width <= 256 ? 1 : THREADS;
}

function rowwise(x: tf.TensorInfo, weight: tf.TensorInfo) {
  const { rows, stride, width } = sizesOf(x, weight);
  return { sizes: { rows, stride, width }, workgroups: groupsFor(rows * lanesFor(width)) };
}

// Past 65,535 workgroups the grid is folded and has spare ones: they meet the barrier but store nothing.
const forward = (lanes: number, of: "all" | "part" | "rows"): string => /* wgsl */ `
  ${sumOverLanes(lanes)}
  fn main(group: u32, thread: u32) {
    let row = (group * THREADS + thread) / ${lanes}u;
    let lane = thread % ${lanes}u;
    let own = min(row, u.rows - 1u);
    ${of === "rows" ? POSITION : "let start = own * u.stride;"}
    var square = 0.0;
    for (var i = lane; i < u.width; i += ${lanes}u) { square += x[start + i] * x[start + i]; }
    let scale = inverseSqrt(sumOverLanes(square, lane) / f32(u.width) + u.eps);
    if (row >= u.rows) { return; }
    for (var i = lane; i < u.width; i += ${lanes}u) {
      let value = x[start + i] * scale * weight[i];
      y[row * u.width + i] = ${of === "rows" ? "select(u.none, value, found)" : "value"};
    }
    ${of === "part" ? restOf(lanes, (rest, whole) => `rest[${rest}] = x[${whole}];`) : ""}
  }
`;

/** Where the row to norm begins, and whether there is one. */
const POSITION = /* wgsl */ `
  let position = positions[own];
  let found = position >= 0 && position < i32(u.known);
  let start = select(0u, u32(position), found) * u.stride;
`;

/** For each entry behind the normed part of a row: where it lies in the rest and in the whole row. */
const restOf = (lanes: number, copy: (rest: string, whole: string) => string): string => /* wgsl */ `
  let others = u.stride - u.width;
  for (var i = lane; i < others; i += ${lanes}u) { ${copy("row * others + i", "start + u.width + i")} }
`;

// With r = 1 / rms(x) and g = weight * dy: dx = r * (g - x * r^2 * mean(g * x)).
const gradient = (lanes: number, { passed, rest, places }: Inputs): string => /* wgsl */ `
  ${sumOverLanes(lanes, "vec2<f32>")}
  fn main(group: u32, thread: u32) {
    let row = (group * THREADS + thread) / ${lanes}u;
    let lane = thread % ${lanes}u;
    let start = min(row, u.rows - 1u) * u.stride;
    ${places ? placeOf("min(row, u.rows - 1u)") : "let place = min(row, u.rows - 1u);"}
    let own = place * u.width;
    var sums = vec2<f32>(); // Of x * x and g * x.
    for (var i = lane; i < u.width; i += ${lanes}u) {
      sums += x[start + i] * vec2(x[start + i], dy[own + i] * weight[i]);
    }
    let means = sumOverLanes(sums, lane) / f32(u.width);
    let scale = inverseSqrt(means.x + u.eps);
    let pull = means.y * scale * scale;
    if (row >= u.rows) { return; }
    for (var i = lane; i < u.width; i += ${lanes}u) {
      let value = ${passed ? "passed[start + i] + " : ""}scale * (dy[own + i] * weight[i] - x[start + i] * pull);
      dx[start + i] = ${places ? "select(0.0, value, taken)" : "value"};
    }
    if (lane == 0u) { scales[row] = scale; }
    ${rest ? restOf(lanes, (rest, whole) => `dx[${whole}] = rest[${rest}];`) : ""}
  }
`;

/** The row of dy that belongs to a row of x, and whether there is one. */
const placeOf = (row: string): string => /* wgsl */ `
  let named = places[${row}];
  let taken = named >= 0 && named < i32(u.taken);
  let place = select(0u, u32(named), taken);
`;

/** Columns of the weight that a workgroup adds up, and how many threads share one. */
function sharesOf(rows: number): [number, number] {
  if (softwareGpu()) return [THREADS, 1]; // Where a barrier is slower than many rows.
  return [8, rows <= 1024 ? 8 : 32]; // With 64 threads, as most launches have, it can share one of them.
}

const sumOverRows = (columns: number, rowLanes: number, places: boolean): string => /* wgsl */ `
  ${rowLanes > 1 ? "var<workgroup> partial: array<f32, THREADS>;" : ""}
  fn main(group: u32, thread: u32) {
    let column = group * ${columns}u + thread % ${columns}u;
    var sum = 0.0;
    if (column < u.width) {
      for (var row = thread / ${columns}u; row < u.rows; row += ${rowLanes}u) {
        ${places ? `${placeOf("row")} if (!taken) { continue; }` : "let place = row;"}
        sum += dy[place * u.width + column] * x[row * u.stride + column] * scales[row];
      }
    }
    ${rowLanes > 1 ? addLanes(columns, rowLanes) : ""}
    if (thread < ${columns}u && column < u.width) { dweight[column] = sum; }
  }
`;

const addLanes = (columns: number, rowLanes: number): string => /* wgsl */ `
  partial[thread] = sum;
  workgroupBarrier();
  if (thread >= ${columns}u) { return; }
  for (var lane = 1u; lane < ${rowLanes}u; lane++) { sum += partial[lane * ${columns}u + thread]; }
`;
