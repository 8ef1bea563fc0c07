// Losses on the head's logits on the GPU: a chunk of rows at a time, whose logits turn into their own gradients in place.

// M hidden states that predict, D hidden size, V vocabulary.

import { allocate, THREADS } from "../launch.ts";
import type { Inputs } from "../op.ts";
import * as tf from "../tf.ts";
import { total, withScratch } from "../wgsl.ts";
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

/** Call `use` with the logits of h's rows, a chunk at a time. h: [M, D] */
export function inChunks(h: tf.TensorInfo, { parts, V, D }: Layout, use: (chunk: Chunk) => void): void {
  const M = h.shape[0];
  const most = Math.min(M, chunkRows(V));
  withScratch([most, V], (logits) => {
    for (let start = 0; start < M; start += most) {
      const rows = Math.min(most, M - start);
      for (const { tensor, format, rows: N, start: before } of parts) {
        const product = { M: rows, N, K: D, transposeA: false, transposeB: true };
        const starts = { aStart: start * D, cStart: rows * before };
        multiply({ a: h, b: tensor, format: format ?? undefined, c: logits, ...product, ...starts });
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
  const { h } = inputs;
  const { gradients, headGradient } = attributes;
  const layout = layoutOf(inputs, attributes);
  const M = h.shape[0];
  const loss = allocate([]);
  const dh = gradients ? allocate(h.shape) : null;
  const dweight = headGradient ? allocate(inputs.table.shape) : null;
  withScratch([M], (losses) => {
    inChunks(h, layout, (chunk) => {
      rowLoss(chunk, losses, layout);
      if (dh) multiplyBack(chunk, h, layout, dh, dweight);
    });
    total(losses, loss, M);
  });
  return [loss, dh, dweight].filter((output) => output !== null);
}

/** Products with the gradients by a chunk's logits: to dh: [M, D], and to dweight: [V, D], which grows from chunk to chunk. */
function multiplyBack(
  { logits, start, rows }: Chunk,
  h: tf.TensorInfo,
  { parts, V, D }: Layout,
  dh: tf.TensorInfo,
  dweight: tf.TensorInfo | null,
): void {
  const products = parts.map(({ tensor, format, rows: K, start: before }): Product => {
    const sizes = { M: rows, N: D, K, aStart: rows * before, cStart: start * D };
    const product = { transposeA: false, transposeB: false, accumulate: before > 0 };
    return { a: logits, b: tensor, format: format ?? undefined, c: dh, ...sizes, ...product };
  });
  if (dweight) {
    const sizes = { M: V, N: D, K: rows, bStart: start * D };
    products.push({
      a: logits,
      b: h,
      c: dweight,
      ...sizes,
      transposeA: true,
      transposeB: false,
      accumulate: start > 0,
    });
  }
  multiplyAll(products);
}
