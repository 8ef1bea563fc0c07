// Sequences -> batches of few, recurring shapes.

// B rows, T tokens a row, M positions that carry loss.

import type { Batch, Example, PackedRows } from "../protocol/data.ts";
import { type Layout, onePerRow, roundUp, severalPerRow } from "./layout.ts";

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
  /** Whether a row may hold several examples, which do not see each other: fewer tokens to compute, the same loss. */
  packing?: boolean;
}

/**
 * Put examples into rows. The last token of an example is only ever a target, so it takes one token less.
 *
 * Throws if an example is too long or none carries loss.
 */
export function makeBatch(examples: Example[], shape: BatchShape): Batch {
  const inputs = examples.map((example) => example.ids.length - 1);
  check(examples, inputs, shape.maxLength);
  const layout = shape.packing
    ? severalPerRow(inputs, shape.lengthMultiple, shape.maxLength)
    : onePerRow(inputs, shape.lengthMultiple);
  const { rows, length } = layout;
  const begins = layout.places.map(({ row, start }) => row * length + start);
  const ids = new Int32Array(rows * length).fill(shape.padId ?? 0); // [B * T]
  const lengths = new Int32Array(rows);
  examples.forEach((example, i) => {
    ids.set(example.ids.subarray(0, inputs[i]), begins[i]);
    lengths[layout.places[i].row] += inputs[i];
  });

  const total = shape.totalWeight ?? weightOf(examples);
  const trained = examples.flatMap((example, i) => trainedTargets(example, begins[i]));
  const places = roundUp(trained.length, shape.positionMultiple); // M
  const batch: Batch = {
    rows,
    length,
    ids,
    lengths,
    positions: new Int32Array(places),
    targets: new Int32Array(places),
    weights: new Float32Array(places),
    tokens: inputs.reduce((sum, count) => sum + count, 0),
    trainedTokens: trained.length,
    ...(shape.packing ? { packed: apart(inputs, layout) } : {}),
  };
  trained.forEach(({ position, target, weight }, place) => {
    batch.positions[place] = position;
    batch.targets[place] = target;
    batch.weights[place] = weight / total;
  });
  return batch;
}

/** What keeps the sequences of a row apart. */
function apart(sizes: number[], { rows, length, places }: Layout): PackedRows {
  const positionIds = new Int32Array(rows * length);
  const starts = Int32Array.from(positionIds, (_, i) => i % length); // Of padding, until a sequence is put there.
  places.forEach(({ row, start }, i) => {
    const begin = row * length + start;
    for (let t = 0; t < sizes[i]; t++) positionIds[begin + t] = t;
    starts.fill(start, begin, begin + sizes[i]);
  });
  return { positionIds, starts };
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
