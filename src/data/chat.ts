// Questions and worked answers as a model's own chat template writes them, and where the loss lies. In DeepSeek-R1's:
//
//   <bos><｜User｜>question<｜Assistant｜><think>\n | chain\n</think>\n\nanswer<eos>      with a chain
//   <bos><｜User｜>question<｜Assistant｜><think>\n\n</think>\n\n | answer<eos>           at once: R1's own empty thought
//
// What stands before the bar is the prompt; what stands behind it carries loss, the end included. A template is never asked
// to write the answer: R1's takes the chain away from it. Where it does not open the thought itself (Qwen2.5, DeepSeek-V3),
// the model learns to: "<think>\n" then begins what carries loss, and an answer at once follows the prompt as it is.

import type { AnswerMode, Case, Example } from "../protocol/data.ts";
import type { ChatFormat, Message } from "./chatTemplate.ts";
import type { Tokenizer } from "./tokenizer.ts";

/** A pair to train on or to ask; any Case is one. Without a chain it can only be answered at once. */
export type Exchange = Pick<Case, "question" | "answer"> & Partial<Pick<Case, "chain">>;

/** The tokens up to where the model goes on. `earlier` is what was said before, a system message perhaps. */
export function promptIds(
  tokenizer: Tokenizer,
  question: string,
  mode: AnswerMode,
  earlier: readonly Message[] = [],
): number[] {
  const wording = wordingOf(question);
  const format = formatOf(tokenizer);
  const messages: Message[] = [...earlier, { role: "user", content: wording }];
  const mark = unusedCharacter([format.source, ...messages.map(({ content }) => content)]);
  const ids = encodeMarked(tokenizer, promptText(tokenizer, withMarks(tokenizer, messages, mark), mode), mark);
  const { bos } = tokenizer.control;
  if (bos !== null && ids[0] === bos && ids[1] === bos) {
    throw new Error("The chat template begins a conversation twice. Choose the one that came with the model.");
  }
  return ids;
}

function wordingOf(question: string): string {
  const wording = question.trim();
  if (wording === "") throw new Error("The question is empty. Write one, or leave the row out.");
  return wording;
}

function promptText(tokenizer: Tokenizer, messages: Message[], mode: AnswerMode): string {
  const opened = formatOf(tokenizer).prompt(messages, mode === "chain");
  return mode === "direct" ? withoutThought(tokenizer, opened) : opened;
}

/** The tokens that answer the prompt of the same mode. */
export function targetIds(tokenizer: Tokenizer, exchange: Exchange, mode: AnswerMode): number[] {
  return encodeParts(tokenizer, targetParts(tokenizer, exchange, mode));
}

function targetParts(tokenizer: Tokenizer, exchange: Exchange, mode: AnswerMode): Part[] {
  const format = formatOf(tokenizer);
  const answer = exchange.answer.trim();
  if (answer === "")
    throw new Error(`"${exchange.question.slice(0, 60)}" has no answer. Add one, or leave the row out.`);
  if (mode === "direct") return [{ typed: answer }, format.turnEnd];
  const chain = exchange.chain?.trim() ?? "";
  if (chain === "") {
    throw new Error(
      `"${exchange.question.slice(0, 60)}" has no chain of thought. Add one, or train it with direct answers.`,
    );
  }
  const opening = format.opensThought ? [] : ["<think>\n"];
  return [...opening, { typed: chain }, "\n</think>\n\n", { typed: answer }, format.turnEnd];
}

/**
 * Prompt and target of `exampleOf` as texts, for programs that cut them into tokens by themselves, control tokens in them.
 *
 * Null where somebody typed what looks like a control token: those programs would obey it.
 */
export function exampleTexts(
  tokenizer: Tokenizer,
  exchange: Exchange,
  mode: AnswerMode,
): { prompt: string; target: string } | null {
  const wording = wordingOf(exchange.question);
  const parts = targetParts(tokenizer, exchange, mode);
  const typed = [wording, ...parts.flatMap((part) => (typeof part === "string" ? [] : [part.typed]))];
  if (typed.some((text) => tokenizer.spellOut(text).length > 1)) return null;
  return {
    prompt: promptText(tokenizer, [{ role: "user", content: wording }], mode),
    target: parts.map((part) => (typeof part === "string" ? part : part.typed)).join(""),
  };
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
export function splitReply(tokenizer: Tokenizer, text: string, mode: AnswerMode): { chain: string; answer: string } {
  const [, opened, rest] = /^(\s*<think>)?(.*)$/su.exec(text) as RegExpExecArray;
  const end = rest.lastIndexOf("</think>");
  if (end >= 0) return { chain: rest.slice(0, end).trim(), answer: rest.slice(end + "</think>".length).trim() };
  const thinking = opened !== undefined || (mode === "chain" && formatOf(tokenizer).opensThought);
  return thinking ? { chain: rest.trim(), answer: "" } : { chain: "", answer: rest.trim() };
}

function formatOf({ chat }: Tokenizer): ChatFormat {
  if (chat) return chat;
  throw new Error(
    "No chat template came with this model. Add its chat_template.jinja, or choose the model that was trained on chats.",
  );
}

/** Text of ours, or what somebody typed. */
type Part = string | { typed: string };

/** Tokens of the parts as one text, what was typed in them spelled out. */
function encodeParts(tokenizer: Tokenizer, parts: Part[]): number[] {
  const mark = unusedCharacter(parts.map((part) => (typeof part === "string" ? part : part.typed)));
  const text = parts.map((part) => (typeof part === "string" ? part : tokenizer.spellOut(part.typed).join(mark)));
  return encodeMarked(tokenizer, text.join(""), mark);
}

/** Tokens of a text that is cut at the marks. */
function encodeMarked(tokenizer: Tokenizer, text: string, mark: string): number[] {
  return text.split(mark).flatMap((part) => tokenizer.encodeTemplate(part));
}

/** A character for private use that stands in none of the texts. */
function unusedCharacter(texts: string[]): string {
  for (let code = 0xe000; code < 0xf900; code++) {
    const character = String.fromCharCode(code);
    if (!texts.some((text) => text.includes(character))) return character;
  }
  throw new Error("The text uses every character there is for private use. Leave one out.");
}

/** Messages with control tokens in them cut by a mark. The thoughts that a model marked in its own replies stay. */
function withMarks(tokenizer: Tokenizer, messages: readonly Message[], mark: string): Message[] {
  const cut = (text: string): string => tokenizer.spellOut(text).join(mark);
  return messages.map(({ role, content }) => {
    const parts = role === "assistant" ? content.split(/(<\/?think>)/u) : [content];
    return { role, content: parts.map((part, i) => (i % 2 === 0 ? cut(part) : part)).join("") };
  });
}

/** A prompt after which the answer comes at once: the thought that it opens is empty. */
function withoutThought(tokenizer: Tokenizer, prompt: string): string {
  if (/<\/think>\s*$/u.test(prompt)) return prompt;
  if (/<think>\s*$/u.test(prompt)) return prompt.replace(/<think>\s*$/u, EMPTY_THOUGHT);
  const thinks = ["<think>", "</think>"].every((token) => tokenizer.tokenId(token) !== undefined);
  return thinks ? prompt + EMPTY_THOUGHT : prompt;
}

const EMPTY_THOUGHT = "<think>\n\n</think>\n\n";
