// How much each head, channel, expert and layer matters to a loss: one backward pass per sample, all units at once.

// D hidden size, H heads (GQA: key-value groups), V width of a head's output, F channels, E experts, S their channels.

import { valueAndGradients } from "../engine/gradients.ts";
import * as tf from "../engine/tf.ts";
import type { DeepSeekConfig, Qwen2Config } from "../formats/hfConfig.ts";
import { languageModelLoss, type Layer, type Model } from "../models/decoder.ts";
import type { Linear } from "../models/layers.ts";
import { plainTensor } from "../models/storage.ts";
import type { Batch } from "../protocol/data.ts";
import type { LayerScores, Scores } from "../protocol/report.ts";
import { lossInput } from "../training/loss.ts";

/**
 * Score every unit on these samples (batches of one row each).
 *
 * gateFisher: put a gate of 1 on a unit's output; the score is the mean over samples of the squared derivative of the
 * sample's loss by the gate (Michel et al., 2019; Molchanov et al., 2019, eq. 8). The gate of channel c of a matrix W that
 * maps back to the residual stream has the derivative sum_d W[d,c] * dL/dW[d,c], so weight gradients of those matrices
 * are all that is needed. A head's gate is the sum over its columns, an expert's over its channels, a sub-layer's over all.
 *
 * meanGradient: the sum of |dL/dw| over the weights that go with the unit; a plan ranks by it per parameter, that is, by
 * their mean. For teaching and as a baseline: it is no estimate of what removal costs.
 */
export async function scoreUnits(
  model: Model,
  samples: Batch[],
  method: Scores["method"],
  onProgress: (done: number) => Promise<void> | void = () => {},
): Promise<Scores> {
  if (samples.length < 2) {
    throw new Error(`Scoring needs at least 2 cases and has ${samples.length}. Add cases.`);
  }
  const halves = [emptySums(model), emptySums(model)];
  for (const [i, sample] of samples.entries()) {
    const perLayer = method === "gateFisher" ? await gates(model, sample) : await magnitudes(model, sample);
    perLayer.forEach((layer, l) => addLayer(halves[i % 2][l], layer, method));
    await onProgress(i + 1);
  }
  const counts = [Math.ceil(samples.length / 2), Math.floor(samples.length / 2)];
  const layers = halves[0].map((first, l) => {
    const second = halves[1][l];
    return mapScores((pick) => scaled(added(pick(first), pick(second)), 1 / samples.length));
  });
  const [even, odd] = halves.map((sums, h) => sums.flatMap((layer) => units(layer).map((value) => value / counts[h])));
  return { method, cases: samples.length, layers, splitHalfCorrelation: rankCorrelation(even, odd) };
}

/** Per layer, the derivative by the gate of every column of the matrices that map back to the residual stream. */
interface LayerGates {
  heads: number[];
  channels: number[];
  expertChannels: number[][];
}

async function gates(model: Model, sample: Batch): Promise<LayerGates[]> {
  const leaves = model.layers.flatMap((layer) => residualWeights(layer));
  const products = tf.tidy(() => {
    const input = lossInput(sample);
    const { gradients } = valueAndGradients(() => languageModelLoss(model, input), leaves);
    return gradients.map((gradient, i) => gradient.mul(leaves[i]).sum(0)); // [columns]
  });
  const columns = await Promise.all(products.map(async (product) => [...(await product.data())]));
  tf.dispose(products);
  let next = 0;
  return model.layers.map((layer) => {
    const attention = columns[next++];
    const ffn = hasChannels(layer) ? columns[next++] : [];
    const routed = layer.mlp.kind === "experts" ? columns[next++] : [];
    return {
      heads: chunks(attention, attention.length / headCount(layer, model)).map(sum),
      channels: ffn,
      expertChannels: byExpert(layer, routed),
    };
  });
}

/** o_proj [D, H*V], then down_proj [D, F] of the dense FFN or the shared expert, then those of the experts [D, S]. */
function residualWeights({ selfAttn, mlp }: Layer): tf.Tensor[] {
  if (mlp.kind === "dense") return [scored(selfAttn.oProj), scored(mlp.downProj)];
  const shared = mlp.sharedExperts ? [scored(mlp.sharedExperts.downProj)] : [];
  return [scored(selfAttn.oProj), ...shared, scored({ weight: mlp.experts.down })];
}

/** Throws if the weight is frozen: scores are made of its gradients. */
function scored({ weight }: Pick<Linear, "weight">): tf.Tensor {
  return plainTensor("A weight that is to be scored", weight);
}

function hasChannels({ mlp }: Layer): boolean {
  return mlp.kind === "dense" || mlp.sharedExperts !== null;
}

/** Heads that can go one by one; with grouped queries, key-value groups. */
export function headCount({ selfAttn: p }: Layer, { config }: Model): number {
  if (p.kind === "latent") return p.oProj.weight.shape[1]! / (config as DeepSeekConfig).vHeadDim;
  return p.kProj.weight.shape[0] / (config as Qwen2Config).headDim;
}

function byExpert({ mlp }: Layer, columns: number[]): number[][] {
  if (mlp.kind === "dense") return [];
  const { offsets } = mlp.experts;
  return offsets.slice(1).map((to, e) => columns.slice(offsets[e], to));
}

/** For each unit the sum of |gradient| over the rows and columns that would go with it. */
async function magnitudes(model: Model, sample: Batch): Promise<LayerGates[]> {
  const parts = model.layers.map((layer) => coupledWeights(layer));
  const leaves = parts.flat().map(({ weight }) => weight);
  const sums = tf.tidy(() => {
    const input = lossInput(sample);
    const { gradients } = valueAndGradients(() => languageModelLoss(model, input), leaves);
    return gradients.map((gradient, i) => {
      const { perRow } = parts.flat()[i];
      return gradient.abs().sum(perRow ? 1 : 0);
    });
  });
  const values = await Promise.all(sums.map(async (one) => [...(await one.data())]));
  tf.dispose(sums);
  let next = 0;
  return model.layers.map((layer, l) => {
    const collected: Record<Coupled["unit"], number[][]> = { head: [], channel: [], expert: [] };
    for (const { unit } of parts[l]) collected[unit].push(values[next++]);
    const H = headCount(layer, model);
    const perHead = collected.head.map((list) => chunks(list, list.length / H).map(sum));
    return {
      heads: addLists(perHead),
      channels: addLists(collected.channel),
      expertChannels: byExpert(layer, addLists(collected.expert)),
    };
  });
}

interface Coupled {
  weight: tf.Tensor;
  unit: "head" | "channel" | "expert";
  /** A unit owns rows of this matrix; otherwise columns. */
  perRow: boolean;
}

function coupledWeights({ selfAttn: p, mlp }: Layer): Coupled[] {
  const rows =
    p.kind === "grouped"
      ? [p.qProj, p.kProj, p.vProj]
      : ["qProj" in p.query ? p.query.qProj : p.query.qBProj, p.kvBProj];
  const own: Coupled[] = [
    ...rows.map((one): Coupled => ({ weight: scored(one), unit: "head", perRow: true })),
    { weight: scored(p.oProj), unit: "head", perRow: false },
  ];
  const dense = mlp.kind === "dense" ? mlp : mlp.sharedExperts;
  if (dense) {
    own.push(
      { weight: scored(dense.gateProj), unit: "channel", perRow: true },
      { weight: scored(dense.upProj), unit: "channel", perRow: true },
      { weight: scored(dense.downProj), unit: "channel", perRow: false },
    );
  }
  if (mlp.kind === "experts") {
    own.push(
      { weight: scored({ weight: mlp.experts.gate }), unit: "expert", perRow: true },
      { weight: scored({ weight: mlp.experts.up }), unit: "expert", perRow: true },
      { weight: scored({ weight: mlp.experts.down }), unit: "expert", perRow: false },
    );
  }
  return own;
}

/** Add one sample: squared gates, or magnitudes as they are, at every granularity. */
function addLayer(sums: LayerScores, { heads, channels, expertChannels }: LayerGates, method: Scores["method"]): void {
  const experts = expertChannels.map(sum);
  const [attention, ffn] = [sum(heads), sum(channels) + sum(experts)];
  const measure = method === "gateFisher" ? (gate: number) => gate * gate : (magnitude: number) => magnitude;
  addMeasured(sums.heads, heads, measure);
  addMeasured(sums.channels, channels, measure);
  addMeasured(sums.experts, experts, measure);
  expertChannels.forEach((list, e) => addMeasured(sums.expertChannels[e], list, measure));
  sums.attention += measure(attention);
  sums.ffn += measure(ffn);
  sums.layer += measure(attention + ffn);
}

function addMeasured(sums: number[], values: number[], measure: (x: number) => number): void {
  values.forEach((value, i) => {
    sums[i] += measure(value);
  });
}

function emptySums(model: Model): LayerScores[] {
  return model.layers.map((layer) => {
    const zeros = (count: number) => Array.from({ length: count }, () => 0);
    const { mlp } = layer;
    const dense = mlp.kind === "dense" ? mlp : mlp.sharedExperts;
    const offsets = mlp.kind === "experts" ? mlp.experts.offsets : [0];
    return {
      heads: zeros(headCount(layer, model)),
      channels: zeros(dense ? dense.gateProj.weight.shape[0] : 0),
      experts: zeros(offsets.length - 1),
      expertChannels: offsets.slice(1).map((to, e) => zeros(to - offsets[e])),
      attention: 0,
      ffn: 0,
      layer: 0,
    };
  });
}

/** A layer's scores from a rule for each of its lists (single numbers are lists of one). */
function mapScores(rule: (pick: (scores: LayerScores) => number[]) => number[]): LayerScores {
  const experts = rule((scores) => scores.experts);
  return {
    heads: rule((scores) => scores.heads),
    channels: rule((scores) => scores.channels),
    experts,
    expertChannels: experts.map((_, e) => rule((scores) => scores.expertChannels[e])),
    attention: rule((scores) => [scores.attention])[0],
    ffn: rule((scores) => [scores.ffn])[0],
    layer: rule((scores) => [scores.layer])[0],
  };
}

/** Every unit's score, in a fixed order. */
function units({ heads, channels, experts, expertChannels }: LayerScores): number[] {
  return [...heads, ...channels, ...experts, ...expertChannels.flat()];
}

/** Spearman's rank correlation; ties share their mean rank. */
export function rankCorrelation(a: number[], b: number[]): number {
  const [x, y] = [ranks(a), ranks(b)];
  const mean = (a.length - 1) / 2;
  let [xy, xx, yy] = [0, 0, 0];
  for (let i = 0; i < a.length; i++) {
    xy += (x[i] - mean) * (y[i] - mean);
    xx += (x[i] - mean) ** 2;
    yy += (y[i] - mean) ** 2;
  }
  return xx === 0 || yy === 0 ? 0 : xy / Math.sqrt(xx * yy);
}

function ranks(values: number[]): number[] {
  const order = values.map((_, i) => i).toSorted((i, j) => values[i] - values[j]);
  const result = new Array<number>(values.length);
  for (let from = 0; from < order.length; ) {
    let to = from;
    while (to < order.length && values[order[to]] === values[order[from]]) to++;
    for (let i = from; i < to; i++) result[order[i]] = (from + to - 1) / 2;
    from = to;
  }
  return result;
}

function chunks(list: number[], size: number): number[][] {
  return Array.from({ length: list.length / size }, (_, i) => list.slice(i * size, (i + 1) * size));
}

function sum(list: number[]): number {
  return list.reduce((total, x) => total + x, 0);
}

function added(a: number[], b: number[]): number[] {
  return a.map((x, i) => x + b[i]);
}

function scaled(list: number[], factor: number): number[] {
  return list.map((x) => x * factor);
}

function addLists(lists: number[][]): number[] {
  if (lists.length === 0) return [];
  return lists[0].map((_, i) => sum(lists.map((list) => list[i])));
}
