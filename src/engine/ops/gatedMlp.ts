// The gated MLP (Shazeer, 2020, eq. 6): y = down(silu(gate(x)) * up(x)), as one operation.

// N tokens, D hidden size, F channels.

import { wantsGradient } from "../gradients.ts";
import { allocate } from "../launch.ts";
import { defineOp, hasKernel, type Inputs, runOps } from "../op.ts";
import { isPacked, type Matrix, type PackedFormat } from "../packed.ts";
import * as tf from "../tf.ts";
import { at, cpu, make, run, writeIntegers } from "../wasm/heap.ts";
import { withScratch } from "../wgsl.ts";
import {
  channelsOf,
  type Formats,
  launchHiddenGradient,
  launchInner,
  launchInnerGradient,
  launchOuter,
  launchOuterGradient,
  launchTokenGradient,
  named,
  planOf,
  type Plan,
} from "./gatedMlpKernels.ts";
import { MATRIX_WORDS, matrixWords, workspaces } from "./onHeap.ts";
import { swiGluReference } from "./swiGlu.ts";
import { unpackedMatrix } from "./unpack.ts";

/** Where one of the three is packed, all are frozen. */
export interface MlpWeights {
  gate: Matrix; // [F, D]
  up: Matrix; // [F, D]
  down: Matrix; // [D, F]
}

/** x: [N, D], residual: [N, D] or null -> residual + down(silu(gate(x)) * up(x)): [N, D] */
export function gatedMlp(x: tf.Tensor, p: MlpWeights, residual: tf.Tensor | null): tf.Tensor {
  checkMlp("gatedMlp", x, p);
  if (residual && !tf.util.arraysEqual(residual.shape, x.shape)) {
    throw new Error(`gatedMlp: x is [${x.shape}], residual [${residual.shape}]`);
  }
  if (!hasKernel("GatedMlp")) return gatedMlpReference(x, p, residual);
  const inputs = { x, ...weightsOf(p), ...(residual && { residual }) };
  const attributes: Attributes = { F: p.gate.shape[0], formats: formatsOf(p), weightGradients: areTrained(p) };
  const [y, hidden] = runOps("GatedMlp", inputs, attributes);
  hidden.dispose(); // The tape has a clone where it needs one.
  return y;
}

/** The definition in plain operations. */
export function gatedMlpReference(x: tf.Tensor, p: MlpWeights, residual: tf.Tensor | null): tf.Tensor {
  const [gate, up, down] = [p.gate, p.up, p.down].map(inFloat32);
  const act = swiGluReference(tf.matMul(x, gate, false, true), tf.matMul(x, up, false, true)); // [N, F]
  const y = tf.matMul(act as tf.Tensor2D, down as tf.Tensor2D, false, true); // [N, D]
  return residual ? residual.add(y) : y;
}

export function inFloat32(matrix: Matrix): tf.Tensor {
  return isPacked(matrix) ? unpackedMatrix(matrix) : matrix;
}

export function checkMlp(name: string, x: tf.Tensor, { gate, up, down }: MlpWeights): void {
  const D = x.shape[1];
  const F = gate.shape[0];
  const wanted: [Matrix, number[]][] = [
    [gate, [F, D!]],
    [up, [F, D!]],
    [down, [D!, F]],
  ];
  if (x.rank === 2 && wanted.every(([weight, shape]) => tf.util.arraysEqual(weight.shape, shape))) return;
  throw new Error(`${name}: x is [${x.shape}], gate [${gate.shape}], up [${up.shape}], down [${down.shape}]`);
}

const NAMES = ["gate", "up", "down"] as const;

/** The tensors that only the weights lie in, whatever else the object holds. */
export function weightsOf(p: MlpWeights): Record<(typeof NAMES)[number], tf.Tensor> {
  const [gate, up, down] = NAMES.map((name) => p[name]).map((matrix) => (isPacked(matrix) ? matrix.words : matrix));
  return { gate, up, down };
}

/** Of those that are packed. */
export function formatsOf(p: MlpWeights): Formats {
  const packed = NAMES.map((name) => [name, p[name]] as const);
  return Object.fromEntries(packed.flatMap(([name, matrix]) => (isPacked(matrix) ? [[name, matrix.format]] : [])));
}

/** Whether their gradients may be wanted. */
export function areTrained(p: MlpWeights): boolean {
  const tensors = NAMES.map((name) => p[name]).flatMap((matrix) => (isPacked(matrix) ? [] : [matrix]));
  return tensors.length === NAMES.length && tensors.some(wantsGradient);
}

/** Throws if one of these is packed. */
export function checkTrainable(name: string, formats: (PackedFormat | undefined)[]): void {
  const format = formats.find((one) => one);
  if (!format) return;
  throw new Error(
    `${name} are stored as ${format} and frozen: train adapters on this model, or load it as f32 to change its weights.`,
  );
}

interface Attributes {
  F: number;
  formats: Formats;
  /** False where the weights are frozen: their gradients are then not computed. */
  weightGradients: boolean;
}

function planOfInputs({ x }: Inputs, { F, formats }: Attributes): Plan {
  return planOf(x.shape, { channels: F }, null, named(null, formats));
}

/** Outputs: y [N, D], and of the products with gate and up what the gradient needs, as each backend lays it out: [N*2*F]. */
defineOp<Attributes>({
  name: "GatedMlp",
  saves: ["x", ...NAMES],
  savesOutputs: [false, true],
  wasm: ({ x, gate, up, down, residual }, { F, formats }) => {
    const [N, D] = x.shape;
    const [y, hidden] = [make(x.shape), make([2 * N * F])];
    const [from, input, to, products] = [residual && at(residual), at(x), at(y), at(hidden)];
    const [matrices, work] = workspaces(NAMES.length * MATRIX_WORDS, cpu().gatedMlpBytes(F) / 4);
    const words = matrixWords({ gate, up, down }, formats);
    run(() => {
      writeIntegers(matrices, words);
      if (from) cpu().copyRows(from, D, to, D, N, D);
      cpu().gatedMlp(input, matrices, to, products, N, D, F, from !== undefined, work);
    });
    return [y, hidden];
  },
  webgpu: (inputs, attributes) => {
    const { x, gate, up, down, residual } = inputs;
    const plan = planOfInputs(inputs, attributes);
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
    const late = () => {
      checkTrainable("The weights of this gated MLP", Object.values(attributes.formats));
      return runOps("GatedMlpGradient", inputs, { ...attributes, weightGradients: true }).slice(1);
    };
    const of = (i: number) => () => dweights[i] ?? late()[i];
    return { x: () => dx, gate: of(0), up: of(1), down: of(2), residual: () => dy };
  },
});

/** dy: [N, D] and what GatedMlp saved -> [dx], with weightGradients also [dgate, dup, ddown]. */
defineOp<Attributes>({
  name: "GatedMlpGradient",
  wasm: ({ dy, x, gate, up, down, hidden }, { F, formats, weightGradients }) => {
    const [N, D] = x.shape;
    const outputs = [x, ...(weightGradients ? [gate, up, down] : [])].map(({ shape }) => make(shape));
    const [from, input, products] = [at(dy), at(x), at(hidden)];
    const [dx, dgate = 0, dup = 0, ddown = 0] = outputs.map(at);
    const [matrices, work] = workspaces(NAMES.length * MATRIX_WORDS, cpu().gatedMlpGradientBytes(F) / 4);
    const words = matrixWords({ gate, up, down }, formats);
    run(() => {
      writeIntegers(matrices, words);
      cpu().gatedMlpGradient(from, input, matrices, products, dx, dgate, dup, ddown, N, D, F, false, work);
    });
    return outputs;
  },
  webgpu: (inputs, attributes) => {
    const { dy, x, gate, up, down, hidden } = inputs;
    const { weightGradients } = attributes;
    const plan = planOfInputs(inputs, attributes);
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
