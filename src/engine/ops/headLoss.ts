// The language-model head and its cross-entropy in one operation, over chunks of tokens: the logits of a whole batch
// are never held (Wijmans et al., 2024, "Cut your losses", section 4).

// M tokens that carry loss, D hidden size, V vocabulary.

import { wantsGradient } from "../gradients.ts";
import { allocate, groupsFor, launch, THREADS } from "../launch.ts";
import { defineOp, hasKernel, runOps } from "../op.ts";
import * as tf from "../tf.ts";
import { at, cpu, make, run, view, workspace } from "../wasm/heap.ts";
import { sumOverLanes, total, withScratch } from "../wgsl.ts";
import { multiply } from "./matmul.ts";

/**
 * h: [M, D], weight: [V, D], targets: int32 [M], weights: [M] -> scalar, nats:
 * the sum over m of weights[m] * (logsumexp(weight·h[m]) - (weight·h[m])[targets[m]]).
 *
 * For a mean over tokens the weights add up to 1. Rows of weight 0 are padding. Weights have no gradient.
 */
export function headLoss(h: tf.Tensor, weight: tf.Tensor, targets: tf.Tensor, weights: tf.Tensor): tf.Scalar {
  if (h.shape[1]! !== weight.shape[1]! || targets.size !== h.shape[0] || weights.size !== h.shape[0]) {
    throw new Error(
      `headLoss: h is [${h.shape}], weight is [${weight.shape}], targets [${targets.shape}], weights [${weights.shape}]`,
    );
  }
  if (!hasKernel("HeadLoss")) return headLossReference(h, weight, targets, weights);
  const weightGradient = wantsGradient(weight);
  const [loss, ...kept] = runOps("HeadLoss", { h, weight, targets, weights }, { weightGradient });
  tf.dispose(kept); // The tape has clones where it needs them.
  return loss as tf.Scalar;
}

/** The definition in plain operations. */
export function headLossReference(h: tf.Tensor, weight: tf.Tensor, targets: tf.Tensor, weights: tf.Tensor): tf.Scalar {
  const logits = tf.matMul(h, weight, false, true); // [M, V]
  const own = tf
    .oneHot(targets as tf.Tensor1D, weight.shape[0])
    .mul(logits)
    .sum(-1);
  return tf.logSumExp(logits, -1).sub(own).mul(weights).sum() as tf.Scalar;
}

interface Attributes {
  /** False where the head is frozen. */
  weightGradient: boolean;
}

/**
 * Outputs: loss [], logsumexp of each row [M] (kept for the gradient). While the tape records, a backend may add the
 * gradients at dy = 1, as the logits are at hand: dh [M, D], and dweight [V, D] with weightGradient.
 */
defineOp<Attributes>({
  name: "HeadLoss",
  saves: ["h", "weight", "targets", "weights"],
  savesOutputs: [false, true, true, true],
  wasm: ({ h, weight, targets, weights }, { weightGradient }) => {
    const [M, D] = h.shape;
    const V = weight.shape[0];
    const work = workspace(cpu().headLossBytes());
    const outputs = [make([]), make([M])];
    const withGradients = tf.engine().state.gradientDepth > 0 && V <= cpu().headLossWidestRow();
    if (withGradients) outputs.push(make(h.shape));
    if (withGradients && weightGradient) outputs.push(make(weight.shape));
    const [loss, logsumexp, dh, dweight = 0] = outputs.map(at);
    const [targetsAt, weightsAt] = [at(targets), at(weights)];
    const addresses = [at(h), at(weight), targetsAt, weightsAt, loss, logsumexp] as const;
    run(() => {
      const wrong = cpu().firstWrongTarget(targetsAt, weightsAt, M, V);
      if (wrong >= 0) throw new Error(`headLoss: target ${view(targets)[wrong]} is not in the vocabulary of ${V}`);
      if (withGradients) cpu().headLossAndGradient(...addresses, dh, dweight, M, D, V, work);
      else cpu().headLoss(...addresses, M, D, V, work);
    });
    return outputs;
  },
  webgpu: ({ h, weight, targets, weights }) => {
    const M = h.shape[0];
    const [loss, logsumexp] = [allocate([]), allocate([M])];
    withScratch([M], (losses) => {
      inChunks(h, weight, (logits, start, rows) => {
        launch({
          name: "headLossRows",
          source: ROW_LOSS,
          reads: { logits, targets, weights },
          writes: { losses, logsumexp },
          sizes: { start, rows, V: weight.shape[0] },
          numbers: { none: Number.NaN },
          workgroups: rows,
        });
      });
      total(losses, loss, M);
    });
    return [loss, logsumexp];
  },
  gradient: ([dy], [h, weight, targets, weights, logsumexp, ...ready], { weightGradient }) => {
    const inputs = { dy, h, weight, targets, weights, logsumexp };
    const [dh, dweight] =
      ready.length > 0
        ? ready.map((gradient) => gradient.mul(dy))
        : runOps("HeadLossGradient", inputs, { weightGradient });
    // A weight that is computed from a leaf is none itself, but its gradient is wanted all the same.
    const late = () => runOps("HeadLossGradient", inputs, { weightGradient: true })[1];
    return {
      h: () => dh,
      weight: () => dweight ?? late(),
      weights: () => tf.zerosLike(weights),
    };
  },
});

/** dy: [], h, weight, targets, weights, logsumexp: [M] -> [dh], or [dh, dweight] with weightGradient. */
defineOp<Attributes>({
  name: "HeadLossGradient",
  wasm: ({ dy, h, weight, targets, weights, logsumexp }, { weightGradient }) => {
    const [M, D] = h.shape;
    const outputs = weightGradient ? [make(h.shape), make(weight.shape)] : [make(h.shape)];
    const [dh, dweight] = [at(outputs[0]), weightGradient ? at(outputs[1]) : 0];
    const addresses = [at(dy), at(h), at(weight), at(targets), at(weights), at(logsumexp), dh, dweight] as const;
    const [V, work] = [weight.shape[0], workspace(cpu().headLossBytes())];
    run(() => cpu().headLossGradient(...addresses, M, D, V, work));
    return outputs;
  },
  webgpu: ({ dy, h, weight, targets, weights, logsumexp }, { weightGradient }) => {
    const [V, D] = weight.shape;
    const outputs = weightGradient ? [allocate(h.shape), allocate(weight.shape)] : [allocate(h.shape)];
    const [dh, dweight] = outputs;
    inChunks(h, weight, (logits, start, rows) => {
      const size = rows * V;
      launch({
        name: "headLossLogitGradient",
        source: LOGIT_GRADIENT,
        reads: { dy, targets, weights, logsumexp },
        writes: { logits },
        sizes: { start, size, V },
        workgroups: groupsFor(size),
      });
      const toH = { transposeA: false, transposeB: false, M: rows, N: D, K: V };
      multiply({ a: logits, b: weight, c: dh, ...toH, cStart: start * D });
      if (!weightGradient) return;
      const toWeight = { transposeA: true, transposeB: false, M: V, N: D, K: rows };
      multiply({ a: logits, b: h, c: dweight, ...toWeight, bStart: start * D, accumulate: start > 0 });
    });
    return outputs;
  },
});

/** How many logits the GPU holds at a time: 32 MiB of them. Less where memory is short. */
export const headLossWorkspace = { elements: 1 << 23 };

/** Call `use` with the logits of h's rows `start` to `start + rows - 1`, a chunk of rows at a time. */
function inChunks(
  h: tf.TensorInfo,
  weight: tf.TensorInfo,
  use: (logits: tf.TensorInfo, start: number, rows: number) => void,
): void {
  const M = h.shape[0];
  const [V, D] = weight.shape;
  const most = Math.min(M, Math.max(1, Math.floor(headLossWorkspace.elements / V)));
  withScratch([most, V], (logits) => {
    for (let start = 0; start < M; start += most) {
      const rows = Math.min(most, M - start);
      const product = { M: rows, N: V, K: D, aStart: start * D };
      multiply({ a: h, b: weight, c: logits, ...product, transposeA: false, transposeB: true });
      use(logits, start, rows);
    }
  });
}

// One workgroup per row. A target that is no word gives NaN, unless its weight is 0.
const ROW_LOSS = /* wgsl */ `
  ${sumOverLanes(THREADS)}
  var<workgroup> mosts: array<f32, THREADS>;
  fn main(group: u32, thread: u32) {
    let row = min(group, u.rows - 1u);
    var most = -3.0e38;
    for (var i = thread; i < u.V; i += THREADS) { most = max(most, logits[row * u.V + i]); }
    mosts[thread] = most;
    workgroupBarrier();
    for (var i = 0u; i < THREADS; i++) { most = max(most, mosts[i]); }
    var own = 0.0;
    for (var i = thread; i < u.V; i += THREADS) { own += exp(logits[row * u.V + i] - most); }
    let sum = sumOverLanes(own, thread);
    if (group != row || thread != 0u) { return; }
    let m = u.start + row;
    let normalizer = most + log(sum);
    logsumexp[m] = normalizer;
    let isWord = targets[m] >= 0 && targets[m] < i32(u.V);
    let word = row * u.V + select(0u, u32(targets[m]), isWord);
    let loss = select(u.none, normalizer - logits[word], isWord);
    losses[m] = select(weights[m] * loss, 0.0, weights[m] == 0.0);
  }
`;

/** In place: each logit becomes the loss's gradient by it. */
const LOGIT_GRADIENT = /* wgsl */ `
  fn main(group: u32, thread: u32) {
    let i = group * THREADS + thread;
    if (i >= u.size) { return; }
    let m = u.start + i / u.V;
    let own = select(0.0, 1.0, i32(i % u.V) == targets[m]);
    logits[i] = dy[0] * weights[m] * (exp(logits[i] - logsumexp[m]) - own);
  }
`;
