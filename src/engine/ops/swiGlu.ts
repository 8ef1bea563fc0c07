// SwiGLU (Shazeer, 2020, eq. 6): y = silu(gate) * up, silu(z) = z * sigmoid(z).

import { defineOp, hasKernel, runOp, runOps } from "../op.ts";
import * as tf from "../tf.ts";
import { at, cpu, make } from "../wasm/heap.ts";

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
    cpu().swiGlu(at(gate), at(up), at(y), tf.util.sizeFromShape(gate.shape));
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
    cpu().swiGluGradient(at(dy), at(gate), at(up), at(dgate), at(dup), tf.util.sizeFromShape(gate.shape));
    return [dgate, dup];
  },
});
