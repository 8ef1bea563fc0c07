// Text <-> token ids with the tokenizer.json of a checkpoint.

import { Tokenizer as HuggingFaceTokenizer } from "@huggingface/tokenizers";

export interface Tokenizer {
  /** One past the highest id it can give. */
  readonly size: number;
  /** The ids that DeepSeek's chat format is made of. */
  readonly control: ControlIds;
  /** Text that somebody typed: what looks like a control token in it is spelled out, never obeyed. */
  encodeText(text: string): number[];
  /** Text of our own, in which control tokens are meant. */
  encodeTemplate(text: string): number[];
  /** The text of ids, without begin, end and padding. <think> and </think> stay visible. */
  decode(ids: ArrayLike<number>): string;
}

export interface ControlIds {
  bos: number;
  eos: number;
  user: number;
  assistant: number;
  think: number;
  endThink: number;
}

const CONTROL: Record<keyof ControlIds, string> = {
  bos: "<｜begin▁of▁sentence｜>",
  eos: "<｜end▁of▁sentence｜>",
  user: "<｜User｜>",
  assistant: "<｜Assistant｜>",
  think: "<think>",
  endThink: "</think>",
};

/**
 * Open a tokenizer from its parsed tokenizer.json and tokenizer_config.json.
 *
 * Throws if they are damaged or have no words for DeepSeek's chat format.
 */
export function openTokenizer(tokenizerJson: unknown, configJson: unknown): Tokenizer {
  const inner = open(tokenizerJson, configJson);
  const added = [...inner.get_added_tokens_decoder()].map(([, token]) => token.content).filter((token) => token !== "");
  const special = new RegExp(
    added
      .toSorted((a, b) => b.length - a.length)
      .map((token) => token.replace(/[\\^$.*+?()[\]{}|/]/g, "\\$&"))
      .join("|") || "(?!)",
    "u",
  );
  const encode = (text: string): number[] => (text === "" ? [] : inner.encode(text, PLAIN).ids);
  return {
    size: vocabularySize(inner),
    control: controlIds(inner),
    encodeText: (text) => breakApart(text, special).flatMap(encode),
    encodeTemplate: encode,
    decode: (ids) => (ids.length === 0 ? "" : inner.decode(Array.from(ids), WITHOUT_SPECIAL)),
  };
}

/** Throws if the tokenizer gives ids that the model has no embedding for. A model may have more rows than are used. */
export function checkTokenizerFits(tokenizer: Tokenizer, vocabSize: number): void {
  if (tokenizer.size > vocabSize) {
    throw new Error(
      `The tokenizer has ${tokenizer.size} tokens and the model ${vocabSize} embeddings. Choose the tokenizer.json that came with this model.`,
    );
  }
}

// The library adds a BOS for some checkpoints and not for others: it is always written from the template instead.
const PLAIN = { add_special_tokens: false };
const WITHOUT_SPECIAL = { skip_special_tokens: true, clean_up_tokenization_spaces: false };

function open(tokenizerJson: unknown, configJson: unknown): HuggingFaceTokenizer {
  try {
    return new HuggingFaceTokenizer(tokenizerJson as object, configJson as object);
  } catch (error) {
    throw new Error(
      `tokenizer.json cannot be read (${error instanceof Error ? error.message : String(error)}). Choose the tokenizer.json and tokenizer_config.json of one checkpoint.`,
      { cause: error },
    );
  }
}

function controlIds(inner: HuggingFaceTokenizer): ControlIds {
  const missing = Object.values(CONTROL).filter((token) => inner.token_to_id(token) === undefined);
  if (missing.length > 0) {
    throw new Error(
      `The tokenizer has no ${missing.join(", ")}: it is not one of DeepSeek's reasoning models. Choose the tokenizer.json of a DeepSeek-R1 kind.`,
    );
  }
  const id = (name: keyof ControlIds): number => inner.token_to_id(CONTROL[name]) as number;
  return {
    bos: id("bos"),
    eos: id("eos"),
    user: id("user"),
    assistant: id("assistant"),
    think: id("think"),
    endThink: id("endThink"),
  };
}

function vocabularySize(inner: HuggingFaceTokenizer): number {
  let size = 0;
  for (const id of inner.get_vocab(true).values()) size = Math.max(size, id + 1);
  return size;
}

/** Cut behind the first character of every control token, so that no piece holds a whole one. */
function breakApart(text: string, special: RegExp): string[] {
  const pieces: string[] = [];
  let rest = text;
  for (let at = rest.search(special); at >= 0; at = rest.search(special)) {
    const cut = at + String.fromCodePoint(rest.codePointAt(at) as number).length;
    pieces.push(rest.slice(0, cut));
    rest = rest.slice(cut);
  }
  return rest === "" ? pieces : [...pieces, rest];
}
