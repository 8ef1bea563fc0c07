// What losses on the head's logits have in common: products with the head's weight, a chunk of rows at a time.

// N hidden states, D hidden size, M rows of them that carry loss, V vocabulary.

import { wantsGradient } from "../gradients.ts";
import { allocate, groupsFor, launch, release, THREADS } from "../launch.ts";
import { type Inputs, runOps } from "../op.ts";
import * as tf from "../tf.ts";
import { at, cpu, make, run, workspace, writeIntegers } from "../wasm/heap.ts";
import { sumOverLanes, total, withScratch } from "../wgsl.ts";
import { multiply, multiplyAll, type Product } from "./matmul.ts";
import { FORMAT_CODES } from "./matmulText.ts";
import { scaled } from "./scaled.ts";
import {
  type Part,
  partsOf,
  type Table,
  type TableAttributes,
  tableAttributes,
  tableInputs,
  tableShape,
} from "./table.ts";

/** The head as a kernel sees it. */
export interface Layout {
  parts: Part[];
  V: number;
  D: number;
}

export function layoutOf(inputs: Inputs, attributes: TableAttributes): Layout {
  const parts = partsOf(inputs, attributes);
  return { parts, V: parts.reduce((sum, { rows }) => sum + rows, 0), D: inputs.h.shape[1] };
}

/** Throws unless the head is as wide as h: [M, D]. */
export function checkHead(name: string, h: tf.Tensor, head: Table): void {
  const shape = tableShape(name, head);
  if (h.rank !== 2 || h.shape[1] !== shape[1]) throw new Error(`${name}: h is [${h.shape}], the head [${shape}]`);
}

/** What a loss on the head's logits adds to the inputs h: [N, D], the head, weights: [M] and, if not null, positions [M]. */
export interface LossAttributes extends TableAttributes {
  /** Whether the gradients are computed along with the loss, at dy = 1, as the logits are at hand. */
  gradients: boolean;
  /** False where the head is frozen. */
  headGradient: boolean;
}

export interface LossInputs {
  h: tf.Tensor;
  head: Table;
  positions: tf.Tensor | null;
  weights: tf.Tensor;
}

/** Run such an operation: its outputs are the loss and, while the tape records, the gradients by h and the head. */
export function runLoss(
  name: string,
  { h, head, positions, weights }: LossInputs,
  more: tf.NamedTensorMap,
  attributes: object = {},
): tf.Scalar {
  const gradients = tf.engine().state.gradientDepth > 0;
  const headGradient = gradients && head instanceof tf.Tensor && wantsGradient(head);
  const inputs = { h, ...tableInputs(head), ...more, weights, ...(positions && { positions }) };
  const [loss, ...kept] = runOps(name, inputs, { ...attributes, ...tableAttributes(head), gradients, headGradient });
  tf.dispose(kept); // The tape has clones.
  return loss as tf.Scalar;
}

/** Which outputs such an operation saves: the gradients. */
export const SAVED = [false, true, true];

export function savedGradients([dy]: tf.Tensor[], [dh, dweight]: tf.Tensor[]): Record<string, () => tf.Tensor> {
  return { h: () => scaled(dh, dy), ...(dweight && { table: () => scaled(dweight, dy) }) };
}

/** Throws unless there are as many positions (or rows of h) and weights as rows of targets. */
export function checkLoss(name: string, { h, head, positions, weights }: LossInputs, M: number): void {
  checkHead(name, h, head);
  const rows = positions ? positions.size : h.shape[0];
  if (rows === M && weights.size === M) return;
  throw new Error(
    `${name}: h is [${h.shape}], positions are [${positions?.shape}], weights [${weights.shape}], for ${M} rows of targets`,
  );
}

/** On the CPU: what of a loss is not in `LossInputs`. */
export interface RowTargets {
  /** int32 [M], or for distillation [M, k]. */
  targets: tf.TensorInfo;
  logProbabilities?: tf.TensorInfo;
  temperature?: number;
}

/** Outputs: the loss and, if asked for, the gradients by h and by the head. */
export function lossOnCpu(
  name: string,
  inputs: Inputs,
  { targets, logProbabilities, temperature = 1 }: RowTargets,
  attributes: LossAttributes,
): tf.TensorInfo[] {
  const { h, positions, weights } = inputs;
  const { gradients, headGradient } = attributes;
  const { V, D, parts } = layoutOf(inputs, attributes);
  const [N, M] = [h.shape[0], tf.util.sizeFromShape(weights.shape)];
  const k = logProbabilities ? targets.shape[1] : 0;
  const outputs = [make([])];
  if (gradients) outputs.push(make(h.shape));
  if (headGradient) outputs.push(make(inputs.table.shape));
  const [loss, dh = 0, dweight = 0] = outputs.map(at);
  const [positionsAt, targetsAt, weightsAt] = [positions ? at(positions) : 0, at(targets), at(weights)];
  const [table, work] = headTable(parts, cpu().headLossBytes(D, V, k));
  const teacher = logProbabilities ? at(logProbabilities) : 0;
  const addresses = [
    at(h),
    positionsAt,
    table.at,
    parts.length,
    targetsAt,
    teacher,
    weightsAt,
    loss,
    dh,
    dweight,
  ] as const;
  run(() => {
    refuseTarget(name, targetsAt, cpu().firstWrongTarget(targetsAt, weightsAt, M, Math.max(k, 1), V), V);
    if (positions) refusePosition(name, positionsAt, cpu().firstOutside(positionsAt, M, N), N);
    table.write();
    cpu().headLoss(...addresses, N, M, D, V, k, temperature, work);
  });
  return outputs;
}

function refuseTarget(name: string, targets: number, wrong: number, V: number): void {
  if (wrong < 0) return;
  throw new Error(`${name}: target ${cpu().integerAt(targets, wrong)} is not in the vocabulary of ${V}`);
}

function refusePosition(name: string, positions: number, wrong: number, N: number): void {
  if (wrong < 0) return;
  throw new Error(`${name}: position ${cpu().integerAt(positions, wrong)} is not among the ${N} hidden states`);
}

/** The head's parts as the CPU kernels read them, and working memory of `bytes` bytes. */
export function headTable(parts: Part[], bytes: number): [table: { at: number; write: () => void }, work: number] {
  const entries = parts.flatMap(({ tensor, format, rows }) => [format ? FORMAT_CODES[format] : -1, at(tensor), rows]);
  const address = workspace(entries.length * 4 + ALIGNMENT + bytes);
  const work = address + Math.ceil((entries.length * 4) / ALIGNMENT) * ALIGNMENT;
  return [{ at: address, write: () => writeIntegers(address, entries) }, work];
}

const ALIGNMENT = 64; // A cache line.

/** How many logits the GPU holds at a time: 32 MiB of them. Less where memory is short. */
export const headLossWorkspace = { elements: 1 << 23 };

/** A chunk of rows with their logits, which lie part by part of the head: [rows, partRows], [rows, partRows], ... */
export interface Chunk {
  logits: tf.TensorInfo;
  start: number;
  rows: number;
}

/** Call `use` with the logits of x's rows, a chunk at a time. x: [M, D] */
export function inChunks(x: tf.TensorInfo, { parts, V, D }: Layout, use: (chunk: Chunk) => void): void {
  const M = x.shape[0];
  const most = Math.min(M, chunkRows(V));
  withScratch([most, V], (logits) => {
    for (let start = 0; start < M; start += most) {
      const rows = Math.min(most, M - start);
      for (const { tensor, format, rows: N, start: before } of parts) {
        const product = { M: rows, N, K: D, transposeA: false, transposeB: true };
        const starts = { aStart: start * D, cStart: rows * before };
        multiply({ a: x, b: tensor, format: format ?? undefined, c: logits, ...product, ...starts });
      }
      use({ logits, start, rows });
    }
  });
}

/** Whole tiles of a product where there are several. */
function chunkRows(V: number): number {
  const most = Math.floor(headLossWorkspace.elements / V);
  return most < TILE ? Math.max(1, most) : most - (most % TILE);
}

const TILE = 64;

/** WGSL `place(row, v)`: where the logit of word v lies in a chunk; sizes `rows`, `V`, `partRows`. */
export function placeText({ parts }: Layout): string {
  if (parts.length === 1) return "fn place(row: u32, v: u32) -> u32 { return row * u.V + v; }";
  return /* wgsl */ `
    fn place(row: u32, v: u32) -> u32 {
      let start = v / u.partRows * u.partRows;
      return start * u.rows + row * min(u.partRows, u.V - start) + v - start;
    }
  `;
}

/** Threads that share a row of logits. */
export function rowThreads(V: number): number {
  return V < 4096 ? THREADS : 256;
}

/**
 * On the GPU: `rowLoss` launches what turns a chunk's rows into `losses` [M] and, in place, into the loss's gradients by
 * them. Outputs as of `lossOnCpu`.
 */
export function lossOnGpu(
  inputs: Inputs,
  attributes: LossAttributes,
  rowLoss: (chunk: Chunk, losses: tf.TensorInfo, layout: Layout) => void,
): tf.TensorInfo[] {
  const { h, positions, weights } = inputs;
  const { gradients, headGradient } = attributes;
  const layout = layoutOf(inputs, attributes);
  const M = tf.util.sizeFromShape(weights.shape);
  const rowsShape = [M, layout.D];
  const loss = allocate([]);
  const dh = gradients ? allocate(h.shape) : null;
  const dweight = headGradient ? allocate(inputs.table.shape) : null;
  const x = positions ? allocate(rowsShape) : h;
  const dx = dh && positions ? allocate(rowsShape) : dh;
  const losses = allocate([M]);
  if (positions) takeHidden(h, positions, x, dh);
  inChunks(x, layout, (chunk) => {
    rowLoss(chunk, losses, layout);
    if (dx) multiplyBack(chunk, x, layout, dx, dweight);
  });
  if (positions && dx && dh) finish(dx, positions, weights, losses, dh, loss);
  else total(losses, loss, M);
  release(losses);
  if (positions) release(x);
  if (positions && dx) release(dx);
  return [loss, dh, dweight].filter((output) => output !== null);
}

/** Products with the gradients by a chunk's logits: to dx: [M, D], and to dweight: [V, D], which grows from chunk to chunk. */
function multiplyBack(
  { logits, start, rows }: Chunk,
  x: tf.TensorInfo,
  { parts, V, D }: Layout,
  dx: tf.TensorInfo,
  dweight: tf.TensorInfo | null,
): void {
  const products = parts.map(({ tensor, format, rows: K, start: before }): Product => {
    const sizes = { M: rows, N: D, K, aStart: rows * before, cStart: start * D };
    const product = { transposeA: false, transposeB: false, accumulate: before > 0 };
    return { a: logits, b: tensor, format: format ?? undefined, c: dx, ...sizes, ...product };
  });
  if (dweight) {
    const sizes = { M: V, N: D, K: rows, bStart: start * D };
    products.push({
      a: logits,
      b: x,
      c: dweight,
      ...sizes,
      transposeA: true,
      transposeB: false,
      accumulate: start > 0,
    });
  }
  multiplyAll(products);
}

/** x[m] = h[positions[m]], NaN where there is no such row; and zeros in dh. */
function takeHidden(h: tf.TensorInfo, positions: tf.TensorInfo, x: tf.TensorInfo, dh: tf.TensorInfo | null): void {
  const [N, D] = h.shape;
  const size = x.shape[0] * D;
  const zeros = dh ? N * D : 0;
  launch({
    name: "takeHidden",
    source: takeText(dh !== null),
    reads: { h, positions },
    writes: dh ? { x, dh } : { x },
    sizes: { size, zeros, N, D },
    numbers: { none: Number.NaN },
    workgroups: groupsFor(Math.max(size, zeros)),
  });
}

const takeText = (gradients: boolean): string => /* wgsl */ `
  fn main(group: u32, thread: u32) {
    let i = group * THREADS + thread;
    ${gradients ? "if (i < u.zeros) { dh[i] = 0.0; }" : ""}
    if (i >= u.size) { return; }
    let row = positions[i / u.D];
    let known = row >= 0 && row < i32(u.N);
    x[i] = select(u.none, h[select(0u, u32(row), known) * u.D + i % u.D], known);
  }
`;

/** dh[positions[m]] = dx[m] where the weight is not 0, and loss = the sum of the losses: two small things in one launch. */
function finish(
  dx: tf.TensorInfo,
  positions: tf.TensorInfo,
  weights: tf.TensorInfo,
  losses: tf.TensorInfo,
  dh: tf.TensorInfo,
  loss: tf.TensorInfo,
): void {
  const [M, D] = dx.shape;
  const summing = groupsFor(M * D);
  launch({
    name: "finishHeadLoss",
    source: FINISH,
    reads: { dx, positions, weights, losses },
    writes: { dh, loss },
    sizes: { M, N: dh.shape[0], D, summing },
    workgroups: summing + 1,
  });
}

/** Spare workgroups come after the one that sums. */
const FINISH = /* wgsl */ `
  ${sumOverLanes(THREADS)}
  fn main(group: u32, thread: u32) {
    if (group < u.summing) {
      putBack(group * THREADS + thread);
      return;
    }
    var own = 0.0;
    for (var m = thread; m < u.M; m += THREADS) { own += losses[m]; }
    let all = sumOverLanes(own, thread);
    if (group == u.summing && thread == 0u) { loss[0] = all; }
  }
  fn putBack(i: u32) {
    if (i >= u.M * u.D) { return; }
    let m = i / u.D;
    let row = positions[m];
    if (weights[m] != 0.0 && row >= 0 && row < i32(u.N)) { dh[u32(row) * u.D + i % u.D] = dx[i]; }
  }
`;
