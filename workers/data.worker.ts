// Reads files that a person brings, cases and models, draws cases, and writes small records: what must not wait for the
// worker that computes.

import { expose } from "comlink";
import { importCases, type RowError } from "../src/data/import.ts";
import { split, textKey } from "../src/data/splits.ts";
import type { Case } from "../src/protocol/data.ts";
import type { Recipe } from "../src/protocol/recipe.ts";
import { openParts } from "../src/recipes/openParts.ts";
import { gradeAnswer, hospitalStudy } from "../src/recipes/hospital/generate.ts";
import { type Database, type DatasetRecord, type ModelRecord, openDatabase } from "../src/storage/database.ts";
import { deleteDataset, readDataset, saveDataset } from "../src/storage/datasets.ts";
import { Failure } from "../src/storage/failure.ts";
import { openFiles } from "../src/storage/files.ts";
import { runLock, withLock } from "../src/storage/locks.ts";
import { deleteModel } from "../src/storage/models.ts";
import { deleteRun } from "../src/storage/runs.ts";
import { type Settings, writeSettings } from "../src/storage/settings.ts";
import { failing } from "./failing.ts";
import { type ImportProgress, importModel, keptBytes, openFilesOfCheckpoint, parametersOf } from "./models.ts";

export type { ImportProgress, RowError };

/** What a checkpoint holds, as far as its headers tell. */
export interface InspectedModel {
  /** As config.json has it. */
  config: unknown;
  tensors: [name: string, shape: number[]][];
  parameters: number;
  /** Of the files of weights. */
  sizeBytes: number;
  /** Of the weights once they are kept, in each form. */
  keptBytes: Record<ModelRecord["storage"], number>;
}

export interface ImportResult {
  dataset: DatasetRecord;
  /** The first rows that could not be used, and how many there are in all. */
  skipped: RowError[];
  skippedCount: number;
}

/** A page of errors is more than a person reads. */
const SHOWN_ERRORS = 20;

/** How often an import tells how far it is and listens. */
const REST_EVERY_MS = 50;

class Cancelled extends Error {}

let cancelling = false;
let cancellingModel = false;
let stored: Promise<Database> | undefined;

const api = {
  /** Answers as soon as the thread is free. */
  ping(): void {},

  /** Read a file of cases and store them. Null when it was cancelled. Rejects if no row can be used. */
  importFile(file: File, onProgress: (doneBytes: number) => void): Promise<ImportResult | null> {
    return failing(async () => {
      cancelling = false;
      try {
        const { cases, errors } = await importCases({ name: file.name, chunks: chunksOf(file, onProgress) });
        await letMessagesIn();
        if (cancelling) throw new Cancelled();
        const dataset = await saveDataset(await database(), file.name, cases);
        return { dataset, skipped: errors.slice(0, SHOWN_ERRORS), skippedCount: errors.length };
      } catch (error) {
        if (error instanceof Cancelled) return null;
        throw error instanceof DOMException ? error : new Failure("input", (error as Error).message);
      }
    });
  },

  /** Look at a checkpoint's files. Rejects with a sentence if they cannot be used. */
  inspectModel(files: File[]): Promise<InspectedModel> {
    return failing(async () => {
      const { parts, weights, weightFiles } = asInput(() => openFilesOfCheckpoint(files));
      asInput(() => openParts(parts)); // A tokenizer that does not fit should not be found out after the weights were converted.
      return {
        config: parts.config,
        tensors: [...weights.tensors].map(([name, { shape }]) => [name, shape]),
        parameters: parametersOf(weights),
        sizeBytes: weightFiles.reduce((sum, { size }) => sum + size, 0),
        keptBytes: keptBytes(weights),
      };
    });
  },

  /** Convert a checkpoint and keep it. Null when it was cancelled: what is done stays, and is taken up by the next attempt. */
  importModel(
    files: File[],
    name: string,
    storage: ModelRecord["storage"],
    onProgress: (progress: ImportProgress) => void,
  ): Promise<ModelRecord | null> {
    return failing(async () => {
      cancellingModel = false;
      const checkpoint = asInput(() => openFilesOfCheckpoint(files));
      try {
        const tell = resting(onProgress);
        return await importModel(await database(), await openFiles(), { name, storage, checkpoint, tell });
      } catch (error) {
        if (error instanceof Cancelled) return null;
        throw error;
      }
    });
  },

  deleteModel: (id: string): Promise<void> => failing(async () => deleteModel(await database(), await openFiles(), id)),

  /** Ask the import of cases in progress to end. Nothing is then stored. */
  cancelImport(): void {
    cancelling = true;
  },

  /** Ask the import of a model in progress to end. */
  cancelModelImport(): void {
    cancellingModel = true;
  },

  deleteDataset: (id: string): Promise<void> => failing(async () => deleteDataset(await database(), id)),

  /** A test case of the recipe's study: the one that `seed` picks. */
  drawCase(recipe: Recipe, seed: number): Promise<Case> {
    return failing(async () => {
      const test = await testCases(recipe);
      if (test.length === 0)
        throw new Failure("input", "The data set has no test case. Hold out a larger share for the test.");
      return test[seed % test.length];
    });
  },

  /** Whether this is the right answer to the case, its wording aside. */
  isRight: (item: Case, answer: string): boolean => gradeAnswer(item, answer),

  /** Remove a run and all its bytes. Rejects while a tab is at work on it. */
  deleteRun(runId: string): Promise<void> {
    return failing(() =>
      withLock(runLock(runId), "This run is at work. Stop it before it is deleted.", async () =>
        deleteRun(await database(), await openFiles(), runId),
      ),
    );
  },

  saveSettings: (settings: Settings): Promise<void> => failing(async () => writeSettings(await database(), settings)),
};

export type DataApi = typeof api;
expose(api);

async function* chunksOf(file: File, onProgress: (doneBytes: number) => void): AsyncGenerator<Uint8Array> {
  let [done, restedMs] = [0, 0];
  for await (const chunk of file.stream()) {
    yield chunk;
    done += chunk.byteLength;
    if (performance.now() - restedMs < REST_EVERY_MS && done < file.size) continue;
    onProgress(done);
    await letMessagesIn();
    if (cancelling) throw new Cancelled();
    restedMs = performance.now();
  }
}

/** What goes wrong with the person's own files. */
function asInput<T>(open: () => T): T {
  try {
    return open();
  } catch (error) {
    throw error instanceof DOMException ? error : new Failure("input", (error as Error).message);
  }
}

/** Tell now and then, and listen. */
function resting(onProgress: (progress: ImportProgress) => void): (progress: ImportProgress) => Promise<void> {
  let restedMs = 0;
  return async (progress) => {
    if (performance.now() - restedMs < REST_EVERY_MS && progress.doneBytes < progress.totalBytes) return;
    onProgress(progress);
    await letMessagesIn();
    if (cancellingModel) throw new Cancelled();
    restedMs = performance.now();
  };
}

/** A stream that is read from memory never lets go by itself: without a rest no cancelling would be heard. */
function letMessagesIn(): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve));
}

async function testCases({ study, seed }: Recipe): Promise<Case[]> {
  // The generator draws test cases first, whatever comes after: little has to come.
  if (study.kind === "hospital") return hospitalStudy({ ...study, train: 1, validation: 1 }).test;
  const { cases } = await readDataset(await database(), study.datasetId);
  return split(cases, { ...study, seed }, (item) => textKey(item.question)).test;
}

function database(): Promise<Database> {
  stored ??= openDatabase();
  stored.catch(() => {
    stored = undefined; // The next call tries again.
  });
  return stored;
}
