// Which cases a step sees: a function of seed and step alone, so that a resumed run sees what it would have seen.

import { type BatchShape, makeBatch, weightOf } from "../data/batches.ts";
import { exampleOf } from "../data/chat.ts";
import type { Tokenizer } from "../data/tokenizer.ts";
import type { AnswerMode, Batch, Case, Example } from "../protocol/data.ts";
import { randomStream } from "./random.ts";

/** Rows of at most `maxLength` tokens, in few recurring shapes. */
export function batchShape(maxLength: number, packing = false): BatchShape {
  return { lengthMultiple: 32, positionMultiple: 64, maxLength, packing };
}

/** The mode in which a case is trained on, by its place in the epoch's order. */
export type ModeRule = (place: number) => AnswerMode;

/** Cases of a step, how many of them are computed at a time (memory holds no more), and whether these share rows. */
export interface StepSize {
  size: number;
  atATime: number;
  packing: boolean;
}

/** Batches of `size` cases, in parts; every epoch has its own order. Examples are made once. */
export function batcher(
  tokenizer: Tokenizer,
  cases: Case[],
  modeOf: ModeRule,
  { size, atATime, packing }: StepSize,
  maxLength: number,
  seed: number,
): (step: number) => Batch[] {
  const made = new Map<string, Example>();
  const example = (index: number, mode: AnswerMode): Example => {
    const key = `${mode} ${index}`;
    const known = made.get(key);
    if (known) return known;
    const fresh = exampleOf(tokenizer, cases[index], mode);
    made.set(key, fresh);
    return fresh;
  };
  let epoch = -1;
  let order: number[] = [];
  return (step) => {
    const examples = Array.from({ length: size }, (_, i) => {
      const place = step * size + i;
      const current = Math.floor(place / cases.length);
      if (current !== epoch) {
        order = randomStream("order", seed, current).shuffle(cases.map((_, index) => index));
        epoch = current;
      }
      return example(order[place % cases.length], modeOf(place));
    });
    const shape = { ...batchShape(maxLength, packing), totalWeight: weightOf(examples) };
    const parts = packing ? deal(examples, Math.ceil(size / atATime)) : slices(examples, atATime);
    return parts.map((part) => makeBatch(part, shape));
  };
}

function slices<T>(list: T[], size: number): T[][] {
  return Array.from({ length: Math.ceil(list.length / size) }, (_, i) => list.slice(i * size, (i + 1) * size));
}

/**
 * Parts of like size: the longest first, dealt out there and back. Packed, they then have one shape more often than not; of
 * the hospital's chains, 4 at a time, 60 steps had 16 mixtures of shapes instead of 55, and as many tokens to compute.
 */
function deal(examples: Example[], count: number): Example[][] {
  const parts: Example[][] = Array.from({ length: count }, () => []);
  const longestFirst = examples.toSorted((a, b) => b.ids.length - a.ids.length);
  longestFirst.forEach((example, i) => {
    const turn = i % (2 * count);
    parts[turn < count ? turn : 2 * count - 1 - turn].push(example);
  });
  return parts;
}
