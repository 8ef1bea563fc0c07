// The contestant that most people would pick: stock TensorFlow.js, its tape and its Adam, on the same backend.

import * as tf from "../../src/engine/tf.ts";
import type { Model } from "../../src/models/decoder.ts";
import { disposeModel } from "../../src/models/weights.ts";
import type { Batch } from "../../src/protocol/data.ts";
import { ADAM, type Generation, type Trainer } from "./ours.ts";
import { type StockCache, stockHiddenStates, stockLogits } from "./stockModel.ts";

/** Trains `model`, which it owns from here on, by tf.train.adam. `trained` are tensors of its tree. */
export function stockTrainer(model: Model, trained: tf.Tensor[], batch: Batch, learningRate: number): Trainer {
  provideSegmentSum();
  const variables = asVariables(model, new Set(trained));
  const adam = tf.train.adam(learningRate, ADAM.beta1, ADAM.beta2, ADAM.eps);
  const ids = tf.tensor2d(batch.ids, [batch.rows, batch.length], "int32");
  const targets = tf.tensor1d(batch.targets, "int32");
  return {
    async step() {
      const loss = adam.minimize(() => stockLoss(model, ids, targets), true, variables)!;
      const [value] = await loss.data();
      loss.dispose();
      return value;
    },
    dispose() {
      adam.dispose();
      disposeModel(model);
      tf.dispose([ids, targets]);
    },
  };
}

/** Mean cross-entropy of the tokens after each, nats. ids: [B, T], targets: [B*T] */
export function stockLoss(model: Model, ids: tf.Tensor2D, targets: tf.Tensor1D): tf.Scalar {
  const { hidden } = stockHiddenStates(model, ids);
  return lossFrom(model, hidden.reshape([targets.size, -1]), targets);
}

/** The same from hidden states at hand: [B*T, D]. */
export function lossFrom(model: Model, hidden: tf.Tensor, targets: tf.Tensor1D): tf.Scalar {
  const logits = stockLogits(model, hidden); // [B*T, V]
  const own = tf.oneHot(targets, logits.shape[1]).mul(logits).sum(-1);
  return tf.logSumExp(logits, -1).sub(own).mean();
}

/** Put variables in place of these tensors of a tree, which are disposed of. */
export function asVariables(tree: object, trained: Set<tf.Tensor>): tf.Variable[] {
  return Object.entries(tree).flatMap(([key, value]: [string, unknown]) => {
    if (value instanceof tf.Tensor) {
      if (!trained.has(value)) return [];
      const variable = tf.variable(value);
      value.dispose();
      (tree as Record<string, unknown>)[key] = variable;
      return [variable];
    }
    return typeof value === "object" && value !== null ? asVariables(value, trained) : [];
  });
}

/** Greedy decoding with a cache, one token a row at a time. The prompts are of one length. */
export async function stockGenerate(model: Model, prompts: Int32Array[], { newTokens, onTokens }: Generation) {
  const [rows, length] = [prompts.length, prompts[0].length];
  let cache: StockCache | null = null;
  let tokens = prompts.flatMap((prompt) => [...prompt]);
  for (let step = 0; step < newTokens; step++) {
    const [width, from] = step === 0 ? [length, 0] : [1, length + step - 1];
    const taken = takeTokens(model, tf.tensor2d(tokens, [rows, width], "int32"), from, cache);
    tf.dispose(cache ?? []);
    cache = taken.cache;
    tokens = [...(await taken.best.data())];
    taken.best.dispose();
    onTokens(tokens);
  }
  tf.dispose(cache ?? []);
}

/** The likeliest token after each row: [B]; and the cache with the tokens in it. ids: [B, T], which is disposed of. */
function takeTokens(model: Model, ids: tf.Tensor2D, from: number, before: StockCache | null) {
  const [B, T] = ids.shape;
  const taken = tf.tidy(() => {
    const { hidden, cache } = stockHiddenStates(model, ids, from, before);
    const last = hidden.slice([0, T - 1, 0], [B, 1, -1]).reshape([B, -1]);
    return { best: tf.argMax(stockLogits(model, last), -1), cache };
  });
  ids.dispose();
  return taken;
}

/**
 * TensorFlow.js's wasm backend lacks UnsortedSegmentSum, without which `gather` has no gradient and no language model
 * trains: here it is, as the plain loop that is fastest.
 */
function provideSegmentSum(): void {
  const backendName = tf.getBackend();
  if (backendName !== "wasm" || tf.getKernel(tf.UnsortedSegmentSum, backendName)) return;
  tf.registerKernel({ kernelName: tf.UnsortedSegmentSum, backendName, kernelFunc: segmentSum });
}

const segmentSum: tf.KernelFunc = ({ inputs, attrs, backend }) => {
  const { x, segmentIds } = inputs as Record<string, tf.TensorInfo>;
  const { numSegments } = attrs as unknown as tf.UnsortedSegmentSumAttrs;
  const wasm = backend as unknown as {
    makeOutput(shape: number[], dtype: string): tf.TensorInfo;
    typedArrayFromHeap(tensor: tf.TensorInfo): Float32Array;
  };
  const y = wasm.makeOutput([numSegments, ...x.shape.slice(segmentIds.shape.length)], "float32");
  const [from, segments, to] = [x, segmentIds, y].map((tensor) => wasm.typedArrayFromHeap(tensor));
  const count = tf.util.sizeFromShape(segmentIds.shape);
  const width = from.length / count;
  to.fill(0);
  for (let row = 0; row < count; row++) {
    const at = segments[row] * width;
    for (let i = 0; i < width; i++) to[at + i] += from[row * width + i];
  }
  return y;
};
