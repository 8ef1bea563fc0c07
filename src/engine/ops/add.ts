// The sum of two tensors of one shape: what the tape adds where a tensor was used twice.

import { allocate, groupsFor, launch } from "../launch.ts";
import { defineOp, hasKernel, runOp } from "../op.ts";
import * as tf from "../tf.ts";
import { at, cpu, make, run } from "../wasm/heap.ts";

/** a, b: [...] -> [...] */
export function add(a: tf.Tensor, b: tf.Tensor): tf.Tensor {
  if (!canAdd({ a, b })) throw new Error(`add: a is ${a.dtype} [${a.shape}], b is ${b.dtype} [${b.shape}]`);
  return hasKernel("AddAlike") ? runOp("AddAlike", { a, b }) : tf.add(a, b);
}

/** Whether two tensors are of one shape, and float32. */
export function canAdd({ a, b }: tf.NamedTensorMap): boolean {
  return tf.util.arraysEqual(a.shape, b.shape) && a.dtype === "float32" && b.dtype === "float32";
}

defineOp({
  name: "AddAlike",
  wasm: ({ a, b }) => {
    const y = make(a.shape);
    const addresses = [at(a), at(b), at(y)] as const;
    const size = tf.util.sizeFromShape(a.shape);
    run(() => cpu().add(...addresses, size));
    return y;
  },
  webgpu: ({ a, b }) => {
    const y = allocate(a.shape);
    const size = tf.util.sizeFromShape(a.shape);
    launch({ name: "add", source: SUM, reads: { a, b }, writes: { y }, sizes: { size }, workgroups: groupsFor(size) });
    return y;
  },
  gradient: ([dy]) => ({ a: () => dy, b: () => dy }),
});

const SUM = /* wgsl */ `
  fn main(group: u32, thread: u32) {
    let i = group * THREADS + thread;
    if (i < u.size) { y[i] = a[i] + b[i]; }
  }
`;
