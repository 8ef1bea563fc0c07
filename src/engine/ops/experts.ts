// The routed experts of a mixture (Shazeer et al., 2017; DeepSeekMoE): each token passes through the SwiGLU networks it
// was routed to, and their outputs are added with the router's weights.

// N tokens, D hidden size, E experts, S = the sum of all experts' widths. Expert e has channels offsets[e]..offsets[e+1]-1,
// so that pruned experts may differ in width.

import { wantsGradient } from "../gradients.ts";
import { defineOp, hasKernel, runOps } from "../op.ts";
import * as tf from "../tf.ts";
import { at, cpu, make, view, workspace, writeIntegers } from "../wasm/heap.ts";

export interface ExpertWeights {
  gate: tf.Tensor; // [S, D]
  up: tf.Tensor; // [S, D]
  down: tf.Tensor; // [D, S]
  /** Length E + 1, from 0 to S. */
  offsets: number[];
}

/**
 * x: [N, D], chosen: int32 [N, topK], weights: [N, topK] -> [N, D].
 *
 * y[n] = sum over k of weights[n, k] * down_e(silu(gate_e(x[n])) * up_e(x[n])), e = chosen[n, k].
 */
export function experts(x: tf.Tensor, chosen: tf.Tensor, weights: tf.Tensor, p: ExpertWeights): tf.Tensor {
  const S = p.offsets.at(-1)!;
  const D = x.shape[1]!;
  const right =
    p.gate.shape[0]! === S &&
    p.gate.shape[1]! === D &&
    p.up.shape[0]! === S &&
    p.down.shape[0]! === D &&
    p.down.shape[1]! === S;
  if (!right || !tf.util.arraysEqual(chosen.shape, weights.shape)) {
    throw new Error(
      `experts: x is [${x.shape}], chosen [${chosen.shape}], weights [${weights.shape}], gate [${p.gate.shape}], ` +
        `up [${p.up.shape}], down [${p.down.shape}], ${S} channels by the offsets`,
    );
  }
  if (!hasKernel("Experts")) return expertsReference(x, chosen, weights, p);
  const { gate, up, down, offsets } = p;
  const weightGradients = wantsGradient(gate) || wantsGradient(up) || wantsGradient(down);
  const [y, hidden] = runOps("Experts", { x, chosen, weights, gate, up, down }, { offsets, weightGradients });
  hidden.dispose(); // The tape has a clone where it needs one.
  return y;
}

/** The definition in plain operations: every expert sees every token. */
export function expertsReference(x: tf.Tensor, chosen: tf.Tensor, weights: tf.Tensor, p: ExpertWeights): tf.Tensor {
  const D = x.shape[1]!;
  const parts: tf.Tensor[] = [];
  for (let e = 0; e + 1 < p.offsets.length; e++) {
    const [from, width] = [p.offsets[e], p.offsets[e + 1] - p.offsets[e]];
    if (width === 0) continue;
    const part = weights.mul(chosen.equal(tf.scalar(e, "int32")).cast("float32")).sum(1, true); // [N, 1]
    const gate = tf.matMul(x as tf.Tensor2D, p.gate.slice([from, 0], [width, D]) as tf.Tensor2D, false, true);
    const up = tf.matMul(x as tf.Tensor2D, p.up.slice([from, 0], [width, D]) as tf.Tensor2D, false, true);
    const act = gate.mul(gate.sigmoid()).mul(up); // [N, width]
    parts.push(
      tf.matMul(act as tf.Tensor2D, p.down.slice([0, from], [D, width]) as tf.Tensor2D, false, true).mul(part),
    );
  }
  return tf.addN(parts);
}

interface Attributes {
  offsets: number[];
  /** False where the experts are frozen: their gradients are then not computed. */
  weightGradients: boolean;
}

/** N, D, topK, E, S and the widest expert's width. */
function sizesOf(x: tf.TensorInfo, chosen: tf.TensorInfo, offsets: number[]) {
  const widest = Math.max(...offsets.slice(1).map((end, e) => end - offsets[e]));
  return [x.shape[0], x.shape[1], chosen.shape[1], offsets.length - 1, offsets.at(-1)!, widest] as const;
}

/** Working memory that begins with the offsets; `rest` are `bytes` bytes after them. */
function workspaceAfter(offsets: number[], bytes: number): { offsets: number; rest: number } {
  const own = Math.ceil(offsets.length / 4) * 16;
  const address = workspace(own + bytes);
  writeIntegers(address, offsets);
  return { offsets: address, rest: address + own };
}

/**
 * Outputs: y [N, D], hidden [N*topK, 2, widest expert] (what the gradient needs of the gate and up products; each
 * backend lays it out as it likes).
 */
defineOp<Attributes>({
  name: "Experts",
  saves: ["x", "chosen", "weights", "gate", "up", "down"],
  savesOutputs: [false, true],
  wasm: ({ x, chosen, weights, gate, up, down }, { offsets }) => {
    const sizes = sizesOf(x, chosen, offsets);
    const [, D, , E, , widest] = sizes;
    const slots = tf.util.sizeFromShape(chosen.shape);
    const [y, hidden] = [make(x.shape), make([slots, 2, widest])];
    const work = workspaceAfter(offsets, cpu().expertsBytes(slots, D, E, widest));
    const inputs = [at(x), at(chosen), at(weights), at(gate), at(up), at(down), work.offsets] as const;
    const wrong = cpu().experts(...inputs, at(y), at(hidden), ...sizes, work.rest);
    if (wrong >= 0) throw new Error(`experts: expert ${view(chosen)[wrong]} is not among the ${E}`);
    return [y, hidden];
  },
  gradient: ([dy], [x, chosen, weights, gate, up, down, hidden], attributes) => {
    const inputs = { dy, x, chosen, weights, gate, up, down, hidden };
    const [dx, dweights, dgate, dup, ddown] = runOps("ExpertsGradient", inputs, attributes);
    // Weights that are computed from leaves are none themselves, but their gradients are wanted all the same.
    const late = () => runOps("ExpertsGradient", inputs, { ...attributes, weightGradients: true });
    return {
      x: () => dx,
      weights: () => dweights,
      gate: () => dgate ?? late()[2],
      up: () => dup ?? late()[3],
      down: () => ddown ?? late()[4],
    };
  },
});

/** dy: [N, D] and what Experts saved -> [dx, dweights], with weightGradients also [dgate, dup, ddown]. */
defineOp<Attributes>({
  name: "ExpertsGradient",
  wasm: ({ dy, x, chosen, weights, gate, up, down, hidden }, { offsets, weightGradients }) => {
    const sizes = sizesOf(x, chosen, offsets);
    const [, D, , E, , widest] = sizes;
    const outputs = [x, weights, ...(weightGradients ? [gate, up, down] : [])].map(({ shape }) => make(shape));
    const [dx, dweights, dgate = 0, dup = 0, ddown = 0] = outputs.map(at);
    const bytes = cpu().expertsGradientBytes(tf.util.sizeFromShape(chosen.shape), D, E, widest);
    const work = workspaceAfter(offsets, bytes);
    const inputs = [at(dy), at(x), at(chosen), at(weights), at(gate), at(up), at(down), work.offsets] as const;
    cpu().expertsGradient(...inputs, at(hidden), dx, dweights, dgate, dup, ddown, ...sizes, work.rest);
    return outputs;
  },
});
