// Text <-> token ids with the tokenizer.json of a checkpoint, exactly as the model learned them.

import { Tokenizer as HuggingFaceTokenizer } from "@huggingface/tokenizers";
import { byteAlphabet } from "./bpe.ts";
import { type ChatFormat, openChatFormat } from "./chatTemplate.ts";
import { checkTokenizerJson, type TokenizerJson } from "./tokenizerJson.ts";

/** What may lie beside tokenizer.json and tokenizer_config.json. */
export interface TokenizerExtras {
  /** The text of chat_template.jinja. It goes before the template in tokenizer_config.json. */
  chatTemplate?: string;
  /** chat_template.json. */
  chatTemplateJson?: unknown;
  /** generation_config.json. */
  generationConfig?: unknown;
}

export interface Tokenizer {
  /** One past the highest id it can give. */
  readonly size: number;
  readonly control: ControlIds;
  /** How the model is talked to; null if no chat template came with it. */
  readonly chat: ChatFormat | null;
  /** Text that somebody typed: what looks like a control token in it is spelled out, never obeyed. */
  encodeText(text: string): number[];
  /** Text of our own or of a template, in which control tokens are meant. */
  encodeTemplate(text: string): number[];
  /** The text cut so that no part holds a control token: its parts, encoded one by one, spell it out. */
  spellOut(text: string): string[];
  /** The id of a control token. */
  tokenId(token: string): number | undefined;
  /** The text of ids, without begin, end and padding. <think> and </think> stay visible. */
  decode(ids: ArrayLike<number>): string;
}

export interface ControlIds {
  /** What every sequence begins with; null if the model knows no such token (Qwen2). */
  bos: number | null;
  eos: number;
  /** Each of them ends a reply. */
  ends: readonly number[];
}

/**
 * Open a tokenizer from its parsed tokenizer.json and tokenizer_config.json.
 *
 * Throws a sentence if a file is damaged, or the files are not of one model.
 */
export function openTokenizer(tokenizerJson: unknown, configJson: unknown, extras: TokenizerExtras = {}): Tokenizer {
  const facts = checkTokenizerJson(tokenizerJson);
  const config = recordOf(configJson, "tokenizer_config.json");
  const added = new Map(facts.added.map((token) => [token.id, token]));
  const ids = new Map(facts.added.map(({ id, content }) => [content, id]));
  const bos = controlToken(config, "bos_token", facts);
  const eos = controlToken(config, "eos_token", facts);
  const chat = openChatFormat(config, extras, { bos: bos?.content, eos: eos?.content }, (token) => ids.has(token));
  const ends = endsOf(extras.generationConfig, facts.size, [
    eos?.id,
    ...[chat?.turnEnd, chat?.userStart].map((token) => (token ? facts.idOf(token) : undefined)),
  ]);
  const inner = open(tokenizerJson);

  const control = controlPattern(facts);
  const spellOut = (text: string): string[] => breakApart(text, control);
  const encode = (text: string): number[] => (text === "" ? [] : inner.encode(wellFormed(text), PLAIN).ids);
  const tokenizer = {
    size: facts.size,
    control: { bos: bos?.id ?? null, eos: ends[0], ends },
    chat,
    encodeText: (text: string) => spellOut(text).flatMap(encode),
    encodeTemplate: encode,
    spellOut,
    tokenId: (token: string) => ids.get(token),
    decode: decoder((id) => inner.id_to_token(id), added),
  };
  checkRoundTrip(tokenizer);
  return tokenizer;
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

const ONE_CHECKPOINT = "Choose the tokenizer.json and tokenizer_config.json of one checkpoint.";

function open(tokenizerJson: unknown): HuggingFaceTokenizer {
  try {
    // Without the configuration: all that it could change is of other kinds of models.
    return new HuggingFaceTokenizer(tokenizerJson as object, {});
  } catch (error) {
    throw new Error(
      `tokenizer.json cannot be read (${error instanceof Error ? error.message : String(error)}). ${ONE_CHECKPOINT}`,
      { cause: error },
    );
  }
}

/** Throws if a text of many kinds of characters does not come back, as it does with every model of the supported kinds. */
function checkRoundTrip(tokenizer: Tokenizer): void {
  const text = "Aa-1 2\n\n\t中文，\u00E9 \u{1F600}<|x|>";
  if (attempt(() => tokenizer.decode(tokenizer.encodeText(text))) === text) return;
  throw new Error(
    "tokenizer.json does not give a text back as it was: it is damaged or of another kind than DeepSeek's and Qwen2's. Choose the one that came with the model.",
  );
}

function attempt<T>(action: () => T): T | undefined {
  try {
    return action();
  } catch {
    return undefined;
  }
}

function recordOf(json: unknown, file: string): Record<string, unknown> {
  if (typeof json === "object" && json !== null && !Array.isArray(json)) return json as Record<string, unknown>;
  throw new Error(`${file} cannot be read: it holds no object. ${ONE_CHECKPOINT}`);
}

/** The token that the configuration names, plainly or as {content}. Throws if it is none of the tokenizer's. */
function controlToken(
  config: Record<string, unknown>,
  key: "bos_token" | "eos_token",
  facts: TokenizerJson,
): { content: string; id: number } | undefined {
  const token = config[key] ?? undefined;
  if (token === undefined) return undefined;
  const content = typeof token === "object" && "content" in token ? token.content : token;
  const id = typeof content === "string" ? facts.idOf(content) : undefined;
  if (typeof content === "string" && id !== undefined) return { content, id };
  throw new Error(
    `tokenizer_config.json says that ${key} is ${JSON.stringify(content)}, which is no token of tokenizer.json. ${ONE_CHECKPOINT}`,
  );
}

/** The tokens that end a reply, the tokenizer's own first. */
function endsOf(generationConfig: unknown, size: number, own: (number | undefined)[]): number[] {
  const config = generationConfig === undefined ? {} : recordOf(generationConfig, "generation_config.json");
  const told = [config.eos_token_id ?? []].flat();
  const wrong = told.find((id) => !Number.isInteger(id) || Number(id) < 0 || Number(id) >= size);
  if (wrong !== undefined) {
    throw new Error(
      `generation_config.json says that eos_token_id is ${JSON.stringify(wrong)}; the tokenizer has the ids 0 to ${size - 1}. Choose the files of one checkpoint.`,
    );
  }
  const ends = [...new Set([...own, ...told.map(Number)])].filter((id) => id !== undefined);
  if (ends.length > 0) return ends;
  throw new Error(
    `Neither tokenizer_config.json (eos_token) nor generation_config.json (eos_token_id) says what ends a text. ${ONE_CHECKPOINT}`,
  );
}

/** A half of a surrogate pair has no bytes; like any writer of UTF-8, take U+FFFD for it. */
function wellFormed(text: string): string {
  return text.replace(/\p{Surrogate}/gu, "\uFFFD");
}

/**
 * Every added token, the longest first. Single characters are letters that the vocabulary lacked (DeepSeek-V2 has "ø" so):
 * they are meant wherever they stand.
 */
function controlPattern({ added }: TokenizerJson): RegExp {
  const escaped = added
    .map(({ content }) => content)
    .filter((token) => Array.from(token).length > 1)
    .toSorted((a, b) => b.length - a.length)
    .map((token) => token.replace(/[\\^$.*+?()[\]{}|/]/g, "\\$&"));
  return new RegExp(escaped.join("|") || "(?!)", "u");
}

/** Cut behind the first character of every control token, so that no piece holds a whole one. */
function breakApart(text: string, control: RegExp): string[] {
  const pieces: string[] = [];
  let rest = text;
  for (let at = rest.search(control); at >= 0; at = rest.search(control)) {
    const cut = at + String.fromCodePoint(rest.codePointAt(at) as number).length;
    pieces.push(rest.slice(0, cut));
    rest = rest.slice(cut);
  }
  return rest === "" ? pieces : [...pieces, rest];
}

/**
 * Bytes of the tokens joined and read as UTF-8; added tokens are text by themselves, special ones are left out.
 *
 * The library's own decoder looks through the list of added tokens for each token: with DeepSeek-V3's 818, most of its time.
 */
function decoder(
  tokenOf: (id: number) => string | undefined,
  added: ReadonlyMap<number, { content: string; special: boolean }>,
): (ids: ArrayLike<number>) => string {
  const byteOf = new Map(byteAlphabet().map((character, byte) => [character, byte]));
  const bytesOf = (token: string): Iterable<number> => {
    const spelt = Array.from(token, (character) => byteOf.get(character));
    return spelt.every((byte) => byte !== undefined) ? spelt : new TextEncoder().encode(token);
  };
  const utf8 = new TextDecoder("utf-8", { ignoreBOM: true });
  return (ids) => {
    let text = "";
    let bytes: number[] = [];
    for (const id of Array.from(ids)) {
      const control = added.get(id);
      if (control?.special) continue;
      if (!control) {
        bytes.push(...bytesOf(tokenOf(id) ?? ""));
        continue;
      }
      text += utf8.decode(Uint8Array.from(bytes)) + control.content;
      bytes = [];
    }
    return text + utf8.decode(Uint8Array.from(bytes));
  };
}
