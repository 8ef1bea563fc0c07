// Checkpoints that a person brings: looked at, converted into the form that is computed with, opened.

import { createSHA256 } from "hash-wasm";
import type { ByteSink, ByteSource, Weights } from "../src/formats/bytes.ts";
import { tooShort } from "../src/formats/bytes.ts";
import { type CheckpointParts, type OpenCheckpoint, openCheckpoint } from "../src/formats/checkpoint.ts";
import { conversionOf, openKept } from "../src/models/keptWeights.ts";
import type { Storage } from "../src/models/storage.ts";
import type { ModelFiles } from "../src/recipes/host.ts";
import type { Database, ModelRecord } from "../src/storage/database.ts";
import { Failure } from "../src/storage/failure.ts";
import type { Files } from "../src/storage/files.ts";
import { createModel, findModel, putModel, readModel, weightsPath } from "../src/storage/models.ts";

/** What is read and hashed at a time. */
const PIECE_BYTES = 8 * 2 ** 20;
/** How much is written before it is made sure of, so that an interrupted import goes on from there. */
const FLUSH_EVERY_BYTES = 64 * 2 ** 20;

export interface ImportProgress {
  phase: "checking" | "converting";
  doneBytes: number;
  totalBytes: number;
}

/** Told how far it is; may throw to end the work. */
export type Tell = (progress: ImportProgress) => Promise<void>;

/** As the File API has it; TypeScript knows it only where there is no page. */
declare class FileReaderSync {
  readAsArrayBuffer(blob: Blob): ArrayBuffer;
}

/** A file as a source. Only workers read without waiting. */
export function fileSource(file: File, name = file.name): ByteSource {
  const reader = new FileReaderSync();
  const read = (from: number, to: number): Uint8Array => {
    const bytes = new Uint8Array(readNow(reader, file, [from, to], name));
    if (bytes.length < to - from) throw tooShort(name, to, from + bytes.length);
    return bytes;
  };
  return { name, size: file.size, read };
}

function readNow(reader: FileReaderSync, file: File, [from, to]: [number, number], name: string): ArrayBuffer {
  try {
    return reader.readAsArrayBuffer(file.slice(from, to));
  } catch (error) {
    throw new Failure(
      "input",
      `${name} cannot be read any more (${(error as Error).name}): it was moved, changed or taken away. Choose it again.`,
    );
  }
}

export const openFilesOfCheckpoint = (files: File[]): OpenCheckpoint =>
  openCheckpoint(files.map((file) => fileSource(file)));

/**
 * Convert a checkpoint and keep it. What an earlier attempt with the same files wrote is taken up; what is there already is
 * not written again.
 */
export async function importModel(
  database: Database,
  files: Files,
  { name, storage, checkpoint, tell }: { name: string; storage: Storage; checkpoint: OpenCheckpoint; tell: Tell },
): Promise<ModelRecord> {
  const { weights, weightFiles, parts } = checkpoint;
  const sources = await hashed(weightFiles, tell);
  const conversion = conversionOf(weights, storage);
  const id = await idOf(sources, storage, parts);
  const known = await findModel(database, id);
  const record: ModelRecord = known ?? {
    schemaVersion: 1,
    id,
    createdAt: Date.now(),
    name,
    storage,
    parameters: parametersOf(weights),
    sources,
    sizeBytes: conversion.size,
    doneBytes: 0,
  };
  if (known?.doneBytes === known?.sizeBytes && known) return known;
  if (!known) await createModel(database, files, record, parts);
  const from = conversion.resumable(record.doneBytes);
  const file = await files.append(weightsPath(id), from);
  let [written, sure] = [from, from];
  const makeSure = async (): Promise<void> => {
    if (written === sure) return;
    file.flush();
    sure = written;
    await putModel(database, { ...record, doneBytes: sure });
  };
  const sink: ByteSink = {
    async write(bytes) {
      await file.write(bytes);
      written += bytes.length;
      if (written - sure >= FLUSH_EVERY_BYTES) await makeSure();
      await tell({ phase: "converting", doneBytes: written, totalBytes: conversion.size });
    },
  };
  try {
    await conversion.write(sink, from);
  } finally {
    await makeSure().finally(() => file.close());
  }
  return { ...record, doneBytes: conversion.size };
}

export function parametersOf({ tensors }: Weights): number {
  return [...tensors.values()].reduce((sum, { shape }) => sum + shape.reduce((a, b) => a * b, 1), 0);
}

/** How many bytes a checkpoint's weights take when they are kept, in each form. */
export function keptBytes(weights: Weights): Record<Storage, number> {
  const bytes = (storage: Storage) => conversionOf(weights, storage).size;
  return { f32: bytes("f32"), f16: bytes("f16"), int8: bytes("int8"), int4: bytes("int4") };
}

async function hashed(sources: ByteSource[], tell: Tell): Promise<ModelRecord["sources"]> {
  const totalBytes = sources.reduce((sum, { size }) => sum + size, 0);
  const found: ModelRecord["sources"] = [];
  let doneBytes = 0;
  for (const source of sources) {
    const { name, size } = source;
    const hash = await createSHA256();
    for (let from = 0; from < size; from += PIECE_BYTES) {
      const to = Math.min(size, from + PIECE_BYTES);
      hash.update(source.read(from, to));
      doneBytes += to - from;
      await tell({ phase: "checking", doneBytes, totalBytes });
    }
    found.push({ name, sizeBytes: size, sha256: hash.digest("hex") });
  }
  return found;
}

/** The same for the same weights, parts and form, whatever the files are called. */
async function idOf(sources: ModelRecord["sources"], storage: Storage, parts: CheckpointParts): Promise<string> {
  const hash = await createSHA256();
  for (const { sha256 } of sources) hash.update(sha256);
  hash.update(JSON.stringify(parts));
  hash.update(storage);
  return `local-${hash.digest("hex").slice(0, 16)}`;
}

/** A kept model as a run opens it. Rejects with a sentence if it is not here, or not whole. */
export async function openLocalModel(database: Database, files: Files, id: string): Promise<ModelFiles> {
  const { record, parts, weights } = await readModel(database, files, id);
  const kept = openKept(fileSource(weights, record.name), record.storage);
  return { ...(parts as CheckpointParts), weights: kept, sources: async () => record.sources };
}
