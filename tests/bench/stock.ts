// The contestant that most people would write: the same model in TensorFlow.js's own operations, on the same backend.
//
// Every operation of ours has a definition in those and runs by it where the backend has no kernel of ours; so the
// kernels are taken out for as long as the contestant runs. It computes on the same tree, from the same weights.

import * as tf from "../../src/engine/tf.ts";
import { cachedHiddenStates, createCache, languageModelLoss, logits, type Model } from "../../src/models/decoder.ts";
import { disposeCache, type KvCache } from "../../src/models/kvCache.ts";
import { disposeModel } from "../../src/models/weights.ts";
import type { Batch } from "../../src/protocol/data.ts";
import { lossInput } from "../../src/training/loss.ts";
import { ADAM, type Generation, type Trainer } from "./ours.ts";

const STOCK_NAMES = new Set<unknown>(Object.values(tf).filter((value) => typeof value === "string"));

/** The only operation that stock ones cannot express, writing in place: they are given ours. */
const LENT = "StoreRows";

/** Run `f`, all of which must happen before it returns, without our kernels. */
export function asStock<T>(f: () => T): T {
  const backendName = tf.getBackend();
  const ours = tf
    .getKernelsForBackend(backendName)
    .filter(({ kernelName }) => !STOCK_NAMES.has(kernelName) && kernelName !== LENT);
  for (const { kernelName } of ours) tf.unregisterKernel(kernelName, backendName);
  provideSegmentSum(backendName);
  try {
    return f();
  } finally {
    for (const kernel of ours) tf.registerKernel(kernel);
  }
}

/**
 * TensorFlow.js's wasm backend lacks UnsortedSegmentSum, without which `gather` has no gradient and no language model
 * trains: here it is, as the plain loop that is fastest.
 */
function provideSegmentSum(backendName: string): void {
  if (backendName !== "wasm" || tf.getKernel(tf.UnsortedSegmentSum, backendName)) return;
  tf.registerKernel({
    kernelName: tf.UnsortedSegmentSum,
    backendName,
    kernelFunc: ({ inputs, attrs, backend }) => {
      const { x, segmentIds } = inputs as Record<string, tf.TensorInfo>;
      const { numSegments } = attrs as unknown as tf.UnsortedSegmentSumAttrs;
      const wasm = backend as unknown as {
        makeOutput(shape: number[], dtype: string): tf.TensorInfo;
        typedArrayFromHeap(tensor: tf.TensorInfo): Float32Array;
      };
      const count = tf.util.sizeFromShape(segmentIds.shape);
      const y = wasm.makeOutput([numSegments, ...x.shape.slice(segmentIds.shape.length)], "float32");
      const [from, segments, to] = [x, segmentIds, y].map((tensor) => wasm.typedArrayFromHeap(tensor));
      const width = from.length / count;
      to.fill(0);
      for (let row = 0; row < count; row++) {
        const at = segments[row] * width;
        for (let i = 0; i < width; i++) to[at + i] += from[row * width + i];
      }
      return y;
    },
  });
}

/** Trains `model`, which it owns from here on, by tf.train.adam. `trained` are tensors of its tree. */
export function stockTrainer(model: Model, trained: tf.Tensor[], batch: Batch, learningRate: number): Trainer {
  const variables = asVariables(model, new Set(trained));
  const adam = tf.train.adam(learningRate, ADAM.beta1, ADAM.beta2, ADAM.eps);
  const input = lossInput(batch);
  return {
    async step() {
      const loss = asStock(() => adam.minimize(() => languageModelLoss(model, input), true, variables))!;
      const [value] = await loss.data();
      loss.dispose();
      return value;
    },
    dispose() {
      adam.dispose();
      disposeModel(model);
      tf.dispose({ ...input });
    },
  };
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

/** Greedy decoding with a cache, one token a row at a time, as `generate` does it. The prompts are of one length. */
export async function stockGenerate(model: Model, prompts: Int32Array[], { newTokens, onTokens }: Generation) {
  const [rows, length] = [prompts.length, prompts[0].length];
  const cache = asStock(() => createCache(model, rows, length + newTokens));
  try {
    let tokens = prompts.flatMap((prompt) => [...prompt]);
    for (let step = 0; step < newTokens; step++) {
      const decoding = step > 0;
      const best = likeliest(model, tokens, [rows, decoding ? 1 : length], decoding ? length + step - 1 : 0, cache);
      tokens = [...(await best.data())];
      best.dispose();
      onTokens(tokens);
    }
  } finally {
    disposeCache(cache);
  }
}

/** Take in tokens [B, T], the first of each row at position `from`. Returns the likeliest token after each row: [B]. */
function likeliest(model: Model, tokens: number[], [B, T]: [number, number], from: number, cache: KvCache): tf.Tensor {
  const forward = () => {
    const ids = tf.tensor2d(tokens, [B, T], "int32");
    const positions = tf
      .range(from, from + T, 1, "int32")
      .expandDims(0)
      .tile([B, 1]) as tf.Tensor;
    const hidden = cachedHiddenStates(model, ids, positions, cache, from > 0); // [B, T, D]
    return tf.argMax(logits(model, hidden.slice([0, T - 1, 0], [B, 1, -1]).reshape([B, -1])), -1);
  };
  return asStock(() => tf.tidy(forward));
}
