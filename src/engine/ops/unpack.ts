// A packed matrix in float32, where something wants it whole: to merge an adapter into it, or to look at it.

import { allocate, groupsFor, launch } from "../launch.ts";
import { defineOp, hasKernel, runOp } from "../op.ts";
import type { PackedFormat, PackedMatrix } from "../packed.ts";
import { unpackWords } from "../packWords.ts";
import * as tf from "../tf.ts";
import { at, cpu, make, run } from "../wasm/heap.ts";
import { elements, FORMAT_CODES, scalesAt } from "./matmulText.ts";

/** -> float32 [rows, columns]. No gradient: what is packed is frozen. */
export function unpackedMatrix(matrix: PackedMatrix): tf.Tensor {
  if (!hasKernel("UnpackMatrix")) return unpackedReference(matrix);
  const { words, shape, format } = matrix;
  return runOp("UnpackMatrix", { words }, { shape, format });
}

/** The definition: one value after another. */
export function unpackedReference({ words, shape, format }: PackedMatrix): tf.Tensor {
  return tf.tensor2d(unpackWords(words.dataSync<"int32">(), shape, format), shape);
}

defineOp<{ shape: [number, number]; format: PackedFormat }>({
  name: "UnpackMatrix",
  wasm: ({ words }, { shape, format }) => {
    const [rows, columns] = shape;
    const y = make(shape);
    const [from, to, code] = [at(words), at(y), FORMAT_CODES[format]];
    run(() => cpu().unpackRows(code, from, rows, columns, 0, rows, to));
    return y;
  },
  webgpu: ({ words }, { shape, format }) => {
    const size = shape[0] * shape[1];
    const y = allocate(shape);
    launch({
      name: "unpack",
      source: kernel(format),
      reads: { words },
      writes: { y },
      sizes: { size, valueScales: scalesAt(format, words) },
      workgroups: groupsFor(Math.ceil(size / 2)),
    });
    return y;
  },
});

/** Two values a thread: what a word of f16 holds. */
const kernel = (format: PackedFormat): string => /* wgsl */ `
  ${elements({ name: "words", vectors: false, format }, "value")}
  fn main(group: u32, thread: u32) {
    let i = 2u * (group * THREADS + thread);
    if (i >= u.size) { return; }
    y[i] = valueone(i);
    y[i + 1u] = valueone(i + 1u);
  }
`;
