// Evaluation by asking: every case's question, the model's whole reply, graded.

import type { Tokenizer } from "../data/tokenizer.ts";
import { promptIds, splitReply } from "../data/chat.ts";
import { generate } from "../models/generate.ts";
import type { Model } from "../models/decoder.ts";
import type { AnswerMode, Case } from "../protocol/data.ts";
import type { Evaluation } from "../protocol/report.ts";
import { macroF1, wilsonInterval } from "./metrics.ts";

/** How replies of a study are judged. */
export interface Grader {
  /** The answer in a form in which equal answers are equal strings. */
  normalize(answer: string): string;
  /** Whether every step of the chain follows from the question; null where the study has no such check. */
  chainRight: ((item: Case, chain: string) => boolean) | null;
}

export interface AskOptions {
  maxNewTokens: number;
  /** Questions side by side. */
  batch: number;
  eosTokenId: number | readonly number[];
  onProgress?: (done: number) => void;
  stopping?: () => boolean;
}

export type Graded = Omit<Evaluation, "point" | "loss">;

/** Ask all cases in one mode, greedily. Null if it was stopped on the way. */
export async function askAll(
  model: Model,
  tokenizer: Tokenizer,
  cases: Case[],
  mode: AnswerMode,
  grader: Grader,
  options: AskOptions,
): Promise<Graded | null> {
  const startedMs = performance.now();
  const prompts = cases.map((item) => Int32Array.from(promptIds(tokenizer, item.question, mode)));
  // Questions of like length side by side: less padding. The order of the results is the cases'.
  const order = cases.map((_, i) => i).toSorted((a, b) => prompts[a].length - prompts[b].length || a - b);
  const replies: number[][] = new Array(cases.length);
  for (let from = 0; from < order.length; from += options.batch) {
    const group = order.slice(from, from + options.batch);
    const { maxNewTokens, eosTokenId, stopping } = options;
    const found = await generate(
      model,
      group.map((i) => prompts[i]),
      { maxNewTokens, eosTokenId, stopping },
    );
    if (stopping?.()) return null;
    group.forEach((i, r) => {
      replies[i] = found[r];
    });
    options.onProgress?.(Math.min(from + options.batch, order.length));
  }
  return grade(tokenizer, cases, replies, mode, grader, (performance.now() - startedMs) / 1000);
}

function grade(
  tokenizer: Tokenizer,
  cases: Case[],
  replies: number[][],
  mode: AnswerMode,
  grader: Grader,
  seconds: number,
): Graded {
  const parts = replies.map((ids) => splitReply(tokenizer, tokenizer.decode(ids), mode));
  const truth = cases.map((item) => grader.normalize(item.answer));
  const predicted = parts.map(({ answer }) => grader.normalize(answer));
  const right = truth.map((label, i) => predicted[i] === label);
  const correct = count(right);
  const { chainRight } = grader;
  const slices = [...new Set(cases.flatMap((item) => [item.language, ...item.slices]))].toSorted();
  return {
    mode,
    n: cases.length,
    correct,
    accuracy: correct / cases.length,
    macroF1: macroF1(truth, predicted),
    interval: wilsonInterval(correct, cases.length),
    chainsRight:
      mode === "chain" && chainRight
        ? count(cases.map((item, i) => chainRight(item, parts[i].chain))) / cases.length
        : null,
    tokensPerReply: replies.reduce((total, ids) => total + ids.length, 0) / cases.length,
    slices: slices.map((name) => {
      const inside = cases.map((item) => item.language === name || item.slices.includes(name));
      const n = count(inside);
      return { name, n, accuracy: count(right.map((own, i) => own && inside[i])) / n };
    }),
    seconds,
  };
}

function count(flags: boolean[]): number {
  return flags.filter(Boolean).length;
}
