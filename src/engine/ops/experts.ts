// The routed experts of a mixture (Shazeer et al., 2017; DeepSeekMoE): each token passes through the SwiGLU networks it
// was routed to, and their outputs are added with the router's weights.

// N tokens, D hidden size, E experts, S = the sum of all experts' widths. Expert e has channels offsets[e]..offsets[e+1]-1,
// so that pruned experts may differ in width.

import { wantsGradient } from "../gradients.ts";
import { allocate, constant, groupsFor, launch } from "../launch.ts";
import { defineOp, hasKernel, runOps } from "../op.ts";
import * as tf from "../tf.ts";
import { at, cpu, make, run, view, workspace, writeIntegers } from "../wasm/heap.ts";
import { lines, SIGMOID, withScratch } from "../wgsl.ts";

export interface ExpertWeights {
  gate: tf.Tensor; // [S, D]
  up: tf.Tensor; // [S, D]
  down: tf.Tensor; // [D, S]
  /** Length E + 1, from 0 to S. */
  offsets: number[];
}

/**
 * x: [N, D], chosen: int32 [N, topK], weights: [N, topK] -> [N, D].
 *
 * y[n] = sum over k of weights[n, k] * down_e(silu(gate_e(x[n])) * up_e(x[n])), e = chosen[n, k].
 */
export function experts(x: tf.Tensor, chosen: tf.Tensor, weights: tf.Tensor, p: ExpertWeights): tf.Tensor {
  const S = p.offsets.at(-1);
  const D = x.shape[1]!;
  const right =
    p.gate.shape[0] === S &&
    p.gate.shape[1]! === D &&
    p.up.shape[0] === S &&
    p.down.shape[0] === D &&
    p.down.shape[1]! === S;
  if (!right || !tf.util.arraysEqual(chosen.shape, weights.shape)) {
    throw new Error(
      `experts: x is [${x.shape}], chosen [${chosen.shape}], weights [${weights.shape}], gate [${p.gate.shape}], ` +
        `up [${p.up.shape}], down [${p.down.shape}], ${S} channels by the offsets`,
    );
  }
  if (!hasKernel("Experts")) return expertsReference(x, chosen, weights, p);
  const { gate, up, down, offsets } = p;
  const weightGradients = wantsGradient(gate) || wantsGradient(up) || wantsGradient(down);
  const [y, hidden] = runOps("Experts", { x, chosen, weights, gate, up, down }, { offsets, weightGradients });
  hidden.dispose(); // The tape has a clone where it needs one.
  return y;
}

/** The definition in plain operations: every expert sees every token. */
export function expertsReference(x: tf.Tensor, chosen: tf.Tensor, weights: tf.Tensor, p: ExpertWeights): tf.Tensor {
  const D = x.shape[1]!;
  const parts: tf.Tensor[] = [];
  for (let e = 0; e + 1 < p.offsets.length; e++) {
    const [from, width] = [p.offsets[e], p.offsets[e + 1] - p.offsets[e]];
    if (width === 0) continue;
    const part = weights.mul(chosen.equal(tf.scalar(e, "int32")).cast("float32")).sum(1, true); // [N, 1]
    const gate = tf.matMul(x, p.gate.slice([from, 0], [width, D]) as tf.Tensor2D, false, true);
    const up = tf.matMul(x, p.up.slice([from, 0], [width, D]) as tf.Tensor2D, false, true);
    const act = gate.mul(gate.sigmoid()).mul(up); // [N, width]
    parts.push(
      tf.matMul(act as tf.Tensor2D, p.down.slice([0, from], [D, width]) as tf.Tensor2D, false, true).mul(part),
    );
  }
  return tf.addN(parts);
}

interface Attributes {
  offsets: number[];
  /** False where the experts are frozen: their gradients are then not computed. */
  weightGradients: boolean;
}

/** N, D, topK, E, S and the widest expert's width. */
function sizesOf(x: tf.TensorInfo, chosen: tf.TensorInfo, offsets: number[]) {
  const widest = Math.max(...offsets.slice(1).map((end, e) => end - offsets[e]));
  return [x.shape[0], x.shape[1], chosen.shape[1], offsets.length - 1, offsets.at(-1), widest] as const;
}

/** Working memory with room for the offsets in front; `rest` are `bytes` bytes after them. */
function workspaceAfter(offsets: number[], bytes: number): { start: number; rest: number } {
  const own = Math.ceil(offsets.length / 4) * 16;
  const start = workspace(own + bytes);
  return { start, rest: start + own };
}

/**
 * Outputs: y [N, D], hidden [N*topK, 2, widest expert] (what the gradient needs of the gate and up products; each
 * backend lays it out as it likes).
 */
defineOp<Attributes>({
  name: "Experts",
  saves: ["x", "chosen", "weights", "gate", "up", "down"],
  savesOutputs: [false, true],
  wasm: ({ x, chosen, weights, gate, up, down }, { offsets }) => {
    const sizes = sizesOf(x, chosen, offsets);
    const [, D, , E, , widest] = sizes;
    const slots = tf.util.sizeFromShape(chosen.shape);
    const [y, hidden] = [make(x.shape), make([slots, 2, widest])];
    const work = workspaceAfter(offsets, cpu().expertsBytes(slots, D, E, widest));
    const inputs = [at(x), at(chosen), at(weights), at(gate), at(up), at(down), work.start] as const;
    const outputs = [at(y), at(hidden)] as const;
    run(() => {
      writeIntegers(work.start, offsets);
      const wrong = cpu().experts(...inputs, ...outputs, ...sizes, work.rest);
      if (wrong >= 0) throw new Error(`experts: expert ${view(chosen)[wrong]} is not among the ${E}`);
    });
    return [y, hidden];
  },
  webgpu: ({ x, chosen, weights, gate, up, down }, { offsets }) => {
    const plan = planOf(x, chosen, offsets);
    const { A, D, widest } = plan.sizes;
    const [y, hidden] = [allocate(x.shape), allocate([A, 2, widest])];
    sortByExpert(chosen, plan, (order) =>
      withScratch([A, widest], (act) =>
        withScratch([A, D], (outputs) => {
          perBlock("expertsIn", INNER, { x, gate, up, order }, { hidden, act }, plan, widest, INNER_COLUMNS);
          perBlock("expertsOut", OUTER, { act, down, order }, { outputs }, plan, D, COLUMNS);
          combine(true, { outputs, weights, chosen, order }, { y }, plan);
        }),
      ),
    );
    return [y, hidden];
  },
  gradient: ([dy], [x, chosen, weights, gate, up, down, hidden], attributes) => {
    const inputs = { dy, x, chosen, weights, gate, up, down, hidden };
    const [dx, dweights, dgate, dup, ddown] = runOps("ExpertsGradient", inputs, attributes);
    // Weights that are computed from leaves are none themselves, but their gradients are wanted all the same.
    const late = () => runOps("ExpertsGradient", inputs, { ...attributes, weightGradients: true });
    return {
      x: () => dx,
      weights: () => dweights,
      gate: () => dgate ?? late()[2],
      up: () => dup ?? late()[3],
      down: () => ddown ?? late()[4],
    };
  },
});

/** dy: [N, D] and what Experts saved -> [dx, dweights], with weightGradients also [dgate, dup, ddown]. */
defineOp<Attributes>({
  name: "ExpertsGradient",
  wasm: ({ dy, x, chosen, weights, gate, up, down, hidden }, { offsets, weightGradients }) => {
    const sizes = sizesOf(x, chosen, offsets);
    const [, D, , E, , widest] = sizes;
    const outputs = [x, weights, ...(weightGradients ? [gate, up, down] : [])].map(({ shape }) => make(shape));
    const [dx, dweights, dgate = 0, dup = 0, ddown = 0] = outputs.map(at);
    const bytes = cpu().expertsGradientBytes(tf.util.sizeFromShape(chosen.shape), D, E, widest);
    const work = workspaceAfter(offsets, bytes);
    const inputs = [at(dy), at(x), at(chosen), at(weights), at(gate), at(up), at(down), work.start] as const;
    const saved = at(hidden);
    run(() => {
      writeIntegers(work.start, offsets);
      cpu().expertsGradient(...inputs, saved, dx, dweights, dgate, dup, ddown, ...sizes, work.rest);
    });
    return outputs;
  },
  webgpu: ({ dy, x, chosen, weights, gate, up, down, hidden }, { offsets, weightGradients }) => {
    const plan = planOf(x, chosen, offsets);
    const { A, D, widest } = plan.sizes;
    const outputs = [x, weights, ...(weightGradients ? [gate, up, down] : [])].map(({ shape }) => allocate(shape));
    const [dx, dweights, dgate, dup, ddown] = outputs;
    sortByExpert(chosen, plan, (order) =>
      withScratch([A, 4, widest], (dhidden) => {
        const backward = { dy, weights, down, hidden, order };
        perBlock("expertsHiddenGradient", HIDDEN_GRADIENT, backward, { dhidden }, plan, widest, COLUMNS);
        perAssignment({ dhidden, chosen, order }, { dweights }, plan);
        withScratch([A, D], (parts) => {
          perBlock("expertsTokenGradient", TOKEN_GRADIENT, { dhidden, gate, up, order }, { parts }, plan, D, COLUMNS);
          combine(false, { outputs: parts, chosen, order }, { y: dx }, plan);
        });
        if (!weightGradients) return;
        perWeight("expertsInnerGradient", INNER_GRADIENT, { x, dhidden, order }, { dgate, dup }, plan);
        perWeight("expertsOuterGradient", OUTER_GRADIENT, { dy, dhidden, order }, { ddown }, plan);
      }),
    );
    return outputs;
  },
});

// On the GPU the A = N*topK assignments of tokens to experts are sorted by expert, in their order. Rows of one expert are
// multiplied ROWS at a time, so that the cost follows the assignments and not the number of experts.

const ROWS = 8;
const COLUMNS = 4;
const INNER_COLUMNS = 2; // Of gate and of up each.

interface Plan {
  offsets: number[];
  sizes: { A: number; D: number; topK: number; E: number; S: number; widest: number };
  /** Blocks of at most ROWS rows of one expert: not more than this. */
  blocks: number;
}

function planOf(x: tf.TensorInfo, chosen: tf.TensorInfo, offsets: number[]): Plan {
  const [N, D, topK, E, S, widest] = sizesOf(x, chosen, offsets);
  const A = N * topK;
  return { offsets, sizes: { A, D, topK, E, S, widest }, blocks: Math.floor(A / ROWS) + E };
}

/**
 * order, int32: rows per expert [E], first row per expert and A behind the last [E+1], the assignment of each row [A],
 * the row of each assignment [A], the number of blocks, and for each block its first row, the row behind its last, its
 * expert's first channel and width.
 */
function sortByExpert(
  chosen: tf.TensorInfo,
  { offsets, sizes, blocks }: Plan,
  use: (order: tf.TensorInfo) => void,
): void {
  const { A, E } = sizes;
  withScratch(
    [E + (E + 1) + A + A + 1 + 4 * blocks],
    (order) => {
      const launched = { writes: { order }, sizes, workgroups: groupsFor(E) };
      launch({ name: "countByExpert", source: COUNT, reads: { chosen }, ...launched });
      launch({ name: "sortByExpert", source: SORT, reads: { chosen, offsets: constant(offsets) }, ...launched });
      use(order);
    },
    "int32",
  );
}

type Tensors = Record<string, tf.TensorInfo>;

/** One thread per block of rows and `columns` columns of `width`. */
function perBlock(
  name: string,
  source: string,
  reads: Tensors,
  writes: Tensors,
  { sizes, blocks }: Plan,
  width: number,
  columns: number,
): void {
  const across = Math.ceil(width / columns);
  launch({ name, source, reads, writes, sizes: { ...sizes, across }, workgroups: groupsFor(blocks * across) });
}

/** One thread per COLUMNS channels of an expert and COLUMNS entries of a token. */
function perWeight(name: string, source: string, reads: Tensors, writes: Tensors, { offsets, sizes }: Plan): void {
  const [across, down] = [Math.ceil(sizes.D / COLUMNS), Math.ceil(sizes.widest / COLUMNS)];
  const read = { ...reads, offsets: constant(offsets) };
  const workgroups = groupsFor(sizes.E * across * down);
  launch({ name, source, reads: read, writes, sizes: { ...sizes, across, down }, workgroups });
}

function perAssignment(reads: Tensors, writes: Tensors, { offsets, sizes }: Plan): void {
  const read = { ...reads, offsets: constant(offsets) };
  const numbers = { none: Number.NaN };
  const launched = { writes, sizes, numbers, workgroups: groupsFor(sizes.A) };
  launch({ name: "expertsWeightsGradient", source: WEIGHTS_GRADIENT, reads: read, ...launched });
}

function combine(weighted: boolean, reads: Tensors, writes: Tensors, { sizes }: Plan): void {
  const numbers = { none: Number.NaN };
  const launched = { writes, sizes, numbers, workgroups: groupsFor((sizes.A / sizes.topK) * sizes.D) };
  launch({ name: "expertsCombine", source: combination(weighted), reads, ...launched });
}

// One thread per expert.
const COUNT = /* wgsl */ `
  fn main(group: u32, thread: u32) {
    let e = group * THREADS + thread;
    if (e >= u.E) { return; }
    var count = 0;
    for (var a = 0u; a < u.A; a++) { count += select(0, 1, chosen[a] == i32(e)); }
    order[e] = count;
  }
`;

/** Where the parts of `order` begin. */
const PARTS = /* wgsl */ `
  fn startOf(e: u32) -> u32 { return u.E + e; }
  fn assignmentOf(row: u32) -> u32 { return 2u * u.E + 1u + row; }
  fn rowOf(assignment: u32) -> u32 { return 2u * u.E + 1u + u.A + assignment; }
  fn blockCount() -> u32 { return 2u * u.E + 1u + 2u * u.A; }
  fn blockAt(block: u32) -> u32 { return 2u * u.E + 2u + 2u * u.A + 4u * block; }
`;

// One thread per expert. An assignment to no expert is in no row.
const SORT = /* wgsl */ `
  ${PARTS}
  fn main(group: u32, thread: u32) {
    let e = group * THREADS + thread;
    if (e >= u.E) { return; }
    var first = 0u;
    var block = 0u;
    for (var other = 0u; other < e; other++) {
      first += u32(order[other]);
      block += (u32(order[other]) + ${ROWS - 1}u) / ${ROWS}u;
    }
    var row = first;
    for (var a = 0u; a < u.A; a++) {
      if (chosen[a] != i32(e)) { continue; }
      order[assignmentOf(row)] = i32(a);
      order[rowOf(a)] = i32(row);
      row++;
    }
    order[startOf(e)] = i32(first);
    for (var start = first; start < row; start += ${ROWS}u) {
      order[blockAt(block)] = i32(start);
      order[blockAt(block) + 1u] = i32(min(start + ${ROWS}u, row));
      order[blockAt(block) + 2u] = offsets[e];
      order[blockAt(block) + 3u] = offsets[e + 1u] - offsets[e];
      block++;
    }
    if (e == u.E - 1u) {
      order[startOf(u.E)] = i32(row);
      order[blockCount()] = i32(block);
    }
  }
`;

/** Declares the block's rows `first` to `end - 1`, its expert's `channel` and `width`, and the thread's first column. */
const block = (columns: number): string => /* wgsl */ `
  let i = group * THREADS + thread;
  let block = i / u.across;
  if (block >= u32(order[blockCount()])) { return; }
  let first = u32(order[blockAt(block)]);
  let end = u32(order[blockAt(block) + 1u]);
  let channel = u32(order[blockAt(block) + 2u]);
  let width = u32(order[blockAt(block) + 3u]);
  let column = (i % u.across) * ${columns}u;
`;

/** Declares n0.. as the tokens of the block's rows; rows past the end stand for the last one and are not stored. */
const TOKENS = lines(ROWS, (r) => `let n${r} = u32(order[assignmentOf(min(first + ${r}u, end - 1u))]) / u.topK;`);

// hidden: [A, 2, widest], the products with gate and with up; act: [A, widest] = silu(gate) * up.
const INNER = /* wgsl */ `
  ${PARTS}
  ${SIGMOID}
  fn main(group: u32, thread: u32) {
    ${block(INNER_COLUMNS)}
    if (column >= width) { return; }
    ${TOKENS}
    let left = (channel + column) * u.D;
    let right = (channel + min(column + 1u, width - 1u)) * u.D;
    ${lines(ROWS, (r) => `var sum${r} = vec4<f32>();`)}
    for (var d = 0u; d < u.D; d++) {
      let w = vec4(gate[left + d], gate[right + d], up[left + d], up[right + d]);
      ${lines(ROWS, (r) => `sum${r} += x[n${r} * u.D + d] * w;`)}
    }
    ${lines(ROWS, (r) => `store(first + ${r}u, end, column, width, sum${r});`)}
  }
  fn store(row: u32, end: u32, column: u32, width: u32, sums: vec4<f32>) {
    if (row >= end) { return; }
    for (var j = 0u; j < min(${INNER_COLUMNS}u, width - column); j++) {
      let g = sums[j];
      let v = sums[j + 2u];
      hidden[2u * row * u.widest + column + j] = g;
      hidden[(2u * row + 1u) * u.widest + column + j] = v;
      act[row * u.widest + column + j] = g * sigmoid(g) * v;
    }
  }
`;

/** Store a vector of COLUMNS entries of a row of `to`, [A, D]. */
const storeRow = (to: string): string => /* wgsl */ `
  fn store(row: u32, end: u32, column: u32, values: vec4<f32>) {
    if (row >= end) { return; }
    for (var j = 0u; j < min(${COLUMNS}u, u.D - column); j++) { ${to}[row * u.D + column + j] = values[j]; }
  }
`;

/** Declares c0.. as the thread's columns below `limit`. */
const columnsBelow = (limit: string): string =>
  lines(COLUMNS, (j) => `let c${j} = min(column + ${j}u, ${limit} - 1u);`);

/** Declares row0.. as the block's rows. */
const BLOCK_ROWS = lines(ROWS, (r) => `let row${r} = min(first + ${r}u, end - 1u);`);

// outputs: [A, D] = act·downᵀ.
const OUTER = /* wgsl */ `
  ${PARTS}
  ${storeRow("outputs")}
  fn main(group: u32, thread: u32) {
    ${block(COLUMNS)}
    ${columnsBelow("u.D")}
    ${BLOCK_ROWS}
    ${lines(ROWS, (r) => `var sum${r} = vec4<f32>();`)}
    for (var f = 0u; f < width; f++) {
      let at = channel + f;
      let w = vec4(down[c0 * u.S + at], down[c1 * u.S + at], down[c2 * u.S + at], down[c3 * u.S + at]);
      ${lines(ROWS, (r) => `sum${r} += act[row${r} * u.widest + f] * w;`)}
    }
    ${lines(ROWS, (r) => `store(first + ${r}u, end, column, sum${r});`)}
  }
`;

/** Each token's sum over its experts, weighted or not, in the order of its choice. No such expert: NaN. */
const combination = (weighted: boolean): string => /* wgsl */ `
  ${PARTS}
  fn main(group: u32, thread: u32) {
    let i = group * THREADS + thread;
    if (i >= u.A / u.topK * u.D) { return; }
    var sum = 0.0;
    for (var a = i / u.D * u.topK; a < (i / u.D + 1u) * u.topK; a++) {
      if (chosen[a] < 0 || chosen[a] >= i32(u.E)) { sum = u.none; continue; }
      sum += ${weighted ? "weights[a] * " : ""}outputs[u32(order[rowOf(a)]) * u.D + i % u.D];
    }
    y[i] = sum;
  }
`;

// dhidden: [A, 4, widest]: the gradients by the products with gate and with up; the weighted activation; and what adds up
// to the gradient by the router's weight.
const HIDDEN_GRADIENT = /* wgsl */ `
  ${PARTS}
  ${SIGMOID}
  fn main(group: u32, thread: u32) {
    ${block(COLUMNS)}
    if (column >= width) { return; }
    ${TOKENS}
    ${columnsBelow("width")}
    ${lines(ROWS, (r) => `var sum${r} = vec4<f32>();`)}
    for (var d = 0u; d < u.D; d++) {
      let at = d * u.S + channel;
      let w = vec4(down[at + c0], down[at + c1], down[at + c2], down[at + c3]);
      ${lines(ROWS, (r) => `sum${r} += dy[n${r} * u.D + d] * w;`)}
    }
    ${lines(ROWS, (r) => `store(first + ${r}u, end, column, width, sum${r});`)}
  }
  fn store(row: u32, end: u32, column: u32, width: u32, dacts: vec4<f32>) {
    if (row >= end) { return; }
    let weight = weights[u32(order[assignmentOf(row)])];
    for (var j = 0u; j < min(${COLUMNS}u, width - column); j++) {
      let g = hidden[2u * row * u.widest + column + j];
      let v = hidden[(2u * row + 1u) * u.widest + column + j];
      let s = sigmoid(g);
      let act = g * s * v;
      let dact = weight * dacts[j];
      let at = 4u * row * u.widest + column + j;
      dhidden[at] = dact * v * (s + g * s * (1.0 - s));
      dhidden[at + u.widest] = dact * g * s;
      dhidden[at + 2u * u.widest] = weight * act;
      dhidden[at + 3u * u.widest] = dacts[j] * act;
    }
  }
`;

const WEIGHTS_GRADIENT = /* wgsl */ `
  ${PARTS}
  fn main(group: u32, thread: u32) {
    let a = group * THREADS + thread;
    if (a >= u.A) { return; }
    if (chosen[a] < 0 || chosen[a] >= i32(u.E)) { dweights[a] = u.none; return; }
    let start = (4u * u32(order[rowOf(a)]) + 3u) * u.widest;
    var sum = 0.0;
    for (var f = 0u; f < u32(offsets[chosen[a] + 1] - offsets[chosen[a]]); f++) { sum += dhidden[start + f]; }
    dweights[a] = sum;
  }
`;

// parts: [A, D] = dgate·gate + dup·up.
const TOKEN_GRADIENT = /* wgsl */ `
  ${PARTS}
  ${storeRow("parts")}
  fn main(group: u32, thread: u32) {
    ${block(COLUMNS)}
    ${columnsBelow("u.D")}
    ${BLOCK_ROWS}
    ${lines(ROWS, (r) => `var sum${r} = vec4<f32>();`)}
    for (var f = 0u; f < width; f++) {
      let at = (channel + f) * u.D;
      let g = vec4(gate[at + c0], gate[at + c1], gate[at + c2], gate[at + c3]);
      let v = vec4(up[at + c0], up[at + c1], up[at + c2], up[at + c3]);
      ${lines(
        ROWS,
        (r) => /* wgsl */ `
          sum${r} += dhidden[4u * row${r} * u.widest + f] * g + dhidden[(4u * row${r} + 1u) * u.widest + f] * v;
        `,
      )}
    }
    ${lines(ROWS, (r) => `store(first + ${r}u, end, column, sum${r});`)}
  }
`;

/** Declares the expert e, its `channel` and `width`, and the thread's first channel `f` and entry `column`. */
const WEIGHT_BLOCK = /* wgsl */ `
  let i = group * THREADS + thread;
  let e = i / (u.across * u.down);
  if (e >= u.E) { return; }
  let channel = u32(offsets[e]);
  let width = u32(offsets[e + 1u]) - channel;
  let f = i / u.across % u.down * ${COLUMNS}u;
  if (f >= width) { return; }
  let column = i % u.across * ${COLUMNS}u;
  ${columnsBelow("u.D")}
  ${lines(COLUMNS, (j) => `let f${j} = min(f + ${j}u, width - 1u);`)}
`;

// dgate, dup: [S, D], each the sum over the expert's rows of the gradient by its product times the token.
const INNER_GRADIENT = /* wgsl */ `
  ${PARTS}
  fn main(group: u32, thread: u32) {
    ${WEIGHT_BLOCK}
    ${lines(COLUMNS, (j) => `var g${j} = vec4<f32>(); var v${j} = vec4<f32>();`)}
    for (var row = u32(order[startOf(e)]); row < u32(order[startOf(e + 1u)]); row++) {
      let n = u32(order[assignmentOf(row)]) / u.topK * u.D;
      let token = vec4(x[n + c0], x[n + c1], x[n + c2], x[n + c3]);
      let at = 4u * row * u.widest;
      ${lines(COLUMNS, (j) => `g${j} += dhidden[at + f${j}] * token; v${j} += dhidden[at + u.widest + f${j}] * token;`)}
    }
    ${lines(COLUMNS, (j) => `if (f + ${j}u < width) { store((channel + f + ${j}u) * u.D, column, g${j}, v${j}); }`)}
  }
  fn store(start: u32, column: u32, g: vec4<f32>, v: vec4<f32>) {
    for (var j = 0u; j < min(${COLUMNS}u, u.D - column); j++) {
      dgate[start + column + j] = g[j];
      dup[start + column + j] = v[j];
    }
  }
`;

// ddown: [D, S], the sum over the expert's rows of the output's gradient times the weighted activation.
const OUTER_GRADIENT = /* wgsl */ `
  ${PARTS}
  fn main(group: u32, thread: u32) {
    ${WEIGHT_BLOCK}
    ${lines(COLUMNS, (j) => `var sum${j} = vec4<f32>();`)}
    for (var row = u32(order[startOf(e)]); row < u32(order[startOf(e + 1u)]); row++) {
      let n = u32(order[assignmentOf(row)]) / u.topK * u.D;
      let at = (4u * row + 2u) * u.widest;
      let act = vec4(dhidden[at + f0], dhidden[at + f1], dhidden[at + f2], dhidden[at + f3]);
      ${lines(COLUMNS, (j) => `sum${j} += dy[n + c${j}] * act;`)}
    }
    ${lines(COLUMNS, (j) => `if (column + ${j}u < u.D) { store((column + ${j}u) * u.S + channel, f, width, sum${j}); }`)}
  }
  fn store(start: u32, f: u32, width: u32, values: vec4<f32>) {
    for (var j = 0u; j < min(${COLUMNS}u, width - f); j++) { ddown[start + f + j] = values[j]; }
  }
`;
