// The gated MLP (Shazeer, 2020, eq. 6): y = down(silu(gate(x)) * up(x)), as one operation.

// N tokens, D hidden size, F channels.

import { wantsGradient } from "../gradients.ts";
import { allocate } from "../launch.ts";
import { defineOp, hasKernel, type Inputs, runOps } from "../op.ts";
import * as tf from "../tf.ts";
import { at, cpu, make, run, workspace } from "../wasm/heap.ts";
import { withScratch } from "../wgsl.ts";
import {
  channelsOf,
  launchHiddenGradient,
  launchInner,
  launchInnerGradient,
  launchOuter,
  launchOuterGradient,
  launchTokenGradient,
  named,
  planOf,
} from "./gatedMlpKernels.ts";
import { swiGluReference } from "./swiGlu.ts";

export interface MlpWeights {
  gate: tf.Tensor; // [F, D]
  up: tf.Tensor; // [F, D]
  down: tf.Tensor; // [D, F]
}

/** x: [N, D], residual: [N, D] or null -> residual + down(silu(gate(x)) * up(x)): [N, D] */
export function gatedMlp(x: tf.Tensor, p: MlpWeights, residual: tf.Tensor | null): tf.Tensor {
  checkMlp("gatedMlp", x, p);
  if (residual && !tf.util.arraysEqual(residual.shape, x.shape)) {
    throw new Error(`gatedMlp: x is [${x.shape}], residual [${residual.shape}]`);
  }
  if (!hasKernel("GatedMlp")) return gatedMlpReference(x, p, residual);
  const inputs = { x, ...weightsOf(p), ...(residual && { residual }) };
  const [y, hidden] = runOps("GatedMlp", inputs, { weightGradients: Object.values(weightsOf(p)).some(wantsGradient) });
  hidden.dispose(); // The tape has a clone where it needs one.
  return y;
}

/** The definition in plain operations. */
export function gatedMlpReference(x: tf.Tensor, { gate, up, down }: MlpWeights, residual: tf.Tensor | null): tf.Tensor {
  const act = swiGluReference(tf.matMul(x, gate, false, true), tf.matMul(x, up, false, true)); // [N, F]
  const y = tf.matMul(act as tf.Tensor2D, down as tf.Tensor2D, false, true); // [N, D]
  return residual ? residual.add(y) : y;
}

export function checkMlp(name: string, x: tf.Tensor, { gate, up, down }: MlpWeights): void {
  const D = x.shape[1];
  const F = gate.shape[0];
  const wanted: [tf.Tensor, number[]][] = [
    [gate, [F, D!]],
    [up, [F, D!]],
    [down, [D!, F]],
  ];
  if (x.rank === 2 && wanted.every(([weight, shape]) => tf.util.arraysEqual(weight.shape, shape))) return;
  throw new Error(`${name}: x is [${x.shape}], gate [${gate.shape}], up [${up.shape}], down [${down.shape}]`);
}

/** Only the weights, whatever else the object holds. */
export function weightsOf({ gate, up, down }: MlpWeights): { gate: tf.Tensor; up: tf.Tensor; down: tf.Tensor } {
  return { gate, up, down };
}

interface Attributes {
  /** False where the weights are frozen: their gradients are then not computed. */
  weightGradients: boolean;
}

function sizesOf({ x, gate }: Inputs): { N: number; D: number; F: number } {
  return { N: x.shape[0], D: x.shape[1], F: gate.shape[0] };
}

/** Outputs: y [N, D], and of the products with gate and up what the gradient needs, as each backend lays it out: [N*2*F]. */
defineOp<Attributes>({
  name: "GatedMlp",
  saves: ["x", "gate", "up", "down"],
  savesOutputs: [false, true],
  wasm: (inputs) => {
    const { x, gate, up, down, residual } = inputs;
    const { N, D, F } = sizesOf(inputs);
    const [y, hidden] = [make(x.shape), make([2 * N * F])];
    const addresses = [at(x), at(gate), at(up), at(down), at(y), at(hidden)] as const;
    const [from, to] = [residual && at(residual), at(y)];
    const work = workspace(cpu().gatedMlpBytes(F));
    run(() => {
      if (from) cpu().copyRows(from, D, to, D, N, D);
      cpu().gatedMlp(...addresses, N, D, F, from !== undefined, work);
    });
    return [y, hidden];
  },
  webgpu: (inputs) => {
    const { x, gate, up, down, residual } = inputs;
    const plan = planOf(x.shape, { channels: sizesOf(inputs).F }, null);
    const [y, hidden] = [allocate(x.shape), allocate([channelsOf(plan, 2)])];
    withScratch([channelsOf(plan, 1)], (act) => {
      launchInner(plan, { x, ...named(null, { gate, up }) }, { hidden, act });
      launchOuter(plan, { act, ...named(null, { down }), ...(residual && { residual }) }, { y });
    });
    return [y, hidden];
  },
  gradient: ([dy], [x, gate, up, down, hidden], attributes) => {
    const inputs = { dy, x, gate, up, down, hidden };
    const [dx, ...dweights] = runOps("GatedMlpGradient", inputs, attributes);
    // Weights that are computed from leaves are none themselves, but their gradients are wanted all the same.
    const late = () => runOps("GatedMlpGradient", inputs, { weightGradients: true }).slice(1);
    const of = (i: number) => () => dweights[i] ?? late()[i];
    return { x: () => dx, gate: of(0), up: of(1), down: of(2), residual: () => dy };
  },
});

/** dy: [N, D] and what GatedMlp saved -> [dx], with weightGradients also [dgate, dup, ddown]. */
defineOp<Attributes>({
  name: "GatedMlpGradient",
  wasm: (inputs, { weightGradients }) => {
    const { dy, x, gate, up, down, hidden } = inputs;
    const { N, D, F } = sizesOf(inputs);
    const outputs = [x, ...(weightGradients ? [gate, up, down] : [])].map(({ shape }) => make(shape));
    const addresses = [at(dy), at(x), at(gate), at(up), at(down), at(hidden)] as const;
    const [dx, dgate = 0, dup = 0, ddown = 0] = outputs.map(at);
    const work = workspace(cpu().gatedMlpGradientBytes(F));
    run(() => cpu().gatedMlpGradient(...addresses, dx, dgate, dup, ddown, N, D, F, false, work));
    return outputs;
  },
  webgpu: (inputs, { weightGradients }) => {
    const { dy, x, gate, up, down, hidden } = inputs;
    const plan = planOf(x.shape, { channels: sizesOf(inputs).F }, null);
    const outputs = [x, ...(weightGradients ? [gate, up, down] : [])].map(({ shape }) => allocate(shape));
    const [dx, dgate, dup, ddown] = outputs;
    withScratch([channelsOf(plan, 3)], (dhidden) => {
      launchHiddenGradient(plan, { dy, ...named(null, { down }), hidden }, { dhidden });
      launchTokenGradient(plan, { dhidden, ...named(null, { gate, up }) }, { dx });
      if (!weightGradients) return;
      launchInnerGradient(plan, { x, dhidden }, named(null, { dgate, dup }));
      launchOuterGradient(plan, { dy, dhidden }, named(null, { ddown }));
    });
    return outputs;
  },
});
