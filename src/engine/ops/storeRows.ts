// Write rows into a buffer that outlives the call: the cache of keys and values while decoding.

import { allocate, groupsFor, launch } from "../launch.ts";
import { defineOp, hasKernel, runOp } from "../op.ts";
import * as tf from "../tf.ts";
import { at, cpu, make, run, view } from "../wasm/heap.ts";

/**
 * In place: target[slots[i]] = rows[i], for target [R, D] (any leading axes folded), rows: [N, D], slots: int32 [N].
 *
 * Changes `target`; nothing else may hold an alias that expects the old content. No gradient.
 */
export function storeRows(target: tf.Tensor, rows: tf.Tensor, slots: tf.Tensor): void {
  const width = rows.shape.at(-1)!;
  if (target.size % width !== 0 || slots.size * width !== rows.size) {
    throw new Error(`storeRows: target is [${target.shape}], rows are [${rows.shape}], slots [${slots.shape}]`);
  }
  if (hasKernel("StoreRows")) {
    runOp("StoreRows", { target, rows, slots }).dispose();
    return;
  }
  const to = target.dataSync() as Float32Array; // On the cpu backend this is the tensor's own memory.
  const from = rows.dataSync();
  slots.dataSync().forEach((slot, i) => to.set(from.subarray(i * width, (i + 1) * width), slot * width));
}

/** The kernel's own output is one unused element: TensorFlow.js wants one. */
defineOp({
  name: "StoreRows",
  wasm: ({ target, rows, slots }) => {
    const D = rows.shape.at(-1);
    const known = tf.util.sizeFromShape(target.shape) / D;
    const count = tf.util.sizeFromShape(slots.shape);
    const addresses = [at(target), at(rows), at(slots)] as const;
    run(() => {
      const wrong = cpu().storeRows(...addresses, count, D, known);
      if (wrong >= 0) throw new Error(`storeRows: slot ${view(slots)[wrong]} is not among the target's ${known}`);
    });
    return make([1]);
  },
  webgpu: ({ target, rows, slots }) => {
    const D = rows.shape.at(-1);
    const size = tf.util.sizeFromShape(rows.shape);
    const known = tf.util.sizeFromShape(target.shape) / D;
    launch({
      name: "storeRows",
      source: STORE,
      reads: { rows, slots },
      writes: { table: target }, // "target" is reserved in WGSL.
      sizes: { size, D, known },
      workgroups: groupsFor(size),
    });
    return allocate([1]);
  },
});

/** A slot outside the target is left out. */
const STORE = /* wgsl */ `
  fn main(group: u32, thread: u32) {
    let i = group * THREADS + thread;
    if (i >= u.size) { return; }
    let slot = slots[i / u.D];
    if (slot >= 0 && slot < i32(u.known)) { table[u32(slot) * u.D + i % u.D] = rows[i]; }
  }
`;
