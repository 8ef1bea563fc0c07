// A checkpoint in several files, and the index that says which tensor is in which: model.safetensors.index.json.

import type { ByteSource } from "./bytes.ts";
import {
  byteSize,
  checkNames,
  isRecord,
  type Located,
  readHeader,
  show,
  type TensorForm,
} from "./safetensorsHeader.ts";

/** One file of a checkpoint that is to be written. */
export interface Shard<T> {
  file: string;
  tensors: T[];
}

export interface Split<T> {
  shards: Shard<T>[];
  /** model.safetensors.index.json; null for a single file, which has none. */
  index: ShardIndex | null;
}

/** As Hugging Face's libraries read it. */
export interface ShardIndex {
  /** `total_size`: bytes of all tensors. */
  metadata: { total_size: number };
  /** The file that each tensor is in. */
  weight_map: Record<string, string>;
}

/**
 * Where every tensor of a checkpoint is: in one file, or in several with their parsed index.
 *
 * Throws one sentence if a file is damaged, or if the files are not exactly those of the index, each with its own tensors.
 */
export function locateTensors(files: ByteSource[], index?: unknown): Map<string, Located> {
  if (index !== undefined) return locateByIndex(files, readIndex(index));
  if (files.length !== 1) {
    throw new Error(
      `${files.length} files of weights were chosen; one is wanted, or several with their ${INDEX}. Choose the whole folder.`,
    );
  }
  const [file] = files;
  const part = /-of-(\d+)\.safetensors$/.exec(file.name);
  if (part && Number(part[1]) > 1) {
    throw new Error(`${file.name} is one of ${Number(part[1])} files. Choose all of them and their ${INDEX}.`);
  }
  return readHeader(file);
}

/**
 * Which tensors go to which file, in the order given, as Hugging Face's libraries split: a file has at most `mostBytes` of
 * tensors (its header apart), unless a single one has more.
 */
export function splitIntoShards<T extends TensorForm & { name: string }>(tensors: T[], mostBytes: number): Split<T> {
  checkNames(tensors);
  const groups: T[][] = [[]];
  let [total, held] = [0, 0];
  for (const tensor of tensors) {
    const size = byteSize(tensor);
    if (held > 0 && held + size > mostBytes) {
      groups.push([]);
      held = 0;
    }
    groups.at(-1)!.push(tensor);
    held += size;
    total += size;
  }
  if (groups.length === 1) return { shards: [{ file: "model.safetensors", tensors }], index: null };
  const number = (n: number) => String(n).padStart(5, "0");
  const shards = groups.map((group, i) => ({
    file: `model-${number(i + 1)}-of-${number(groups.length)}.safetensors`,
    tensors: group,
  }));
  const places = shards.flatMap(({ file, tensors: own }) => own.map(({ name }) => [name, file] as const));
  return { shards, index: { metadata: { total_size: total }, weight_map: Object.fromEntries(places) } };
}

/** The bytes of rows from..to-1; a tensor without axes is one row. */
export function readRows({ file, from: start, dtype, shape }: Located, [from, to]: [number, number]): Uint8Array {
  const row = byteSize({ dtype, shape: shape.slice(1) });
  return file.read(start + from * row, start + to * row);
}

const INDEX = "model.safetensors.index.json";

/** The file of each tensor. Throws if the index is none. */
function readIndex(json: unknown): Map<string, string> {
  const map = isRecord(json) ? json.weight_map : undefined;
  if (!isRecord(map) || Object.keys(map).length === 0) {
    throw new Error(
      `The index should have a "weight_map" from tensors to files and has ${show(map)}. Choose the checkpoint's own ${INDEX}.`,
    );
  }
  return new Map(
    Object.entries(map).map(([tensor, file]) => {
      // A name with a path could reach out of the checkpoint's folder.
      if (typeof file === "string" && /^[^/\\]+\.safetensors$/.test(file)) return [tensor, file];
      throw new Error(
        `The index puts ${show(tensor)} into ${show(file)}; the name of a .safetensors file is wanted. Choose the checkpoint's own ${INDEX}.`,
      );
    }),
  );
}

function locateByIndex(files: ByteSource[], fileOf: Map<string, string>): Map<string, Located> {
  checkFiles(files, new Set(fileOf.values()));
  const located = new Map<string, Located>();
  for (const file of files) {
    for (const [name, tensor] of readHeader(file)) {
      const wanted = fileOf.get(name);
      if (wanted !== file.name) throw misplaced(name, file.name, wanted);
      located.set(name, tensor);
    }
  }
  for (const [name, file] of fileOf) {
    if (located.has(name)) continue;
    throw new Error(`${file} should hold ${show(name)}, as the index says, and does not. ${TOGETHER}`);
  }
  return located;
}

const TOGETHER = "Choose files that were fetched together, under their own names.";

/** The chosen files are those that the index names, each once. */
function checkFiles(files: ByteSource[], named: Set<string>): void {
  const chosen = new Set<string>();
  for (const { name } of files) {
    if (chosen.has(name)) throw new Error(`Two chosen files are called ${name}. Choose the files of one folder.`);
    if (!named.has(name)) {
      throw new Error(
        `${name} is not among the ${named.size} files that the index names. Choose the checkpoint's own.`,
      );
    }
    chosen.add(name);
  }
  const missing = [...named].filter((name) => !chosen.has(name));
  if (missing.length === 0) return;
  throw new Error(
    `The index names ${named.size} files, and ${missing.length} of them are missing, the first ${missing[0]}. Choose all of them.`,
  );
}

function misplaced(tensor: string, file: string, wanted: string | undefined): Error {
  const place = wanted === undefined ? "nowhere" : `in ${wanted}`;
  return new Error(`${file} holds ${show(tensor)}, which the index has ${place}. ${TOGETHER}`);
}
