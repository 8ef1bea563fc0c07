// What operations of many parts put into the working memory of the CPU's kernels.

import type { PackedFormat } from "../packed.ts";
import type * as tf from "../tf.ts";
import { at, workspace } from "../wasm/heap.ts";
import { FORMAT_CODES, scalesAt } from "./matmulText.ts";

/** Addresses of parts of the working memory, each of so many elements, one after the other: 16-byte aligned. */
export function workspaces(...elements: number[]): number[] {
  const starts: number[] = [];
  let bytes = 0;
  for (const count of elements) {
    starts.push(bytes);
    bytes += Math.ceil(count / 4) * 16;
  }
  const address = workspace(bytes);
  return starts.map((start) => address + start);
}

/** Words that tell a kernel of a matrix (assembly/stored.ts): how it is stored, where its values and its scales begin. */
export const MATRIX_WORDS = 3;

const F32 = -1;

/** Of matrices that are stored in these tensors, as `formats` has it by name; else float32. */
export function matrixWords(tensors: Record<string, tf.TensorInfo>, formats: Record<string, PackedFormat>): number[] {
  return Object.entries(tensors).flatMap(([name, tensor]) => {
    const [format, values] = [formats[name], at(tensor)];
    return format ? [FORMAT_CODES[format], values, values + 4 * scalesAt(format, tensor)] : [F32, values, 0];
  });
}
