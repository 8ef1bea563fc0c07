// Whether a tokenizer.json is one that can be used: a byte-level BPE with sound ids, as DeepSeek and Qwen have it.

export interface TokenizerJson {
  /** One past the highest id. */
  size: number;
  /** Tokens that are found in a text before it is split. */
  added: AddedToken[];
  /** The id of a token, written as in the file. */
  idOf(token: string): number | undefined;
}

export interface AddedToken {
  id: number;
  content: string;
  special: boolean;
}

/** More than any model has; an id beyond it is a damaged file. */
const MOST_TOKENS = 2 ** 22;

const CHOOSE_ANOTHER = "Choose the tokenizer.json that came with the model.";

type Json = Record<string, unknown>;

/** Throws a sentence if it is damaged or of another kind. */
export function checkTokenizerJson(json: unknown): TokenizerJson {
  if (!isRecord(json) || !isRecord(json.model)) throw unreadable("it has no model");
  checkKind(json, json.model);
  const { vocab, merges } = json.model;
  if (!isRecord(vocab)) throw unreadable("its model has no vocab");
  if (!Array.isArray(merges) || !merges.every(isMerge)) throw unreadable("its model has no list of merges");
  const taken = new Uint8Array(MOST_TOKENS);
  let size = 0;
  const enter = (token: string, id: unknown): void => {
    if (typeof id !== "number" || !Number.isInteger(id) || id < 0 || id >= MOST_TOKENS) {
      throw unreadable(`${JSON.stringify(token)} has the id ${String(id)}`);
    }
    if (taken[id]++ > 0) throw unreadable(`${JSON.stringify(token)} shares the id ${id} with another token`);
    size = Math.max(size, id + 1);
  };
  for (const token of Object.keys(vocab)) enter(token, vocab[token]);
  const added = (Array.isArray(json.added_tokens) ? json.added_tokens : []).map(readAdded);
  for (const { id, content } of added) if (vocab[content] !== id) enter(content, id);
  const ids = new Map(added.map(({ id, content }) => [content, id]));
  const idOf = (token: string): number | undefined =>
    ids.get(token) ?? (Object.hasOwn(vocab, token) ? Number(vocab[token]) : undefined);
  return { size, added, idOf };
}

function unreadable(why: string): Error {
  return new Error(`tokenizer.json cannot be read (${why}). ${CHOOSE_ANOTHER}`);
}

function isRecord(value: unknown): value is Json {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

/** "a b", or ["a", "b"] in newer files. */
function isMerge(merge: unknown): boolean {
  if (typeof merge === "string") return true;
  return Array.isArray(merge) && merge.length === 2 && merge.every((half) => typeof half === "string");
}

function checkKind(json: Json, model: Json): void {
  const steps = stepsOf(json.pre_tokenizer, "pretokenizers");
  const bytes = steps.find(({ type }) => type === "ByteLevel");
  const spelt = stepsOf(json.decoder, "decoders").some(({ type }) => type === "ByteLevel");
  if (model.type !== "BPE" || !bytes || !spelt || model.byte_fallback === true) {
    throw new Error(
      `tokenizer.json is of another kind (${String(model.type)}${bytes ? "" : " without bytes"}). Supported is byte-level BPE, as DeepSeek and Qwen2 have it.`,
    );
  }
  if (bytes.add_prefix_space === true) {
    throw new Error("tokenizer.json puts a space before each text, which is not supported: DeepSeek and Qwen2 do not.");
  }
  const slow = regexesIn([json.normalizer, json.pre_tokenizer]).find(repeatsGroup);
  if (slow !== undefined) {
    throw new Error(
      `tokenizer.json splits text by ${slow.slice(0, 80)}, a repeated group, which may take forever on some text. ${CHOOSE_ANOTHER}`,
    );
  }
}

/** A step of the kind given, or the steps of a sequence. */
function stepsOf(step: unknown, list: string): Json[] {
  if (!isRecord(step)) return [];
  const inner = step[list];
  return step.type === "Sequence" && Array.isArray(inner) ? inner.flatMap((one) => stepsOf(one, list)) : [step];
}

function regexesIn(json: unknown): string[] {
  if (typeof json !== "object" || json === null) return [];
  return Object.entries(json).flatMap(([key, value]) =>
    key === "Regex" && typeof value === "string" ? [value] : regexesIn(value),
  );
}

/** Whether a group is repeated without end: matching may then try as many ways as there are powers of two. */
function repeatsGroup(regex: string): boolean {
  const outsideClasses = regex.replace(/\\./gsu, "x").replace(/\[[^\]]*\]/gu, "x");
  return /\)(?:[*+]|\{\d*,\})/u.test(outsideClasses);
}

function readAdded(token: unknown): AddedToken {
  const { id, content, special = false } = isRecord(token) ? token : {};
  if (typeof id !== "number" || typeof content !== "string" || content === "" || typeof special !== "boolean") {
    throw unreadable(`an added token is ${JSON.stringify(token)?.slice(0, 80)}`);
  }
  if (special && Array.from(content).length === 1) {
    throw unreadable(`the special token ${JSON.stringify(content)} cannot be told from a letter`);
  }
  return { id, content, special };
}
