// SwiGLU (Shazeer, 2020, eq. 6): y = silu(gate) * up, silu(z) = z * sigmoid(z).

import { allocate, groupsFor, launch } from "../launch.ts";
import { defineOp, hasKernel, runOp, runOps } from "../op.ts";
import * as tf from "../tf.ts";
import { at, cpu, make, run } from "../wasm/heap.ts";
import { SIGMOID } from "../wgsl.ts";

/** gate, up: [..., F] -> [..., F] */
export function swiGlu(gate: tf.Tensor, up: tf.Tensor): tf.Tensor {
  if (!tf.util.arraysEqual(gate.shape, up.shape)) {
    throw new Error(`swiGlu: gate is [${gate.shape}], up is [${up.shape}]`);
  }
  if (!hasKernel("SwiGlu")) return swiGluReference(gate, up);
  return runOp("SwiGlu", { gate, up });
}

/** The definition in plain operations. */
export function swiGluReference(gate: tf.Tensor, up: tf.Tensor): tf.Tensor {
  return gate.mul(gate.sigmoid()).mul(up);
}

defineOp({
  name: "SwiGlu",
  saves: ["gate", "up"],
  wasm: ({ gate, up }) => {
    const y = make(gate.shape);
    const addresses = [at(gate), at(up), at(y)] as const;
    const size = tf.util.sizeFromShape(gate.shape);
    run(() => cpu().swiGlu(...addresses, size));
    return y;
  },
  webgpu: ({ gate, up }) => {
    const y = allocate(gate.shape);
    const size = tf.util.sizeFromShape(gate.shape);
    const [reads, writes] = [{ gate, up }, { y }];
    launch({ name: "swiGlu", source: FORWARD, reads, writes, sizes: { size }, workgroups: groupsFor(size) });
    return y;
  },
  gradient: ([dy], [gate, up]) => {
    const [dgate, dup] = runOps("SwiGluGradient", { dy, gate, up });
    return { gate: () => dgate, up: () => dup };
  },
});

/** dy, gate, up -> [dgate, dup], all of one shape. */
defineOp({
  name: "SwiGluGradient",
  wasm: ({ dy, gate, up }) => {
    const [dgate, dup] = [make(gate.shape), make(up.shape)];
    const addresses = [at(dy), at(gate), at(up), at(dgate), at(dup)] as const;
    const size = tf.util.sizeFromShape(gate.shape);
    run(() => cpu().swiGluGradient(...addresses, size));
    return [dgate, dup];
  },
  webgpu: ({ dy, gate, up }) => {
    const [dgate, dup] = [allocate(gate.shape), allocate(up.shape)];
    const size = tf.util.sizeFromShape(gate.shape);
    const [reads, writes] = [
      { dy, gate, up },
      { dgate, dup },
    ];
    launch({ name: "swiGluGradient", source: GRADIENT, reads, writes, sizes: { size }, workgroups: groupsFor(size) });
    return [dgate, dup];
  },
});

const FORWARD = /* wgsl */ `
  ${SIGMOID}
  fn main(group: u32, thread: u32) {
    let i = group * THREADS + thread;
    if (i >= u.size) { return; }
    y[i] = gate[i] * sigmoid(gate[i]) * up[i];
  }
`;

// silu'(z) = s + z * s * (1 - s), s = sigmoid(z).
const GRADIENT = /* wgsl */ `
  ${SIGMOID}
  fn main(group: u32, thread: u32) {
    let i = group * THREADS + thread;
    if (i >= u.size) { return; }
    let z = gate[i];
    let s = sigmoid(z);
    dgate[i] = dy[i] * up[i] * (s + z * s * (1.0 - s));
    dup[i] = dy[i] * z * s;
  }
`;
