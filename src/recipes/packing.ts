// Pretraining rows: exercises whole, texts cut anywhere, every row full.

import { targetIds, promptIds } from "../data/chat.ts";
import type { Tokenizer } from "../data/tokenizer.ts";
import type { Example } from "../protocol/data.ts";
import { drill } from "./drills.ts";
import { randomStream } from "./random.ts";

/** Text number `index`: a pure function, for any index from 0. */
export type TextSource = (index: number) => string;

/** Where the packer stands. Plain data, kept in checkpoints. */
export interface PackerState {
  row: number;
  text: number;
  drill: number;
  /** Tokens of the text under way that no row has had yet. */
  textLeft: number[];
}

export interface PackerSettings {
  seed: number;
  /** Tokens of a row that are looked at; a row's example has one more, its last target. */
  length: number;
  /** Share of the rows that hold exercises. */
  drillShare: number;
  /** Weight of the loss on an exercise's question. Guessing a random list teaches little. */
  questionWeight: number;
  /** Weight of the loss on its chain and answer, few tokens from which the most can be learned. Text weighs 1. */
  answerWeight: number;
}

export const FIRST_PACKER_STATE: PackerState = { row: 0, text: 0, drill: 0, textLeft: [] };

/** The next row, and the state after it. The same state gives the same row. */
export function packRow(
  tokenizer: Tokenizer,
  texts: TextSource,
  settings: PackerSettings,
  state: PackerState,
): { example: Example; state: PackerState } {
  const space = settings.length + 1;
  const next = { ...state, row: state.row + 1 };
  const ids: number[] = [];
  const weights: number[] = [];
  if (randomStream("row", settings.seed, state.row).next() < settings.drillShare) {
    for (;;) {
      const exercise = drill(settings.seed, next.drill);
      const mode = exercise.chain === "" ? "direct" : "chain";
      const prompt = promptIds(tokenizer, exercise.question, mode);
      const target = targetIds(tokenizer, exercise, mode);
      const size = prompt.length + target.length;
      if (ids.length + size > space && size <= space) break; // It opens the next row of exercises.
      next.drill += 1;
      if (size > space) continue; // Too long for any row.
      ids.push(...prompt, ...target);
      weights.push(...prompt.map(() => settings.questionWeight), ...target.map(() => settings.answerWeight));
    }
  }
  while (ids.length < space) {
    if (next.textLeft.length === 0) {
      const { bos, eos } = tokenizer.control;
      next.textLeft = [bos, ...tokenizer.encodeText(texts(next.text)), eos];
      next.text += 1;
    }
    const part = next.textLeft.slice(0, space - ids.length);
    next.textLeft = next.textLeft.slice(part.length);
    ids.push(...part);
    weights.push(...part.map(() => 1));
  }
  weights[0] = 0; // Nothing stands before it to predict it from.
  return { example: { ids: Int32Array.from(ids), weights: Float32Array.from(weights) }, state: next };
}
