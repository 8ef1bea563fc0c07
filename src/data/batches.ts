// Sequences -> batches of few, recurring shapes.

// B rows, T tokens a row, M positions that carry loss.

import type { Batch, Example } from "../protocol/data.ts";

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

function roundUp(count: number, multiple: number): number {
  return Math.ceil(count / multiple) * multiple;
}
