// What a safetensors file begins with: u64 length of the header, the header as JSON, then the bytes of all tensors without
// gaps. (github.com/huggingface/safetensors, "Format"; the limits are those of its reference implementation.)

import type { ByteSource } from "./bytes.ts";
import { DTYPE_BYTES, type Dtype } from "./numbers.ts";

/** What a tensor is, wherever its values are. */
export interface TensorForm {
  dtype: Dtype;
  shape: number[];
}

/** A tensor in a file: its values are row-major in bytes from..to-1. */
export interface Located extends TensorForm {
  file: ByteSource;
  from: number;
  to: number;
}

/** What a file of some tensors begins with, and how their bytes follow. */
export interface Layout<T> {
  head: Uint8Array;
  ordered: T[];
  /** Bytes of the whole file. */
  size: number;
}

/**
 * The tensors of a file by name. Only the header is read.
 *
 * Throws one sentence if the file is not exactly as the format demands: each byte of the data belongs to one tensor.
 */
export function readHeader(file: ByteSource): Map<string, Located> {
  const start = dataStart(file);
  const spans = new Map<string, Located>();
  for (const [name, entry] of Object.entries(parseHeader(file.name, file.read(PREFIX, start)))) {
    if (name === METADATA) checkMetadata(file.name, entry);
    else spans.set(name, readEntry(file, name, entry, start));
  }
  checkSpans(file, spans, start);
  return spans;
}

/**
 * Lay out a file. Larger types come first, otherwise the order stays, so that each tensor begins at a multiple of its
 * type's size. `metadata` is added to {"format": "pt"}, without which transformers refuses the file.
 */
export function layOut<T extends TensorForm & { name: string }>(
  tensors: T[],
  metadata: Record<string, string> = {},
): Layout<T> {
  checkNames(tensors);
  const ordered = tensors.toSorted((a, b) => DTYPE_BYTES[b.dtype] - DTYPE_BYTES[a.dtype]); // Stable within a type.
  const entries = new Map<string, unknown>([[METADATA, { format: "pt", ...metadata }]]);
  let end = 0;
  for (const tensor of ordered) {
    const { name, dtype, shape } = tensor;
    entries.set(name, { dtype, shape, data_offsets: [end, end + byteSize(tensor)] });
    end += byteSize(tensor);
  }
  const json = new TextEncoder().encode(JSON.stringify(Object.fromEntries(entries)));
  const length = Math.ceil(json.length / 8) * 8; // Spaces after the header bring the data to a multiple of 8.
  if (length > LARGEST_HEADER) {
    throw new Error(`The header takes ${length} bytes and at most ${LARGEST_HEADER} are allowed. Write several files.`);
  }
  const head = new Uint8Array(PREFIX + length).fill(0x20);
  new DataView(head.buffer).setBigUint64(0, BigInt(length), true);
  head.set(json, PREFIX);
  return { head, ordered, size: head.length + end };
}

/** Throws if two tensors, or one and the metadata, would have one name in a checkpoint. */
export function checkNames(tensors: { name: string }[]): void {
  const names = new Set([METADATA]);
  for (const { name } of tensors) {
    if (names.has(name)) throw new Error(`Two tensors are called ${show(name)}. Give each its own name.`);
    names.add(name);
  }
}

/** Bytes of a tensor's values. */
export function byteSize({ dtype, shape }: TensorForm): number {
  return shape.reduce((product, size) => product * size, DTYPE_BYTES[dtype]);
}

/** A value in a message: as JSON, not more than a line of it. */
export function show(value: unknown): string {
  const text = JSON.stringify(value) ?? "nothing";
  return text.length > 100 ? `${text.slice(0, 100)}…` : text;
}

/** A tensor in a message, e.g. "a.weight", F32 [2,3]. */
export function describe(name: string, { dtype, shape }: TensorForm): string {
  return `${show(name)}, ${dtype} ${show(shape)},`;
}

export function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

const METADATA = "__metadata__";
const PREFIX = 8; // Bytes of the header's length.
const LARGEST_HEADER = 100_000_000;
const FETCH_AGAIN = "Fetch or export the file again.";

/** Where the header ends, which is within the file. */
function dataStart(file: ByteSource): number {
  const { name, size } = file;
  if (size < PREFIX) throw new Error(`${name} has ${size} bytes, and a safetensors file at least 8. ${FETCH_AGAIN}`);
  const prefix = file.read(0, PREFIX);
  const length = new DataView(prefix.buffer, prefix.byteOffset, PREFIX).getBigUint64(0, true);
  if (length === LFS_POINTER) {
    throw new Error(`${name} is only git's pointer to the weights. Fetch the weights themselves with git lfs pull.`);
  }
  if (length > LARGEST_HEADER) {
    throw new Error(
      `${name} says that its header has ${length} bytes, and at most ${LARGEST_HEADER} are allowed: it is no safetensors file. ${FETCH_AGAIN}`,
    );
  }
  const end = PREFIX + Number(length);
  if (end > size) {
    throw new Error(
      `${name} should have a header of ${length} bytes and only ${size - PREFIX} are there. ${FETCH_AGAIN}`,
    );
  }
  return end;
}

/** "version ", with which the pointers of git's large file storage begin, as the length of a header. */
const LFS_POINTER = 0x206e6f6973726576n;

function parseHeader(file: string, bytes: Uint8Array): Record<string, unknown> {
  let header: unknown;
  let twice: string | null = null;
  try {
    const text = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
    if (!text.startsWith("{")) throw new Error(`it begins with ${show(text.slice(0, 20))}`);
    twice = repeatedName(text);
    header = JSON.parse(text);
  } catch (error) {
    const why = error instanceof Error ? error.message : String(error);
    throw new Error(`${file} should have a JSON object as its header and has none (${why}). ${FETCH_AGAIN}`, {
      cause: error,
    });
  }
  if (twice !== null) throw new Error(`${file} names ${show(twice)} twice in its header. ${FETCH_AGAIN}`);
  return header as Record<string, unknown>;
}

const DEEPEST = 3; // The header, a tensor's entry, its shape.

/**
 * A name that an object in JSON text has twice, which the parsed object would no longer show; null if there is none.
 *
 * Throws for what is nested deeper than a header, before a parser fills the memory with it.
 */
function repeatedName(text: string): string | null {
  const open: (Set<string> | null)[] = []; // The names seen in each object around; null for a list.
  let twice: string | null = null;
  let before = ""; // The last character of meaning.
  for (let at = 0; at < text.length; at++) {
    const character = text[at];
    if (character === "{" || character === "[") {
      if (open.push(character === "{" ? new Set() : null) > DEEPEST) throw new Error("it is nested too deep");
    } else if (character === "}" || character === "]") {
      open.pop();
    } else if (character === '"') {
      const from = at;
      for (at++; at < text.length && text[at] !== '"'; at++) if (text[at] === "\\") at++;
      const names = before === ":" ? null : open.at(-1);
      if (names) {
        const name = unescaped(text.slice(from, at + 1));
        if (names.has(name)) twice ??= name;
        names.add(name);
      }
    }
    if (character > " ") before = character;
  }
  return twice;
}

function unescaped(text: string): string {
  return text.includes("\\") ? (JSON.parse(text) as string) : text.slice(1, -1);
}

function checkMetadata(file: string, entry: unknown): void {
  if (isRecord(entry) && Object.values(entry).every((value) => typeof value === "string")) return;
  throw new Error(`${file} should map names to texts in ${METADATA} and has ${show(entry)}. ${FETCH_AGAIN}`);
}

/** `start`: where the data begin. */
function readEntry(file: ByteSource, name: string, entry: unknown, start: number): Located {
  const { dtype, shape, data_offsets: offsets }: Record<string, unknown> = isRecord(entry) ? entry : {};
  if (!isDtype(dtype)) {
    throw new Error(
      `${file.name} has ${show(name)} in the type ${show(dtype)}; one of ${Object.keys(DTYPE_BYTES).join(", ")} is wanted.`,
    );
  }
  if (!isSizes(shape) || !Number.isSafeInteger(byteSize({ dtype, shape }))) {
    throw new Error(
      `${file.name} has ${show(name)} in the shape ${show(shape)}; a list of whole numbers is wanted. ${FETCH_AGAIN}`,
    );
  }
  if (!isSizes(offsets) || offsets.length !== 2 || offsets[0] > offsets[1]) {
    throw new Error(
      `${file.name} has ${show(name)} at ${show(offsets)}; where it begins and ends is wanted. ${FETCH_AGAIN}`,
    );
  }
  const [from, to] = offsets;
  const size = byteSize({ dtype, shape });
  if (to - from !== size) {
    throw new Error(
      `${file.name}: ${describe(name, { dtype, shape })} takes ${size} bytes and has ${to - from}. ${FETCH_AGAIN}`,
    );
  }
  return { dtype, shape, file, from: start + from, to: start + to };
}

/** Every byte of the data belongs to exactly one tensor. */
function checkSpans({ name: file, size }: ByteSource, spans: Map<string, Located>, start: number): void {
  let [end, before] = [start, "the header"];
  for (const [name, span] of [...spans].toSorted(([, a], [, b]) => a.from - b.from || a.to - b.to)) {
    if (span.from < end) throw new Error(`${file}: ${show(name)} overlaps ${show(before)}. ${FETCH_AGAIN}`);
    if (span.from > end) {
      throw new Error(`${file}: ${span.from - end} bytes before ${show(name)} belong to no tensor. ${FETCH_AGAIN}`);
    }
    [end, before] = [span.to, name];
  }
  if (end > size) throw new Error(`${file} should have ${end} bytes and has ${size}: it is cut off. ${FETCH_AGAIN}`);
  if (end < size) throw new Error(`${file}: ${size - end} bytes at the end belong to no tensor. ${FETCH_AGAIN}`);
}

function isDtype(value: unknown): value is Dtype {
  return typeof value === "string" && Object.hasOwn(DTYPE_BYTES, value);
}

function isSizes(value: unknown): value is number[] {
  return Array.isArray(value) && value.every((size) => Number.isSafeInteger(size) && size >= 0);
}
