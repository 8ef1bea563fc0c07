// The language-model head and its cross-entropy in one operation, over chunks of tokens: the logits of a whole batch
// are never held (Wijmans et al., 2024, "Cut your losses", section 4), and are computed once for loss and gradients.

import { launch } from "../launch.ts";
import { defineOp, hasKernel } from "../op.ts";
import * as tf from "../tf.ts";
import { sumOverLanes } from "../wgsl.ts";
import { checkLoss, type LossAttributes, lossOnCpu, runLoss, SAVED, savedGradients } from "./head.ts";
import { lossOnGpu, placeText, rowThreads } from "./headChunks.ts";
import { plainTable, type Table } from "./table.ts";

// M hidden states that predict, D hidden size, V vocabulary.

/**
 * h: [M, D], head: [V, D], targets: int32 [M], weights: [M] -> scalar, nats:
 * the sum over m of weights[m] * (logsumexp(head·h[m]) - (head·h[m])[targets[m]]).
 *
 * For a mean over tokens the weights add up to 1. Rows of weight 0 are padding. Weights have no gradient, nor has a head
 * in parts.
 */
export function headLoss(h: tf.Tensor, head: Table, targets: tf.Tensor, weights: tf.Tensor): tf.Scalar {
  const inputs = { h, head, weights };
  checkLoss("headLoss", inputs, targets.size);
  if (!hasKernel("HeadLoss")) return headLossReference(h, head, targets, weights);
  return runLoss("HeadLoss", inputs, { targets });
}

/** The definition in plain operations. */
export function headLossReference(h: tf.Tensor, head: Table, targets: tf.Tensor, weights: tf.Tensor): tf.Scalar {
  const logits = tf.matMul(h, plainTable(head), false, true); // [M, V]
  const own = tf
    .oneHot(targets as tf.Tensor1D, logits.shape[1]!)
    .mul(logits)
    .sum(-1);
  return tf.logSumExp(logits, -1).sub(own).mul(weights).sum() as tf.Scalar;
}

defineOp<LossAttributes>({
  name: "HeadLoss",
  savesOutputs: SAVED,
  wasm: (inputs, attributes) => lossOnCpu("headLoss", inputs, { targets: inputs.targets }, attributes),
  webgpu: (inputs, attributes) =>
    lossOnGpu(inputs, attributes, ({ logits, start, rows }, losses, layout) => {
      const { V, parts } = layout;
      const threads = rowThreads(V);
      launch({
        name: "headLossRows",
        source: rowsText(placeText(layout), threads, attributes.gradients),
        reads: { targets: inputs.targets, weights: inputs.weights },
        writes: { logits, losses },
        sizes: { start, rows, V, partRows: parts[0].rows },
        numbers: { none: Number.NaN },
        workgroups: rows,
        threads,
      });
    }),
  gradient: savedGradients,
});

/**
 * One workgroup per row: its loss and, if asked for, in place of each of its logits the loss's gradient by it. A target
 * that is no word gives NaN, unless its weight is 0. Each thread keeps a running sum of e^(logit - the largest so far).
 */
const rowsText = (place: string, threads: number, gradients: boolean): string => /* wgsl */ `
  ${place}
  ${sumOverLanes(threads)}
  var<workgroup> mosts: array<f32, THREADS>;
  fn main(group: u32, thread: u32) {
    let row = min(group, u.rows - 1u);
    var most = -3.0e38;
    var own = 0.0;
    for (var v = thread; v < u.V; v += THREADS) {
      let logit = logits[place(row, v)];
      if (logit > most) {
        own *= exp(most - logit);
        most = logit;
      }
      own += exp(logit - most);
    }
    mosts[thread] = most;
    workgroupBarrier();
    var largest = mosts[0];
    for (var i = 1u; i < THREADS; i++) { largest = max(largest, mosts[i]); }
    let normalizer = largest + log(sumOverLanes(own * exp(most - largest), thread));
    if (group != row) { return; }

    let m = u.start + row;
    let weight = weights[m];
    let word = targets[m];
    let isWord = word >= 0 && word < i32(u.V);
    // The thread that will replace the target's logit reads it first.
    if (thread == select(0u, u32(word) % THREADS, isWord)) {
      let loss = select(u.none, normalizer - logits[place(row, select(0u, u32(word), isWord))], isWord);
      losses[m] = select(weight * loss, 0.0, weight == 0.0);
    }
    ${gradients ? SLOPES : ""}
  }
`;

const SLOPES = /* wgsl */ `
  for (var v = thread; v < u.V; v += THREADS) {
    let at = place(row, v);
    let slope = exp(logits[at] - normalizer) - select(0.0, 1.0, i32(v) == word);
    logits[at] = select(weight * slope, 0.0, weight == 0.0);
  }
`;
