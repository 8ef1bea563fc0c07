// Sequences -> batches of few, recurring shapes.

// B rows, T tokens a row, M positions that carry loss.

import type { Batch, Example } from "../protocol/data.ts";
import { shuffled } from "./shuffle.ts";

export interface BatchShape {
  /** T is rounded up to a multiple of this. */
  lengthMultiple: number;
  /** M is rounded up to a multiple of this. */
  positionMultiple: number;
  /** Most tokens of a row; a longer example is refused, never cut. */
  maxLength: number;
  /** What the loss weights are divided by. Default: their sum over the batch, so that they add up to 1. */
  totalWeight?: number;
  /** Fills short rows; attention never looks at it. Default 0. */
  padId?: number;
}

/**
 * Put examples side by side. The last token of an example is only ever a target, so a row has one token less.
 *
 * Throws if an example is too long or none carries loss.
 */
export function makeBatch(examples: Example[], shape: BatchShape): Batch {
  const inputs = examples.map((example) => example.ids.length - 1);
  check(examples, inputs, shape.maxLength);
  const [rows, length] = [examples.length, roundUp(Math.max(...inputs), shape.lengthMultiple)];
  const ids = new Int32Array(rows * length).fill(shape.padId ?? 0); // [B * T]
  examples.forEach((example, row) => ids.set(example.ids.subarray(0, inputs[row]), row * length));

  const total = shape.totalWeight ?? weightOf(examples);
  const trained = examples.flatMap((example, row) => trainedTargets(example, row * length));
  const places = roundUp(trained.length, shape.positionMultiple); // M
  const batch: Batch = {
    rows,
    length,
    ids,
    lengths: Int32Array.from(inputs),
    positions: new Int32Array(places),
    targets: new Int32Array(places),
    weights: new Float32Array(places),
    tokens: inputs.reduce((sum, count) => sum + count, 0),
    trainedTokens: trained.length,
  };
  trained.forEach(({ position, target, weight }, place) => {
    batch.positions[place] = position;
    batch.targets[place] = target;
    batch.weights[place] = weight / total;
  });
  return batch;
}

/** The loss weights of the examples together: what to divide by when several batches make one step. */
export function weightOf(examples: Example[]): number {
  // Nothing stands before the first token, so its weight says nothing.
  return examples.reduce((sum, { weights }) => weights.subarray(1).reduce((row, weight) => row + weight, sum), 0);
}

/** Which examples a row of `maxLength` tokens holds, and which are too long, by index. */
export function fit(examples: Example[], maxLength: number): { kept: number[]; tooLong: number[] } {
  const indices = examples.map((_, index) => index);
  const fits = (index: number): boolean => examples[index].ids.length - 1 <= maxLength;
  return { kept: indices.filter(fits), tooLong: indices.filter((index) => !fits(index)) };
}

/**
 * Cut a stream of tokens into windows of `length` tokens to train on. Every token but the stream's first is a target
 * exactly once: a window begins with the last target of the one before. The examples are views of the stream.
 */
export function packText(stream: Int32Array, length: number): Example[] {
  if (!Number.isInteger(length) || length < 1) {
    throw new Error(`Windows of ${length} tokens are wanted; at least 1 is needed.`);
  }
  const full = windowWeights(length);
  const windows: Example[] = [];
  for (let at = 0; at + 1 < stream.length; at += length) {
    const ids = stream.subarray(at, at + length + 1);
    windows.push({ ids, weights: ids.length === full.length ? full : windowWeights(ids.length - 1) });
  }
  return windows;
}

/**
 * The batches of one epoch, as indices: each example once, neighbours in length together, in random order.
 *
 * The same (seed, epoch) gives the same order. The last batches drawn may be short by a few rows: at most one is.
 */
export function epochOrder(
  count: number,
  batchSize: number,
  lengths: ArrayLike<number>,
  seed: number,
  epoch: number,
): number[][] {
  if (lengths.length !== count || !Number.isInteger(batchSize) || batchSize < 1) {
    throw new Error(`epochOrder: ${count} examples with ${lengths.length} lengths in batches of ${batchSize}`);
  }
  const order = shuffled(count, seed, 2 * epoch);
  const batches: number[][] = [];
  const pool = batchSize * POOL_BATCHES;
  for (let at = 0; at < count; at += pool) {
    // Sorting all at once would put the same examples together in every epoch.
    const sorted = order.slice(at, at + pool).toSorted((a, b) => lengths[a] - lengths[b]);
    for (let row = 0; row < sorted.length; row += batchSize) batches.push(sorted.slice(row, row + batchSize));
  }
  return shuffled(batches.length, seed, 2 * epoch + 1).map((index) => batches[index]);
}

const POOL_BATCHES = 32;

function check(examples: Example[], inputs: number[], maxLength: number): void {
  if (examples.length === 0)
    throw new Error("A batch of no examples was asked for. Choose data with at least one row.");
  examples.forEach(({ ids, weights }, index) => {
    if (weights.length !== ids.length || ids.length < 2) {
      throw new Error(
        `Example ${index} has ${ids.length} tokens and ${weights.length} weights: at least 2 tokens are wanted and a weight for each.`,
      );
    }
    if (inputs[index] > maxLength) {
      throw new Error(
        `Example ${index} has ${inputs[index]} tokens and a row holds ${maxLength}. Leave it out or allow longer rows.`,
      );
    }
  });
  if (weightOf(examples) === 0) {
    throw new Error("No token of the batch carries loss. Check that every row has an answer.");
  }
}

/** The targets of one example: ids[i] is predicted at the place before it. */
function trainedTargets(example: Example, start: number): { position: number; target: number; weight: number }[] {
  const targets = [];
  for (let i = 1; i < example.ids.length; i++) {
    const weight = example.weights[i];
    if (weight !== 0) targets.push({ position: start + i - 1, target: example.ids[i], weight });
  }
  return targets;
}

/** 0 for the first token, which nothing predicts, then 1 for each target. */
function windowWeights(targets: number): Float32Array {
  const weights = new Float32Array(targets + 1).fill(1);
  weights[0] = 0;
  return weights;
}

function roundUp(count: number, multiple: number): number {
  return Math.ceil(count / multiple) * multiple;
}
