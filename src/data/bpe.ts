// Train a byte-level BPE tokenizer (Sennrich et al., 2016; Radford et al., 2019) in the form of DeepSeek-V3's.

/** Control tokens, written as DeepSeek writes them. Their ids are their places here, before all others. */
export const CONTROL_TOKENS = [
  "<｜begin▁of▁sentence｜>",
  "<｜end▁of▁sentence｜>",
  "<｜▁pad▁｜>",
  "<｜User｜>",
  "<｜Assistant｜>",
  "<think>",
  "</think>",
] as const;

/** The first three never belong to a text; the rest do, and decoding keeps them. */
const SPECIAL_COUNT = 3;

/**
 * DeepSeek-V3's three splits, applied one after the other, with one change: a digit stands alone, where DeepSeek takes up to
 * three together. A small model then learns ten digits instead of a thousand numbers. As no merge joins digits, a
 * reader that splits DeepSeek's way finds the same tokens.
 */
const SPLITS = [
  "\\p{N}",
  "[一-龥぀-ゟ゠-ヿ]+",
  "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\\r\\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| ?[\\p{P}\\p{S}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+",
];

/** Text and how many times it counts. */
export interface WeightedText {
  text: string;
  weight: number;
}

export interface BpeOptions {
  /** All tokens: control tokens, 256 bytes, merges. */
  vocabSize: number;
  /** No token is longer. Chinese is not split into words, so a frequent phrase could otherwise become one token. */
  maxTokenBytes: number;
}

export interface Bpe {
  /** Token -> id: control tokens, the 256 bytes, then one token a merge. Bytes are written in the byte-level alphabet. */
  vocab: Map<string, number>;
  /** Pairs of tokens, first merged first. */
  merges: [string, string][];
}

/**
 * Learn merges until the vocabulary has its size. The same texts give the same tokenizer, in whatever order they come.
 *
 * Throws if the texts hold too few pairs to merge.
 */
export function trainBpe(texts: Iterable<WeightedText>, options: BpeOptions): Bpe {
  const { vocabSize, maxTokenBytes } = options;
  const merging = vocabSize - CONTROL_TOKENS.length - 256;
  if (!Number.isInteger(vocabSize) || merging < 0) {
    throw new Error(
      `A vocabulary of ${vocabSize} is too small: ${CONTROL_TOKENS.length + 256} are the bytes and control tokens.`,
    );
  }
  const pairs = new Pairs(splitIntoBytes(countWords(texts)), maxTokenBytes);
  while (pairs.tokens.length < 256 + merging) {
    if (!pairs.mergeMostFrequent()) {
      throw new Error(
        `The texts give ${pairs.tokens.length - 256} merged tokens and ${merging} are wanted for a vocabulary of ${vocabSize}. Add text or ask for fewer tokens.`,
      );
    }
  }
  return name(pairs.tokens, pairs.merges);
}

/** Cut a text into the pieces that merges never cross. Joined again they are the text. */
export function preTokenize(text: string, splits: RegExp[] = COMPILED): string[] {
  let pieces = [text];
  for (const split of splits) pieces = pieces.flatMap((piece) => isolate(piece, split));
  return pieces;
}

/** A Hugging Face tokenizer.json. */
export function tokenizerJson(bpe: Bpe): Record<string, unknown> {
  return {
    version: "1.0",
    truncation: null,
    padding: null,
    added_tokens: CONTROL_TOKENS.map((content, id) => ({
      id,
      content,
      single_word: false,
      lstrip: false,
      rstrip: false,
      normalized: false,
      special: id < SPECIAL_COUNT,
    })),
    normalizer: { type: "Sequence", normalizers: [] },
    pre_tokenizer: {
      type: "Sequence",
      pretokenizers: [
        ...SPLITS.map((regex) => ({ type: "Split", pattern: { Regex: regex }, behavior: "Isolated", invert: false })),
        { type: "ByteLevel", add_prefix_space: false, trim_offsets: true, use_regex: false },
      ],
    },
    post_processor: { type: "ByteLevel", add_prefix_space: true, trim_offsets: false, use_regex: true },
    decoder: { type: "ByteLevel", add_prefix_space: true, trim_offsets: true, use_regex: true },
    model: {
      type: "BPE",
      dropout: null,
      unk_token: null,
      continuing_subword_prefix: null,
      end_of_word_suffix: null,
      fuse_unk: false,
      byte_fallback: false,
      vocab: Object.fromEntries(bpe.vocab),
      merges: bpe.merges.map(([left, right]) => `${left} ${right}`),
    },
  };
}

/** The tokenizer_config.json beside it. The chat template is DeepSeek-R1's form without tool calls. */
export function tokenizerConfigJson(maxLength: number): Record<string, unknown> {
  const [bos, eos, pad] = CONTROL_TOKENS;
  return {
    // The class that takes tokenizer.json as it is.
    tokenizer_class: "PreTrainedTokenizerFast",
    // The template writes the beginning of a sentence itself.
    add_bos_token: false,
    add_eos_token: false,
    bos_token: bos,
    eos_token: eos,
    pad_token: pad,
    unk_token: null,
    clean_up_tokenization_spaces: false,
    model_max_length: maxLength,
    chat_template: CHAT_TEMPLATE,
  };
}

/** The last system message leads; of earlier replies only what follows the thought stays; a reply begins with a thought. */
const CHAT_TEMPLATE = [
  "{%- set lead = namespace(text='') -%}",
  "{%- for message in messages if message.role == 'system' -%}{%- set lead.text = message.content -%}{%- endfor -%}",
  "{{- bos_token + lead.text -}}",
  "{%- for message in messages -%}",
  "{%- if message.role == 'user' -%}{{- '<｜User｜>' + message.content -}}",
  "{%- elif message.role == 'assistant' -%}",
  "{{- '<｜Assistant｜>' + message.content.split('</think>')[-1] + eos_token -}}",
  "{%- endif -%}",
  "{%- endfor -%}",
  "{%- if add_generation_prompt -%}{{- '<｜Assistant｜><think>\\n' -}}{%- endif -%}",
].join("");

const COMPILED = SPLITS.map((source) => new RegExp(source, "gu"));

/** Matches and what stands between them. */
function isolate(text: string, split: RegExp): string[] {
  const pieces: string[] = [];
  let end = 0;
  split.lastIndex = 0;
  for (let match = split.exec(text); match !== null; match = split.exec(text)) {
    if (match.index > end) pieces.push(text.slice(end, match.index));
    end = match.index + match[0].length;
    pieces.push(match[0]);
  }
  if (end < text.length) pieces.push(text.slice(end));
  return pieces;
}

function countWords(texts: Iterable<WeightedText>): Map<string, number> {
  const counts = new Map<string, number>();
  for (const { text, weight } of texts) {
    if (!Number.isInteger(weight) || weight < 1) {
      throw new Error(`A text counts ${weight} times; a whole number of at least 1 is wanted.`);
    }
    // Line by line, as a long text would make long lists; the empty match at the end adds nothing.
    for (const line of text.match(/[^\n]*\n*/g) ?? []) {
      for (const word of preTokenize(line)) counts.set(word, (counts.get(word) ?? 0) + weight);
    }
  }
  return counts;
}

interface Word {
  symbols: number[];
  count: number;
}

function splitIntoBytes(counts: Map<string, number>): Word[] {
  const encoder = new TextEncoder();
  const words: Word[] = [];
  for (const [text, count] of counts) words.push({ symbols: [...encoder.encode(text)], count });
  return words;
}

/** Room for the second symbol of a pair in one number. */
const SPAN = 2 ** 24;

/** Words as symbols, and how often each pair of neighbours occurs. Symbols below 256 are bytes. */
class Pairs {
  readonly merges: [number, number][] = [];
  /** The bytes of each symbol, a character a byte. */
  readonly tokens: string[] = Array.from({ length: 256 }, (_, byte) => String.fromCharCode(byte));
  private readonly symbolOf = new Map(this.tokens.map((token, symbol) => [token, symbol]));
  private readonly counts = new Map<number, number>();
  /** Words in which a pair occurs or once did. */
  private readonly places = new Map<number, number[]>();
  /** Every pair with its present count is in here; older counts of it may be too. */
  private readonly queue = new Queue();
  private readonly words: Word[];
  private readonly maxTokenBytes: number;

  constructor(words: Word[], maxTokenBytes: number) {
    this.words = words;
    this.maxTokenBytes = maxTokenBytes;
    words.forEach((word, index) => {
      for (let i = 1; i < word.symbols.length; i++) {
        this.add(word.symbols[i - 1] * SPAN + word.symbols[i], word.count, index);
      }
    });
    for (const [pair, count] of this.counts) this.queue.push({ pair, count });
  }

  /** Make the most frequent pair a symbol; among equals the one of the oldest symbols. False if no pair is left. */
  mergeMostFrequent(): boolean {
    for (let top = this.queue.pop(); top; top = this.queue.pop()) {
      const { pair, count } = top;
      if (this.counts.get(pair) !== count) continue; // Its present count is further down.
      const [left, right] = [Math.floor(pair / SPAN), pair % SPAN];
      if (this.tokens[left].length + this.tokens[right].length > this.maxTokenBytes) continue;
      this.merge(left, right);
      return true;
    }
    return false;
  }

  private merge(left: number, right: number): void {
    const pair = left * SPAN + right;
    const token = this.tokens[left] + this.tokens[right];
    // Two pairs may spell one token ("a" + "bc", "ab" + "c"); it has one number.
    const symbol = this.symbolOf.get(token) ?? this.tokens.push(token) - 1;
    this.symbolOf.set(token, symbol);
    this.merges.push([left, right]);
    const changed = new Set<number>();
    for (const index of this.places.get(pair)!) this.rewrite(index, left, right, symbol, changed);
    this.places.delete(pair);
    this.counts.delete(pair);
    for (const other of changed) {
      const count = this.counts.get(other);
      if (count) this.queue.push({ pair: other, count });
    }
  }

  /** Replace the pair in one word, and note which pairs now occur more or less often. */
  private rewrite(index: number, left: number, right: number, symbol: number, changed: Set<number>): void {
    const word = this.words[index];
    const before = word.symbols;
    const after: number[] = [];
    const made: number[] = []; // Where the new symbol stands in `after`.
    let removedTo = 0; // Pairs that begin before this place are counted out.
    for (let i = 0; i < before.length; i++) {
      if (before[i] !== left || before[i + 1] !== right) {
        after.push(before[i]);
        continue;
      }
      made.push(after.push(symbol) - 1);
      for (let at = Math.max(i - 1, removedTo); at < Math.min(i + 2, before.length - 1); at++) {
        const pair = before[at] * SPAN + before[at + 1];
        this.counts.set(pair, this.counts.get(pair)! - word.count);
        changed.add(pair);
      }
      removedTo = i + 2;
      i++;
    }
    let addedTo = 0;
    for (const place of made) {
      for (let at = Math.max(place - 1, addedTo); at < Math.min(place + 1, after.length - 1); at++) {
        const pair = after[at] * SPAN + after[at + 1];
        this.add(pair, word.count, index);
        changed.add(pair);
      }
      addedTo = place + 1;
    }
    word.symbols = after;
  }

  private add(pair: number, count: number, index: number): void {
    this.counts.set(pair, (this.counts.get(pair) ?? 0) + count);
    const places = this.places.get(pair);
    if (!places) this.places.set(pair, [index]);
    else if (places.at(-1) !== index) places.push(index);
  }
}

interface Counted {
  pair: number;
  count: number;
}

/** A binary heap: the highest count first, among equals the lowest pair. */
class Queue {
  private readonly heap: Counted[] = [];

  push(item: Counted): void {
    const heap = this.heap;
    let at = heap.push(item) - 1;
    while (at > 0) {
      const parent = (at - 1) >> 1;
      if (!comesFirst(item, heap[parent])) break;
      heap[at] = heap[parent];
      at = parent;
    }
    heap[at] = item;
  }

  pop(): Counted | undefined {
    const heap = this.heap;
    const top = heap[0];
    const item = heap.pop();
    if (top === undefined || item === undefined || heap.length === 0) return top;
    let at = 0;
    for (;;) {
      let child = 2 * at + 1;
      if (child >= heap.length) break;
      if (child + 1 < heap.length && comesFirst(heap[child + 1], heap[child])) child++;
      if (!comesFirst(heap[child], item)) break;
      heap[at] = heap[child];
      at = child;
    }
    heap[at] = item;
    return top;
  }
}

function comesFirst(a: Counted, b: Counted): boolean {
  return a.count > b.count || (a.count === b.count && a.pair < b.pair);
}

/** Write symbols in the byte-level alphabet and number them behind the control tokens. */
function name(tokens: string[], merges: [number, number][]): Bpe {
  const alphabet = byteAlphabet();
  const names = tokens.map((token) => Array.from(token, (byte) => alphabet[byte.charCodeAt(0)]).join(""));
  const vocab = new Map<string, number>(CONTROL_TOKENS.map((token, id) => [token, id]));
  // Bytes are numbered in the order of their characters, as elsewhere.
  for (const token of alphabet.toSorted()) vocab.set(token, vocab.size);
  for (const token of names.slice(256)) vocab.set(token, vocab.size);
  return { vocab, merges: merges.map(([left, right]) => [names[left], names[right]]) };
}

/** A character for each byte: printable bytes stand for themselves, the rest from U+0100 on. */
export function byteAlphabet(): string[] {
  let next = 0x100;
  return Array.from({ length: 256 }, (_, byte) => String.fromCharCode(isPrintable(byte) ? byte : next++));
}

/** In Latin-1, the soft hyphen (173) aside. */
function isPrintable(byte: number): boolean {
  return (byte >= 33 && byte <= 126) || (byte >= 161 && byte !== 173);
}
