// Pretraining rows: exercises whole, texts cut anywhere, every row full.

import { targetIds, promptIds } from "../data/chat.ts";
import type { Tokenizer } from "../data/tokenizer.ts";
import type { Example } from "../protocol/data.ts";
import { drill, STUDY_WORDS } from "./drills.ts";
import { type Random, randomStream } from "./random.ts";

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
  /** So many rows at first, and this share of the later ones, are lists of words said again. */
  repetitionRows: number;
  repetitionShare: number;
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
  const random = randomStream("row", settings.seed, state.row);
  if (state.row < settings.repetitionRows || random.next() < settings.repetitionShare) {
    return { example: repetition(tokenizer, space, random), state: next };
  }
  const ids: number[] = [];
  const weights: number[] = [];
  if (random.next() < settings.drillShare) {
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
      next.textLeft = [...start(tokenizer), ...tokenizer.encodeText(texts(next.text)), tokenizer.control.eos];
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

/**
 * Lists of words, each said two to four times, plain or with commas; only what is said again carries loss.
 *
 * On such rows the heads form that find an earlier occurrence and copy what followed it (Olsson et al., 2022,
 * "In-context learning and induction heads"). Without them, text and exercises had formed none after two million
 * tokens; over the whole vocabulary instead of a few hundred words, neither had these rows after one million.
 */
function repetition(tokenizer: Tokenizer, space: number, random: Random): Example {
  const [newline] = tokenizer.encodeText("\n");
  const ids = start(tokenizer);
  const weights = ids.map(() => 0);
  while (ids.length < space) {
    const language = random.next() < 0.5 ? "en" : "zh";
    const separator = random.next() < 0.3 ? tokenizer.encodeText(language === "en" ? "," : "，") : [];
    const words = random.shuffle(STUDY_WORDS).slice(0, 3 + random.integer(12));
    const before = language === "en" && random.next() < 0.7 ? " " : "";
    const list = words.flatMap((word) => [...tokenizer.encodeText(before + word[language]), ...separator]);
    const times = 2 + random.integer(3);
    for (let time = 0; time < times; time++) {
      ids.push(...list, newline);
      weights.push(...list.map(() => (time === 0 ? 0 : 1)), 0);
    }
  }
  return { ids: Int32Array.from(ids.slice(0, space)), weights: Float32Array.from(weights.slice(0, space)) };
}

/** What every sequence begins with, if anything. */
function start({ control: { bos } }: Tokenizer): number[] {
  return bos === null ? [] : [bos];
}
