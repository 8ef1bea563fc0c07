// What losses on the head's logits have in common, and how the CPU computes them.

// M hidden states that predict, D hidden size, V vocabulary.

import { wantsGradient } from "../gradients.ts";
import { type Inputs, runOps } from "../op.ts";
import * as tf from "../tf.ts";
import { at, cpu, make, run, workspace, writeIntegers } from "../wasm/heap.ts";
import { FORMAT_CODES } from "./matmulText.ts";
import { scaled } from "./scaled.ts";
import {
  type Part,
  partsOf,
  type Table,
  type TableAttributes,
  tableAttributes,
  tableInputs,
  tableShape,
} from "./table.ts";

/** The head as a kernel sees it. */
export interface Layout {
  parts: Part[];
  V: number;
  D: number;
}

export function layoutOf(inputs: Inputs, attributes: TableAttributes): Layout {
  const parts = partsOf(inputs, attributes);
  return { parts, V: parts.reduce((sum, { rows }) => sum + rows, 0), D: inputs.h.shape[1] };
}

/** Throws unless the head is as wide as h: [M, D]. */
export function checkHead(name: string, h: tf.Tensor, head: Table): void {
  const shape = tableShape(name, head);
  if (h.rank !== 2 || h.shape[1] !== shape[1]) throw new Error(`${name}: h is [${h.shape}], the head [${shape}]`);
}

/** What a loss on the head's logits adds to the inputs h: [M, D], the head and weights: [M]. */
export interface LossAttributes extends TableAttributes {
  /** Whether the gradients are computed along with the loss, at dy = 1, as the logits are at hand. */
  gradients: boolean;
  /** False where the head is frozen. */
  headGradient: boolean;
}

export interface LossInputs {
  h: tf.Tensor;
  head: Table;
  weights: tf.Tensor;
}

/** Run such an operation: its outputs are the loss and, while the tape records, the gradients by h and the head. */
export function runLoss(
  name: string,
  { h, head, weights }: LossInputs,
  more: tf.NamedTensorMap,
  attributes: object = {},
): tf.Scalar {
  const gradients = tf.engine().state.gradientDepth > 0;
  const headGradient = gradients && head instanceof tf.Tensor && wantsGradient(head);
  const inputs = { h, ...tableInputs(head), ...more, weights };
  const [loss, ...kept] = runOps(name, inputs, { ...attributes, ...tableAttributes(head), gradients, headGradient });
  tf.dispose(kept); // The tape has clones.
  return loss as tf.Scalar;
}

/** Which outputs such an operation saves: the gradients. */
export const SAVED = [false, true, true];

export function savedGradients([dy]: tf.Tensor[], [dh, dweight]: tf.Tensor[]): Record<string, () => tf.Tensor> {
  return { h: () => scaled(dh, dy), ...(dweight && { table: () => scaled(dweight, dy) }) };
}

/** Throws unless there are as many rows of h and weights as rows of targets. */
export function checkLoss(name: string, { h, head, weights }: LossInputs, M: number): void {
  checkHead(name, h, head);
  if (h.shape[0] === M && weights.size === M) return;
  throw new Error(`${name}: h is [${h.shape}], weights are [${weights.shape}], for ${M} rows of targets`);
}

/** On the CPU: what of a loss is not in `LossInputs`. */
export interface RowTargets {
  /** int32 [M], or for distillation [M, k]. */
  targets: tf.TensorInfo;
  logProbabilities?: tf.TensorInfo;
  temperature?: number;
}

/** Outputs: the loss and, if asked for, the gradients by h and by the head. */
export function lossOnCpu(
  name: string,
  inputs: Inputs,
  { targets, logProbabilities, temperature = 1 }: RowTargets,
  attributes: LossAttributes,
): tf.TensorInfo[] {
  const { h, weights } = inputs;
  const { gradients, headGradient } = attributes;
  const { V, D, parts } = layoutOf(inputs, attributes);
  const M = h.shape[0];
  const k = logProbabilities ? targets.shape[1] : 0;
  const outputs = [make([])];
  if (gradients) outputs.push(make(h.shape));
  if (headGradient) outputs.push(make(inputs.table.shape));
  const [loss, dh = 0, dweight = 0] = outputs.map(at);
  const [targetsAt, weightsAt] = [at(targets), at(weights)];
  const [table, work] = headTable(parts, cpu().headLossBytes(V, k));
  const teacher = logProbabilities ? at(logProbabilities) : 0;
  const addresses = [at(h), table.at, parts.length, targetsAt, teacher, weightsAt, loss, dh, dweight] as const;
  run(() => {
    refuseTarget(name, targetsAt, cpu().firstWrongTarget(targetsAt, weightsAt, M, Math.max(k, 1), V), V);
    table.write();
    cpu().headLoss(...addresses, M, D, V, k, temperature, work);
  });
  return outputs;
}

function refuseTarget(name: string, targets: number, wrong: number, V: number): void {
  if (wrong < 0) return;
  throw new Error(`${name}: target ${cpu().integerAt(targets, wrong)} is not in the vocabulary of ${V}`);
}

/** The head's parts as the CPU kernels read them, and working memory of `bytes` bytes. */
export function headTable(parts: Part[], bytes: number): [table: { at: number; write: () => void }, work: number] {
  const entries = parts.flatMap(({ tensor, format, rows }) => [format ? FORMAT_CODES[format] : -1, at(tensor), rows]);
  const address = workspace(entries.length * 4 + ALIGNMENT + bytes);
  const work = address + Math.ceil((entries.length * 4) / ALIGNMENT) * ALIGNMENT;
  return [{ at: address, write: () => writeIntegers(address, entries) }, work];
}

const ALIGNMENT = 64; // A cache line.
