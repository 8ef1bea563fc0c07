// Questions and worked answers in DeepSeek-R1's chat format, and where the loss lies.
//
//   <bos><｜User｜>question<｜Assistant｜><think>\n | chain\n</think>\n\nanswer<eos>      with a chain
//   <bos><｜User｜>question<｜Assistant｜><think>\n\n</think>\n\n | answer<eos>           at once: R1's own empty thought
//
// What stands before the bar is the prompt; what stands behind it carries loss, the end included.

import type { AnswerMode, Case, Example } from "../protocol/data.ts";
import type { Tokenizer } from "./tokenizer.ts";

/** A pair to train on or to ask; any Case is one. Without a chain it can only be answered at once. */
export type Exchange = Pick<Case, "question" | "answer"> & Partial<Pick<Case, "chain">>;

/** The tokens up to where the model goes on. */
export function promptIds(tokenizer: Tokenizer, question: string, mode: AnswerMode): number[] {
  const { bos, user, assistant, think, endThink } = tokenizer.control;
  const wording = tokenizer.encodeText(question.trim());
  if (wording.length === 0) throw new Error("The question is empty. Write one, or leave the row out.");
  const opened = [bos, user, ...wording, assistant, think];
  return mode === "chain"
    ? [...opened, ...tokenizer.encodeText("\n")]
    : [...opened, ...tokenizer.encodeText("\n\n"), endThink, ...tokenizer.encodeText("\n\n")];
}

/** The tokens that answer the prompt of the same mode. */
export function targetIds(tokenizer: Tokenizer, exchange: Exchange, mode: AnswerMode): number[] {
  const { endThink, eos } = tokenizer.control;
  const answer = exchange.answer.trim();
  if (answer === "")
    throw new Error(`"${exchange.question.slice(0, 60)}" has no answer. Add one, or leave the row out.`);
  if (mode === "direct") return [...tokenizer.encodeText(answer), eos];
  const chain = exchange.chain?.trim() ?? "";
  if (chain === "") {
    throw new Error(
      `"${exchange.question.slice(0, 60)}" has no chain of thought. Add one, or train it with direct answers.`,
    );
  }
  return [...tokenizer.encodeText(`${chain}\n`), endThink, ...tokenizer.encodeText(`\n\n${answer}`), eos];
}

/** Prompt and target as one sequence; each token of the target weighs 1, the prompt nothing. */
export function exampleOf(tokenizer: Tokenizer, exchange: Exchange, mode: AnswerMode): Example {
  const prompt = promptIds(tokenizer, exchange.question, mode);
  const target = targetIds(tokenizer, exchange, mode);
  const weights = new Float32Array(prompt.length + target.length);
  weights.fill(1, prompt.length);
  return { ids: Int32Array.from([...prompt, ...target]), weights };
}

/** What a model wrote after the prompt of `mode`, in parts. A thought that never ends leaves the answer empty. */
export function splitReply(text: string, mode: AnswerMode): { chain: string; answer: string } {
  const end = text.lastIndexOf("</think>");
  if (end >= 0) {
    const chain = text.slice(0, end).replace(/^\s*<think>/, "");
    return { chain: chain.trim(), answer: text.slice(end + "</think>".length).trim() };
  }
  return mode === "chain" ? { chain: text.trim(), answer: "" } : { chain: "", answer: text.trim() };
}
