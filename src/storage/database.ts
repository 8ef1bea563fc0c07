// The records of the workspace in IndexedDB: runs, what they told, data sets, settings, and which stored bytes are whole.
// Bytes themselves lie in files.ts.

import { type DBSchema, type IDBPDatabase, type IDBPTransaction, type StoreNames, openDB } from "idb";
import type { Case } from "../protocol/data.ts";
import type { Recipe } from "../protocol/recipe.ts";
import type { Report } from "../protocol/report.ts";
import type { RunEvent } from "../protocol/run.ts";
import { Failure } from "./failure.ts";

/** A run is "running" until it says otherwise; one that is running and that no tab holds was cut off. */
export interface RunRecord {
  schemaVersion: 1;
  id: string;
  /** Milliseconds since 1970. */
  createdAt: number;
  name: string;
  recipe: Recipe;
  status: "running" | "stopped" | "failed" | "finished";
  /** Why it failed, in one sentence. */
  message?: string;
  report?: Report;
}

/** One thing a run told, in order from 0. */
export interface EventRecord {
  runId: string;
  seq: number;
  event: RunEvent;
}

/** What a whole file of a checkpoint is; a file that is anything else is torn. */
export interface CheckpointRecord {
  schemaVersion: 1;
  runId: string;
  slot: "a" | "b";
  /** Grows with every checkpoint of the run. */
  sequence: number;
  sizeBytes: number;
  sha256: string;
  stage: number;
  step: number;
  /** How many events had been told when it was taken: a resumed run tells on from there. */
  events: number;
  savedAt: number;
}

/** A file that a run wrote for the person to take away. */
export interface FileRecord {
  runId: string;
  name: string;
  sizeBytes: number;
  sha256: string;
}

export interface DatasetRecord {
  schemaVersion: 1;
  id: string;
  createdAt: number;
  name: string;
  cases: number;
}

/** Cases lie in chunks, so that no stored value grows past a few megabytes (large ones have been seen to vanish). */
export interface DatasetChunk {
  datasetId: string;
  chunk: number;
  cases: Case[];
}

/** A checkpoint that the person brought, kept in the form in which it is computed with. */
export interface ModelRecord {
  schemaVersion: 1;
  /** "local-" and digits of the SHA-256 of the files it came from and of how it is kept. */
  id: string;
  createdAt: number;
  name: string;
  storage: "f32" | "f16" | "int8" | "int4";
  parameters: number;
  /** What it came from. */
  sources: { name: string; sizeBytes: number; sha256: string }[];
  /** Of the kept weights: how many there will be, and how many are there for sure. */
  sizeBytes: number;
  doneBytes: number;
}

export interface SettingRecord {
  key: string;
  value: unknown;
}

interface Schema extends DBSchema {
  runs: { key: string; value: RunRecord; indexes: { createdAt: number } };
  events: { key: [string, number]; value: EventRecord };
  checkpoints: { key: [string, string]; value: CheckpointRecord };
  files: { key: [string, string]; value: FileRecord };
  datasets: { key: string; value: DatasetRecord; indexes: { createdAt: number } };
  datasetChunks: { key: [string, number]; value: DatasetChunk };
  settings: { key: string; value: SettingRecord };
  models: { key: string; value: ModelRecord; indexes: { createdAt: number } };
}

export type Database = IDBPDatabase<Schema>;
type Upgrade = IDBPTransaction<Schema, StoreNames<Schema>[], "versionchange">;

/** One entry per database version, oldest first. Add to the end; never edit one that has shipped. */
const migrations: ((database: Database, upgrade: Upgrade) => void)[] = [
  (database) => {
    database.createObjectStore("runs", { keyPath: "id" }).createIndex("createdAt", "createdAt");
    database.createObjectStore("events", { keyPath: ["runId", "seq"] });
    database.createObjectStore("checkpoints", { keyPath: ["runId", "slot"] });
    database.createObjectStore("files", { keyPath: ["runId", "name"] });
  },
  (database) => {
    database.createObjectStore("datasets", { keyPath: "id" }).createIndex("createdAt", "createdAt");
    database.createObjectStore("datasetChunks", { keyPath: ["datasetId", "chunk"] });
    database.createObjectStore("settings", { keyPath: "key" });
  },
  (database) => {
    database.createObjectStore("models", { keyPath: "id" }).createIndex("createdAt", "createdAt");
  },
];

export const DATABASE_VERSION = migrations.length;

/** For writes that say "this is safe now": the browser answers when the disk has them, not when the system will see to it. */
export const STRICT = { durability: "strict" } as const;

/** Every key of one run (or data set) in a store keyed by [its id, number or name]. */
export const allOf = (id: string): IDBKeyRange => IDBKeyRange.bound([id], [id, []]);

/** Open the workspace's database, bringing an older one up to date. Rejects with a sentence if a newer one is there. */
export async function openDatabase(name = "espalier"): Promise<Database> {
  try {
    const database: Database = await openDB<Schema>(name, DATABASE_VERSION, {
      upgrade(database, oldVersion, _newVersion, upgrade) {
        for (const migrate of migrations.slice(oldVersion)) migrate(database, upgrade);
      },
      // A newer page wants to migrate: let go, or it waits forever. What this tab asks next fails, and says so.
      blocking: () => database.close(),
    });
    return database;
  } catch (error) {
    if (error instanceof Error && error.name === "VersionError") {
      throw new Failure(
        "version",
        "The work stored in this browser was written by a newer version of Espalier. Open that version; nothing was changed.",
      );
    }
    throw error;
  }
}
