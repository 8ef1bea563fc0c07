// A tensor of zeros that is filled where it lies, at every replay of a recorded step.

import { allocate, groupsFor, launch } from "../launch.ts";
import { defineOp, hasKernel, runOp } from "../op.ts";
import * as tf from "../tf.ts";
import { at, cpu, make, run } from "../wasm/heap.ts";

/** -> [...shape] */
export function zeros(shape: number[]): tf.Tensor {
  if (!hasKernel("FillZeros")) return tf.zeros(shape);
  return runOp("FillZeros", {}, { shape });
}

defineOp<{ shape: number[] }>({
  name: "FillZeros",
  wasm: (_, { shape }) => {
    const y = make(shape);
    const [address, size] = [at(y), tf.util.sizeFromShape(shape)];
    run(() => cpu().columnSums(0, address, 0, size)); // Of no rows.
    return y;
  },
  webgpu: (_, { shape }) => {
    const y = allocate(shape);
    const size = tf.util.sizeFromShape(shape);
    launch({ name: "zeros", source: FILL, reads: {}, writes: { y }, sizes: { size }, workgroups: groupsFor(size) });
    return y;
  },
});

const FILL = /* wgsl */ `
  fn main(group: u32, thread: u32) {
    let i = group * THREADS + thread;
    if (i < u.size) { y[i] = 0.0; }
  }
`;
