// Which cases a step sees: a function of seed and step alone, so that a resumed run sees what it would have seen.

import { type BatchShape, makeBatch, weightOf } from "../data/batches.ts";
import { exampleOf } from "../data/chat.ts";
import type { Tokenizer } from "../data/tokenizer.ts";
import type { AnswerMode, Batch, Case, Example } from "../protocol/data.ts";
import { randomStream } from "./random.ts";

/** Rows of at most `maxLength` tokens, in few recurring shapes. */
export function batchShape(maxLength: number): BatchShape {
  return { lengthMultiple: 32, positionMultiple: 64, maxLength };
}

/** The mode in which a case is trained on, by its place in the epoch's order. */
export type ModeRule = (place: number) => AnswerMode;

/** Cases of a step, and how many of them are computed at a time: memory holds no more. */
export interface StepSize {
  size: number;
  atATime: number;
}

/** Batches of `size` cases, in parts; every epoch has its own order. Examples are made once. */
export function batcher(
  tokenizer: Tokenizer,
  cases: Case[],
  modeOf: ModeRule,
  { size, atATime }: StepSize,
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
    const shape = { ...batchShape(maxLength), totalWeight: weightOf(examples) };
    const parts = Array.from({ length: Math.ceil(size / atATime) }, (_, i) => i * atATime);
    return parts.map((from) => makeBatch(examples.slice(from, from + atATime), shape));
  };
}
