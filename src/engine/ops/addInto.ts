// Sums that grow in place: the gradients of several batches that make one step.

import { allocate, groupsFor, launch } from "../launch.ts";
import { defineOp, hasKernel, runOp } from "../op.ts";
import * as tf from "../tf.ts";
import { at, cpu, make, run } from "../wasm/heap.ts";

/**
 * In place: sum += x. Both: [...], of one shape.
 *
 * Changes `sum` and whatever shares its memory. No gradient.
 */
export function addInto(sum: tf.Tensor, x: tf.Tensor): void {
  if (!tf.util.arraysEqual(sum.shape, x.shape)) throw new Error(`addInto: sum is [${sum.shape}], x is [${x.shape}]`);
  if (hasKernel("AddInto")) {
    runOp("AddInto", { sum, x }).dispose();
    return;
  }
  const values = sum.dataSync() as Float32Array; // On the cpu backend this is the tensor's own memory.
  x.dataSync().forEach((value, i) => (values[i] += value));
}

/** The kernel's own output is one unused element: TensorFlow.js wants one. */
defineOp({
  name: "AddInto",
  wasm: ({ sum, x }) => {
    const [to, from, size] = [at(sum), at(x), tf.util.sizeFromShape(sum.shape)];
    run(() => cpu().add(to, from, to, size));
    return make([1]);
  },
  webgpu: ({ sum, x }) => {
    const size = tf.util.sizeFromShape(sum.shape);
    launch({
      name: "addInto",
      source: ADD,
      reads: { x },
      writes: { sum },
      sizes: { size },
      workgroups: groupsFor(size),
    });
    return allocate([1]);
  },
});

const ADD = /* wgsl */ `
  fn main(group: u32, thread: u32) {
    let i = group * THREADS + thread;
    if (i < u.size) { sum[i] += x[i]; }
  }
`;
