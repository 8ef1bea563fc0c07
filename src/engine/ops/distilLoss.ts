// Distillation (Hinton et al., 2015, section 2) from what was kept of a teacher: its k largest log-probabilities of each
// token. Its other probabilities are one bucket, as are the student's of the same words.

import { allocate, launch } from "../launch.ts";
import { defineOp, hasKernel, runOps } from "../op.ts";
import * as tf from "../tf.ts";
import { at, cpu, make, run } from "../wasm/heap.ts";
import { sumOverLanes } from "../wgsl.ts";
import {
  checkHead,
  checkLoss,
  headTable,
  layoutOf,
  type LossAttributes,
  lossOnCpu,
  runLoss,
  SAVED,
  savedGradients,
} from "./head.ts";
import { inChunks, lossOnGpu, placeText, rowThreads } from "./headChunks.ts";
import { plainTable, type Table, type TableAttributes, tableAttributes, tableInputs, tableShape } from "./table.ts";

// M hidden states that predict, D hidden size, V vocabulary, k words of the teacher.

export interface Teacher {
  /** int32 [M, k], in each row k different words. */
  ids: tf.Tensor;
  /** [M, k], of the teacher's softmax at the temperature. */
  logProbabilities: tf.Tensor;
  /** That both softmaxes are taken at. */
  temperature: number;
}

/**
 * h: [M, D], head: [V, D], weights: [M] -> scalar, nats: the sum over m of weights[m] * T² * KL(p || q), T the temperature,
 * p the teacher's and q the student's distribution over the k words and the rest, q from softmax(head·h[m] / T).
 *
 * T² keeps the size of the gradients as T changes. Rows of weight 0 are padding.
 */
export function distilLoss(h: tf.Tensor, head: Table, teacher: Teacher, weights: tf.Tensor): tf.Scalar {
  const { ids, logProbabilities, temperature } = teacher;
  const inputs = { h, head, weights };
  checkLoss("distilLoss", inputs, ids.shape[0]);
  if (!tf.util.arraysEqual(ids.shape, logProbabilities.shape) || ids.rank !== 2 || !(temperature > 0)) {
    throw new Error(
      `distilLoss: ids are [${ids.shape}], log-probabilities [${logProbabilities.shape}], the temperature ${temperature}`,
    );
  }
  if (!hasKernel("DistilLoss")) return distilLossReference(h, head, teacher, weights);
  return runLoss("DistilLoss", inputs, { ids, logProbabilities }, { temperature });
}

/** The definition in plain operations. */
export function distilLossReference(
  h: tf.Tensor,
  head: Table,
  { ids, logProbabilities, temperature }: Teacher,
  weights: tf.Tensor,
): tf.Scalar {
  const logQ = logSoftmax(h, head, temperature); // [M, V]
  const [k, V] = [ids.shape[1]!, logQ.shape[1]!];
  const chosen = tf.oneHot(ids as tf.Tensor2D, V); // [M, k, V]
  const logKnown = chosen.mul(logQ.expandDims(1)).sum(-1); // [M, k]
  const p = logProbabilities.exp();
  const known = p.mul(logProbabilities.sub(logKnown)).sum(-1); // [M]
  const rest = tf.scalar(1).sub(p.sum(-1)).maximum(0);
  if (k === V)
    return known
      .mul(weights)
      .sum()
      .mul(temperature ** 2) as tf.Scalar;
  const logRest = tf.logSumExp(logQ.sub(chosen.sum(1).mul(1e30)), -1); // [M]
  const other = rest.mul(rest.maximum(1e-30).log().sub(logRest)); // [M]
  return known
    .add(other)
    .mul(weights)
    .sum()
    .mul(temperature ** 2) as tf.Scalar;
}

function logSoftmax(h: tf.Tensor, head: Table, temperature: number): tf.Tensor {
  const logits = tf.matMul(h, plainTable(head), false, true).div(temperature);
  return logits.sub(tf.logSumExp(logits, -1, true));
}

interface Attributes extends LossAttributes {
  temperature: number;
}

defineOp<Attributes>({
  name: "DistilLoss",
  savesOutputs: SAVED,
  wasm: (inputs, attributes) => {
    const targets = { targets: inputs.ids, logProbabilities: inputs.logProbabilities };
    return lossOnCpu("distilLoss", inputs, { ...targets, temperature: attributes.temperature }, attributes);
  },
  webgpu: (inputs, attributes) =>
    lossOnGpu(inputs, attributes, ({ logits, start, rows }, losses, layout) => {
      const { V, parts } = layout;
      const { ids, logProbabilities, weights } = inputs;
      const threads = rowThreads(V);
      const k = ids.shape[1];
      launch({
        name: "distilLossRows",
        source: rowsText(placeText(layout), threads, k, attributes.gradients),
        reads: { ids, logProbabilities, weights },
        writes: { logits, losses },
        sizes: { start, rows, V, partRows: parts[0].rows, k },
        numbers: { none: Number.NaN, temperature: attributes.temperature },
        workgroups: rows,
        threads,
      });
    }),
  gradient: savedGradients,
});

/** `logSumExp` of the threads' own largest logits and sums of e^(logit - largest). All threads come by. */
const LOG_SUM_EXP = /* wgsl */ `
  var<workgroup> mosts: array<f32, THREADS>;
  fn logSumExp(most: f32, own: f32, thread: u32) -> f32 {
    workgroupBarrier(); // What was there before has been read.
    mosts[thread] = most;
    workgroupBarrier();
    var largest = mosts[0];
    for (var i = 1u; i < THREADS; i++) { largest = max(largest, mosts[i]); }
    return largest + log(sumOverLanes(vec3(own * exp(most - largest), 0.0, 0.0), thread).x);
  }
`;

/** Adds `logit` to a running sum `own` of e^(logit - most), most the largest so far. */
const ADD_EXPONENTIAL = /* wgsl */ `
  if (logit > most) {
    own *= exp(most - logit);
    most = logit;
  }
  own += exp(logit - most);
`;

/**
 * One workgroup per row: its loss and, if asked for, in place of each of its logits the loss's gradient by it, w T (P q - p):
 * P is the sum of p, and a word of the rest has its share, q / q(rest), of p(rest). The teacher's words leave the row before
 * the rest is added up, so that nothing is subtracted from nearly the same. A teacher's word that is none gives NaN, unless
 * the weight is 0.
 */
const rowsText = (place: string, threads: number, k: number, gradients: boolean): string => /* wgsl */ `
  ${place}
  ${sumOverLanes(threads, "vec3<f32>")}
  ${LOG_SUM_EXP}
  const NONE = -1.0e30;
  const LEAST = -3.0e38;
  var<workgroup> known: array<f32, ${k}>; // The logits of the teacher's words.

  fn main(group: u32, thread: u32) {
    let row = min(group, u.rows - 1u);
    let m = u.start + row;
    let live = group == row; // Spare workgroups only meet the barriers.
    let inverse = 1.0 / u.temperature;
    var sums = vec3<f32>(); // Of p, of p (log p - log q) but for log q's normalizer, of words that are none.
    var most = LEAST;
    var own = 0.0;
    for (var i = thread; i < u.k; i += THREADS) {
      let word = ids[m * u.k + i];
      let isWord = word >= 0 && word < i32(u.V);
      let logit = logits[place(row, select(0u, u32(word), isWord))] * inverse;
      known[i] = logit;
      let logP = logProbabilities[m * u.k + i];
      sums += vec3(exp(logP), exp(logP) * (logP - logit), select(1.0, 0.0, isWord));
      ${ADD_EXPONENTIAL}
    }
    let logKnown = logSumExp(most, own, thread);
    storageBarrier(); // All have read their words.
    for (var i = thread; live && i < u.k; i += THREADS) {
      let word = ids[m * u.k + i];
      if (word >= 0 && word < i32(u.V)) { logits[place(row, u32(word))] = NONE; }
    }
    storageBarrier();
    most = LEAST;
    own = 0.0;
    for (var v = thread; v < u.V; v += THREADS) {
      let logit = logits[place(row, v)] * inverse;
      ${ADD_EXPONENTIAL}
    }
    let logRest = logSumExp(most, own, thread);
    let larger = max(logRest, logKnown);
    let logAll = larger + log(exp(logRest - larger) + exp(logKnown - larger));
    workgroupBarrier();
    let all = sumOverLanes(sums, thread);
    let rest = select(0.0, max(1.0 - all.x, 0.0), u.k < u.V);
    let weight = weights[m];
    if (live && thread == 0u) {
      let loss = all.y + all.x * logAll + select(0.0, rest * (log(rest) - (logRest - logAll)), rest > 0.0);
      let sound = select(loss, u.none, all.z > 0.0);
      losses[m] = select(weight * u.temperature * u.temperature * sound, 0.0, weight == 0.0);
    }
    ${gradients ? SLOPES : ""}
  }
`;

const SLOPES = /* wgsl */ `
  let factor = weight * u.temperature;
  let whole = factor * (all.x + rest);
  for (var v = thread; live && v < u.V; v += THREADS) {
    let at = place(row, v);
    let logit = logits[at] * inverse;
    let slope = whole * exp(min(logit - logAll, 0.0)) - factor * rest * exp(min(logit - logRest, 0.0));
    logits[at] = select(slope, 0.0, weight == 0.0);
  }
  storageBarrier();
  for (var i = thread; live && weight != 0.0 && i < u.k; i += THREADS) {
    let word = ids[m * u.k + i];
    if (word < 0 || word >= i32(u.V)) { continue; }
    logits[place(row, u32(word))] = whole * exp(known[i] - logAll) - factor * exp(logProbabilities[m * u.k + i]);
  }
`;

/**
 * What to keep of a teacher. h: [M, D], head: [V, D] -> of softmax(head·h[m] / temperature) the k largest, largest first,
 * the first word of equals first: ids int32 [M, k] and log-probabilities [M, k]. No gradient.
 */
export function topLogProbabilities(h: tf.Tensor, head: Table, k: number, temperature = 1): Teacher {
  checkHead("topLogProbabilities", h, head);
  const [V] = tableShape("topLogProbabilities", head);
  if (!(k >= 1 && k <= V && temperature > 0)) {
    throw new Error(`topLogProbabilities: k is ${k} (wanted 1 to ${V}), the temperature ${temperature} (above 0)`);
  }
  if (!hasKernel("TopLogProbabilities")) return topLogProbabilitiesReference(h, head, k, temperature);
  const attributes = { ...tableAttributes(head), k, temperature };
  const [ids, logProbabilities] = runOps("TopLogProbabilities", { h, ...tableInputs(head) }, attributes);
  return { ids, logProbabilities, temperature };
}

/** The definition in plain operations. */
export function topLogProbabilitiesReference(h: tf.Tensor, head: Table, k: number, temperature: number): Teacher {
  const { values, indices } = tf.topk(logSoftmax(h, head, temperature), k);
  return { ids: indices, logProbabilities: values, temperature };
}

defineOp<TableAttributes & { k: number; temperature: number }>({
  name: "TopLogProbabilities",
  wasm: (inputs, attributes) => {
    const { k, temperature } = attributes;
    const { parts, V, D } = layoutOf(inputs, attributes);
    const M = inputs.h.shape[0];
    const outputs = [make([M, k], "int32"), make([M, k])];
    const [ids, values] = outputs.map(at);
    const hAt = at(inputs.h);
    const [table, work] = headTable(parts, cpu().topLogProbabilitiesBytes(V));
    run(() => {
      table.write();
      cpu().topLogProbabilities(hAt, table.at, parts.length, ids, values, M, D, V, k, temperature, work);
    });
    return outputs;
  },
  webgpu: (inputs, attributes) => {
    const { k, temperature } = attributes;
    const { h } = inputs;
    const ids = allocate([h.shape[0], k], "int32");
    const logProbabilities = allocate([h.shape[0], k]);
    const layout = layoutOf(inputs, attributes);
    inChunks(h, layout, ({ logits, start, rows }) => {
      const { V, parts } = layout;
      const threads = rowThreads(V);
      launch({
        name: "topLogProbabilities",
        source: topText(placeText(layout), threads),
        reads: { logits },
        writes: { ids, logProbabilities },
        sizes: { start, rows, V, partRows: parts[0].rows, k },
        numbers: { inverse: 1 / temperature },
        workgroups: rows,
        threads,
      });
    });
    return [ids, logProbabilities];
  },
});

/** One workgroup per row. Each thread offers the largest of its words; whose is taken looks for its next. */
const topText = (place: string, threads: number): string => /* wgsl */ `
  ${place}
  ${sumOverLanes(threads, "vec3<f32>")}
  ${LOG_SUM_EXP}
  const LEAST = -3.0e38;
  const NOWHERE = 0xffffffffu;
  var<workgroup> offers: array<f32, THREADS>;
  var<workgroup> words: array<u32, THREADS>;
  var<private> offer: f32;
  var<private> word: u32;

  /** The thread's largest logit that comes after the one taken, the first of equals. */
  fn look(row: u32, thread: u32, largest: f32, taken: u32) {
    offer = LEAST;
    word = NOWHERE;
    for (var v = thread; v < u.V; v += THREADS) {
      let logit = logits[place(row, v)];
      let comes = logit < largest || (logit == largest && v > taken);
      if (comes && (logit > offer || word == NOWHERE)) {
        offer = logit;
        word = v;
      }
    }
  }

  fn main(group: u32, thread: u32) {
    let row = min(group, u.rows - 1u);
    var most = LEAST;
    var own = 0.0;
    for (var v = thread; v < u.V; v += THREADS) {
      let logit = logits[place(row, v)] * u.inverse;
      ${ADD_EXPONENTIAL}
    }
    let logAll = logSumExp(most, own, thread);
    look(row, thread, -LEAST, NOWHERE);
    for (var i = 0u; i < u.k; i++) {
      workgroupBarrier(); // The round before has been read.
      offers[thread] = offer;
      words[thread] = word;
      workgroupBarrier();
      var winner = 0u;
      for (var t = 1u; t < THREADS; t++) {
        if (offers[t] > offers[winner] || (offers[t] == offers[winner] && words[t] < words[winner])) { winner = t; }
      }
      if (thread == winner) {
        if (group == row) {
          ids[(u.start + row) * u.k + i] = i32(word);
          logProbabilities[(u.start + row) * u.k + i] = offer * u.inverse - logAll;
        }
        look(row, thread, offer, word);
      }
    }
  }
`;
