// tokenizer.json and tokenizer_config.json <-> tokenizer.ggml.*: byte-level BPE as llama.cpp reads it.

import { flag, Keys, text, u32 } from "./ggufConfig.ts";
import type { Metadata, MetadataValue } from "./ggufFile.ts";
import type { ModelConfig } from "./hfConfig.ts";

/** What a token is, by llama.cpp's numbers. */
const NORMAL = 1;
const CONTROL = 3;
const USER_DEFINED = 4;
const UNUSED = 5;

const QWEN_SPLIT =
  "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";
const JAPANESE_AND_CHINESE = "[一-龥぀-ゟ゠-ヿ]+";
const DEEPSEEK_WORDS =
  "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\\r\\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| ?[\\p{P}\\p{S}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";
const LETTERS =
  "A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-ՖႠ-ჅᎠ-Ᏽᏸ-ᏽᲐ-ᲺᲽ-Ჿᴀ-ᴫᵫ-ᵷᵹ-ᶚḀ-ἕἘ-Ἕἠ-ὅὈ-Ὅὐ-ὗὙὛὝὟ-ώᾀ-ᾴᾶ-ᾼιῂ-ῄῆ-ῌῐ-ΐῖ-Ίῠ-Ῥῲ-ῴῶ-ῼℂℇℊ-ℓℕℙ-ℝℤΩℨK-ℭℯ-ℴℹℼ-ℿⅅ-ⅉⅎↃↄⰀ-ⱻⱾ-ⳤⳫ-ⳮⳲⳳꙀ-ꙭꚀ-ꚛꜢ-ꝯꝱ-ꞇꞋ-ꞎꭰ-ꮿﬀ-ﬆﬓ-ﬗＡ-Ｚａ-ｚ𐐀-𐑏𐒰-𐓓𐓘-𐓻𐲀-𐲲𐳀-𐳲𑢠-𑣟𞤀-𞥃";

/** How each tokenizer.ggml.pre cuts a text before it merges, one expression after the other. (llama.cpp, src/llama-vocab.cpp) */
const SPLITS: Record<string, string[]> = {
  qwen2: [QWEN_SPLIT],
  "deepseek-r1-qwen": [QWEN_SPLIT],
  "deepseek-v3": ["\\p{N}{1,3}", JAPANESE_AND_CHINESE, DEEPSEEK_WORDS],
  "deepseek-llm": [
    "[\\r\\n]",
    `\\s?[${LETTERS}]+`,
    "\\s?[!-/:-~！-／：-～‘-‟　-。]+",
    "\\s+$",
    "[一-龥ࠀ-一가-퟿]+",
    "\\p{N}+",
  ],
};

/** What a checkpoint's two files say. */
export interface TokenizerFiles {
  tokenizer: Record<string, unknown>;
  tokenizerConfig: Record<string, unknown>;
  bos: number | null;
  eos: number | null;
}

/**
 * Build tokenizer.json and tokenizer_config.json out of a file's metadata.
 *
 * Of an added token the file keeps its text and whether it steers: where texts are cut of spaces around it is not kept.
 */
export function tokenizerFiles(name: string, metadata: Metadata): TokenizerFiles {
  const keys = new Keys(name, metadata, "tokenizer.ggml.");
  const splits = SPLITS[knownName(keys, "pre", Object.keys(SPLITS))];
  knownName(keys, "model", ["gpt2"]);
  const tokens = strings(keys, "tokens");
  const types = tokenTypes(keys, tokens.length);
  const special = (key: string): number | null => {
    const id = keys.optional(key);
    if (id !== undefined && id >= tokens.length) throw keys.broken(key, `${id} of ${tokens.length} tokens`);
    return id ?? null;
  };
  const [bos, eos, pad] = [special("bos_token_id"), special("eos_token_id"), special("padding_token_id")];
  const word = (id: number | null) => (id === null ? null : tokens[id]);
  const template = metadata.get("tokenizer.chat_template");
  return {
    bos,
    eos,
    tokenizer: tokenizerJson(tokens, types, strings(keys, "merges"), splits),
    tokenizerConfig: {
      tokenizer_class: "PreTrainedTokenizerFast",
      add_bos_token: keys.boolean("add_bos_token", false),
      add_eos_token: keys.boolean("add_eos_token", false),
      bos_token: word(bos),
      eos_token: word(eos),
      pad_token: word(pad),
      unk_token: null,
      clean_up_tokenization_spaces: false,
      ...(template?.type === "string" ? { chat_template: template.value } : {}),
    },
  };
}

function knownName(keys: Keys, key: string, known: string[]): string {
  const found = keys.string(key, "missing");
  if (known.includes(found)) return found;
  throw keys.broken(key, `"${found}"; supported are ${known.join(", ")}`);
}

function strings(keys: Keys, key: string): string[] {
  const found = keys.find(key);
  if (found?.type !== "array" || found.of !== "string" || found.value.length === 0) {
    throw keys.broken(key, found ? "no list of texts" : "missing");
  }
  return found.value;
}

function tokenTypes(keys: Keys, count: number): number[] {
  const found = keys.find("token_type");
  if (!found) return Array.from({ length: count }, () => NORMAL);
  if (found.type !== "array" || found.of === "string" || found.value.length !== count) {
    throw keys.broken("token_type", `no list of ${count} numbers`);
  }
  return Array.from<unknown, number>(found.value, Number);
}

function tokenizerJson(tokens: string[], types: number[], merges: string[], splits: string[]): Record<string, unknown> {
  const added = tokens.flatMap((content, id) => {
    const plain = types[id] !== CONTROL && types[id] !== USER_DEFINED;
    return plain ? [] : [{ id, content, ...AS_WRITTEN, special: types[id] === CONTROL && !SPOKEN.test(content) }];
  });
  // Up to the last ordinary token all are in the vocabulary: readers count on by its size when they add the others.
  const size = types.lastIndexOf(NORMAL) + 1;
  return {
    version: "1.0",
    truncation: null,
    padding: null,
    added_tokens: added,
    normalizer: null,
    pre_tokenizer: {
      type: "Sequence",
      pretokenizers: [
        ...splits.map((Regex) => ({ type: "Split", pattern: { Regex }, behavior: "Isolated", invert: false })),
        { type: "ByteLevel", add_prefix_space: false, trim_offsets: true, use_regex: false },
      ],
    },
    post_processor: BYTE_LEVEL,
    decoder: BYTE_LEVEL,
    model: {
      type: "BPE",
      dropout: null,
      unk_token: null,
      continuing_subword_prefix: null,
      end_of_word_suffix: null,
      fuse_unk: false,
      byte_fallback: false,
      vocab: Object.fromEntries(tokens.slice(0, size).map((token, id) => [token, id])),
      merges,
    },
  };
}

const AS_WRITTEN = { single_word: false, lstrip: false, rstrip: false, normalized: false };
const BYTE_LEVEL = { type: "ByteLevel", add_prefix_space: true, trim_offsets: true, use_regex: true };

/** Control tokens that the checkpoints' own files do not count as special: decoding shows them. */
const SPOKEN = /^<[|｜](User|Assistant|EOT|fim|tool|repo_name|file_sep)/;

/**
 * The metadata of a tokenizer, with exactly `vocabSize` tokens. Throws a sentence for what llama.cpp has no name for.
 */
export function tokenizerMetadata(
  config: ModelConfig,
  tokenizer: unknown,
  tokenizerConfig: unknown,
): { entries: [string, MetadataValue][]; notes: string[] } {
  const json = record(tokenizer);
  const settings = record(tokenizerConfig);
  const model = record(json.model);
  checkModel(model);
  const added = addedTokens(json);
  const { tokens, types } = tokenTable(config, record(model.vocab), added);
  const merges = mergesOf(model);
  const ids = specialIds(config, settings, tokens);
  const template = chatTemplate(settings);
  const normalizer = normalizerOf(json);
  const entries: [string, MetadataValue][] = [
    ["tokenizer.ggml.model", text("gpt2")],
    ["tokenizer.ggml.pre", text(preTokenizerName(json, merges, tokens))],
    ["tokenizer.ggml.tokens", { type: "array", of: "string", value: tokens }],
    ["tokenizer.ggml.token_type", { type: "array", of: "i32", value: Int32Array.from(types) }],
    ["tokenizer.ggml.merges", { type: "array", of: "string", value: merges }],
    ...ids,
    ["tokenizer.ggml.add_bos_token", flag(addsBos(settings, template))],
    ["tokenizer.ggml.add_eos_token", flag(settings.add_eos_token === true)],
    ...(template === null ? [] : [["tokenizer.chat_template", text(template)] as [string, MetadataValue]]),
  ];
  const notes = normalizer
    ? ["llama.cpp does not compose accents (NFC) before it cuts a text into tokens, as the tokenizer does."]
    : [];
  return { entries, notes };
}

/** The chat template of a tokenizer_config.json, which may hold several by name. Null: it has none. */
export function chatTemplate(settings: Record<string, unknown>): string | null {
  const { chat_template: template } = settings;
  if (typeof template === "string") return template;
  if (!Array.isArray(template)) return null;
  const found = template.map(record).find(({ name }) => name === "default")?.template;
  return typeof found === "string" ? found : null;
}

/** A special token in tokenizer_config.json is a text, or an object with it. Null: there is none. */
export function specialToken(settings: Record<string, unknown>, key: string): string | null {
  const value = settings[key];
  const content = typeof value === "string" ? value : record(value).content;
  return typeof content === "string" ? content : null;
}

/** Prompts of models whose template begins with BOS must have it there too, where a program fills in its own template. */
function addsBos(settings: Record<string, unknown>, template: string | null): boolean {
  if (specialToken(settings, "bos_token") === null) return false;
  return settings.add_bos_token === true || (template?.includes("bos_token") ?? false);
}

function checkModel(model: Record<string, unknown>): void {
  const wrong =
    model.type !== "BPE"
      ? `a model of type ${JSON.stringify(model.type)}`
      : ["continuing_subword_prefix", "end_of_word_suffix", "unk_token", "byte_fallback", "ignore_merges"].find(
          (key) => model[key],
        );
  if (wrong) {
    throw new Error(
      `tokenizer.json has ${wrong}; llama.cpp reads byte-level BPE without it here. Export safetensors instead.`,
    );
  }
}

interface AddedToken {
  id: number;
  content: string;
  special: boolean;
}

function addedTokens(json: Record<string, unknown>): AddedToken[] {
  const list = Array.isArray(json.added_tokens) ? json.added_tokens.map(record) : [];
  return list.map(({ id, content, special }) => {
    if (!Number.isSafeInteger(id) || typeof content !== "string") {
      throw new Error("tokenizer.json has an added token without id or text. Choose the checkpoint's own file.");
    }
    return { id: id as number, content, special: special === true };
  });
}

/** Every id once; what no token has is padding that llama.cpp never chooses. */
function tokenTable(
  { vocabSize }: ModelConfig,
  vocab: Record<string, unknown>,
  added: AddedToken[],
): { tokens: string[]; types: number[] } {
  const tokens = Array.from({ length: vocabSize }, (_, id) => `[PAD${id}]`);
  const types = Array.from({ length: vocabSize }, () => UNUSED);
  const put = (id: unknown, token: string, type: number) => {
    if (!Number.isSafeInteger(id) || (id as number) < 0 || (id as number) >= vocabSize) {
      throw new Error(
        `The tokenizer gives "${token}" the id ${JSON.stringify(id)} and the model has ${vocabSize} embeddings. Choose the tokenizer.json that came with it.`,
      );
    }
    tokens[id as number] = token;
    types[id as number] = type;
  };
  for (const [token, id] of Object.entries(vocab)) put(id, token, NORMAL);
  for (const { id, content, special } of added) {
    const control = special || /^<[|｜].*[|｜]>$/u.test(content);
    // llama.cpp looks for these in the text itself, where ▁ is a space.
    put(id, control ? content : content.replaceAll("▁", " "), control ? CONTROL : USER_DEFINED);
  }
  return { tokens, types };
}

/** "a b" each; files of newer tokenizers have pairs, in which a space is written as Ġ. */
function mergesOf({ merges }: Record<string, unknown>): string[] {
  const list = Array.isArray(merges) ? (merges as unknown[]) : [];
  if (list.length === 0) {
    throw new Error("tokenizer.json has no merges, and llama.cpp reads none without. Export safetensors instead.");
  }
  return list.map((merge) => {
    if (typeof merge === "string") return merge;
    if (Array.isArray(merge) && merge.length === 2)
      return merge.map((part) => String(part).replaceAll(" ", "Ġ")).join(" ");
    throw new Error(`tokenizer.json has the merge ${JSON.stringify(merge)}. Choose the checkpoint's own file.`);
  });
}

/** Ids by the tokenizer's own names; where it has none, by the config's. Without an end llama.cpp would take token 11. */
function specialIds(
  config: ModelConfig,
  settings: Record<string, unknown>,
  tokens: string[],
): [string, MetadataValue][] {
  const idOf = (key: string, otherwise: number | null): number | null => {
    const token = specialToken(settings, key);
    const id = token === null ? -1 : tokens.indexOf(token);
    return id >= 0 ? id : otherwise;
  };
  const bos = idOf("bos_token", config.bosTokenId);
  const eos = idOf("eos_token", config.eosTokenId);
  const pad = idOf("pad_token", null);
  if (eos === null || eos >= tokens.length) {
    throw new Error(
      "Neither tokenizer_config.json nor config.json names the token that ends a text (eos_token), which llama.cpp needs. Add it.",
    );
  }
  return [
    ...(bos === null ? [] : [["tokenizer.ggml.bos_token_id", u32(bos)] as [string, MetadataValue]]),
    ["tokenizer.ggml.eos_token_id", u32(eos)],
    ...(pad === null ? [] : [["tokenizer.ggml.padding_token_id", u32(pad)] as [string, MetadataValue]]),
  ];
}

/** Whether it composes accents. Throws for a normaliser that does something else. */
function normalizerOf({ normalizer }: Record<string, unknown>): boolean {
  const parts = partsOf(normalizer, "normalizers").map(({ type }) => type);
  const other = parts.find((type) => type !== "NFC");
  if (other !== undefined) {
    throw new Error(
      `tokenizer.json normalises texts by ${JSON.stringify(other)}, which llama.cpp does not. Export safetensors instead.`,
    );
  }
  return parts.length > 0;
}

/** llama.cpp's name for how texts are cut. */
function preTokenizerName(json: Record<string, unknown>, merges: string[], tokens: string[]): string {
  const splits = partsOf(json.pre_tokenizer, "pretokenizers").flatMap((part) => {
    if (part.type === "Digits") return [part.individual_digits === true ? "\\p{N}" : "\\p{N}+"];
    return part.type === "Split" ? [String(record(part.pattern).Regex)] : [];
  });
  const same = (known: string[]) => {
    return known.length === splits.length && known.every((split, i) => sameSplit(split, splits[i], merges));
  };
  const name = Object.keys(SPLITS).find((each) => same(SPLITS[each]));
  if (name === undefined) {
    throw new Error(
      `tokenizer.json cuts texts by ${JSON.stringify(splits).slice(0, 120)}, for which llama.cpp has no name; supported are ${Object.keys(SPLITS).join(", ")}. Export safetensors instead.`,
    );
  }
  return name === "qwen2" && tokens.includes("<｜begin▁of▁sentence｜>") ? "deepseek-r1-qwen" : name;
}

/** Numbers cut shorter are the same to a tokenizer that never joins them. */
function sameSplit(known: string, found: string, merges: string[]): boolean {
  if (known === found.replaceAll("\n", "\\n").replaceAll("\r", "\\r")) return true;
  return found === "\\p{N}" && known.startsWith("\\p{N}") && !merges.some((merge) => /\d ?\d/.test(merge));
}

/** The parts of a Sequence, or the one there is. */
function partsOf(value: unknown, key: string): Record<string, unknown>[] {
  const one = record(value);
  if (one.type === "Sequence") return Array.isArray(one[key]) ? one[key].map(record) : [];
  return one.type === undefined ? [] : [one];
}

function record(value: unknown): Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value) ? (value as Record<string, unknown>) : {};
}
