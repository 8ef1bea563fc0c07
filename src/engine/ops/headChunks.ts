// Losses on the head's logits on the GPU: a chunk of rows at a time, whose logits turn into their own gradients in place.

// N hidden states, D hidden size, M rows of them that carry loss, V vocabulary.

import { softwareGpu } from "../device.ts";
import { allocate, groupsFor, launch, release, THREADS } from "../launch.ts";
import type { Inputs } from "../op.ts";
import * as tf from "../tf.ts";
import { sumOverLanes, total, withScratch } from "../wgsl.ts";
import { type Layout, layoutOf, type LossAttributes } from "./head.ts";
import { multiply, multiplyAll, type Product } from "./matmul.ts";

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
 * Outputs: the loss and, if asked for, the gradients by h and by the head. `rowLoss` launches what turns a chunk's rows into
 * `losses` [M] and, in place, into the loss's gradients by them.
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
    source: finishText(softwareGpu() ? 1 : THREADS),
    reads: { dx, positions, weights, losses },
    writes: { dh, loss },
    sizes: { M, N: dh.shape[0], D, summing },
    workgroups: summing + 1,
  });
}

/** Spare workgroups come after the one that sums. Where a barrier is slow, one thread does that. */
const finishText = (lanes: number): string => /* wgsl */ `
  ${sumOverLanes(lanes)}
  fn main(group: u32, thread: u32) {
    if (group < u.summing) {
      putBack(group * THREADS + thread);
      return;
    }
    var own = 0.0;
    for (var m = thread; m < u.M; m += ${lanes}u) { own += losses[m]; }
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
