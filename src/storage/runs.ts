// Runs as they are remembered: the record, what they told, the files they wrote.

import { createSHA256 } from "hash-wasm";
import type { Recipe } from "../protocol/recipe.ts";
import type { RunEvent } from "../protocol/run.ts";
import { allOf, type CheckpointRecord, type Database, type FileRecord, type RunRecord, STRICT } from "./database.ts";
import { runFolder } from "./checkpoints.ts";
import { Failure } from "./failure.ts";
import type { Files, OpenFile, WrittenFile } from "./files.ts";

export async function createRun(database: Database, recipe: Recipe): Promise<RunRecord> {
  const run: RunRecord = {
    schemaVersion: 1,
    id: crypto.randomUUID(),
    createdAt: Date.now(),
    name: recipe.name,
    recipe,
    status: "running",
  };
  const transaction = database.transaction("runs", "readwrite", STRICT);
  await Promise.all([transaction.store.add(run), transaction.done]);
  return run;
}

/** Change some fields of a run's record. */
export async function updateRun(
  database: Database,
  runId: string,
  change: Partial<Pick<RunRecord, "status" | "message" | "report">>,
): Promise<void> {
  const transaction = database.transaction("runs", "readwrite", STRICT);
  const run = await transaction.store.get(runId);
  if (run) await transaction.store.put({ ...run, ...change });
  await transaction.done;
  if (!run) throw noRun(runId);
}

/** Rejects with "missing" when there is no such run. */
export async function readRun(database: Database, runId: string): Promise<RunRecord> {
  const run = await database.get("runs", runId);
  if (!run) throw noRun(runId);
  return run;
}

/** Newest first. */
export async function listRuns(database: Database): Promise<RunRecord[]> {
  return (await database.getAllFromIndex("runs", "createdAt")).toReversed();
}

/** The record of the newest checkpoint, whole or not. */
export async function latestCheckpoint(database: Database, runId: string): Promise<CheckpointRecord | null> {
  const records = await database.getAll("checkpoints", allOf(runId));
  return records.toSorted((a, b) => b.sequence - a.sequence)[0] ?? null;
}

/** Write `events` as the run's number `from`, `from` + 1, and so on: all or none. */
export async function appendEvents(database: Database, runId: string, from: number, events: RunEvent[]): Promise<void> {
  const transaction = database.transaction("events", "readwrite");
  const puts = events.map((event, index) => transaction.store.put({ runId, seq: from + index, event }));
  await Promise.all([...puts, transaction.done]);
}

/** What the run told, in order. */
export async function readEvents(database: Database, runId: string): Promise<RunEvent[]> {
  return (await database.getAll("events", allOf(runId))).map((record) => record.event);
}

/** Forget what was told from number `from` on: the steps after a checkpoint are done again. */
export async function truncateEvents(database: Database, runId: string, from: number): Promise<void> {
  await database.delete("events", IDBKeyRange.bound([runId, from], [runId, []]));
}

/** Files a run has written whole. */
export async function listFiles(database: Database, runId: string): Promise<FileRecord[]> {
  return database.getAll("files", allOf(runId));
}

/** Begin a file of a run, in place of one of the same name. It is recorded when it is closed. */
export async function openRunFile(database: Database, files: Files, runId: string, name: string): Promise<OpenFile> {
  await database.delete("files", [runId, name]); // While it is being replaced it is not whole.
  const path = filePath(runId, name);
  const [file, hash] = await Promise.all([files.append(path, 0), createSHA256()]);
  let sizeBytes = 0;
  return {
    async write(bytes) {
      await file.write(bytes);
      hash.update(bytes);
      sizeBytes += bytes.byteLength;
    },
    async close() {
      file.flush();
      file.close();
      const written: WrittenFile = { sizeBytes, sha256: hash.digest("hex") };
      await putFile(database, { runId, name, ...written });
      return written;
    },
    async abort() {
      file.close();
      await files.remove(path);
    },
  };
}

async function putFile(database: Database, record: FileRecord): Promise<void> {
  const transaction = database.transaction("files", "readwrite", STRICT);
  await Promise.all([transaction.store.put(record), transaction.done]);
}

/** Forget a file of a run. Does nothing when it is not there. */
export async function removeRunFile(database: Database, files: Files, runId: string, name: string): Promise<void> {
  await database.delete("files", [runId, name]);
  await files.remove(filePath(runId, name));
}

/** Forget all files of a run that begin with `prefix`. */
export async function removeRunFiles(database: Database, files: Files, runId: string, prefix: string): Promise<void> {
  const names = (await listFiles(database, runId)).map(({ name }) => name).filter((name) => name.startsWith(prefix));
  for (const name of names) await removeRunFile(database, files, runId, name);
}

export const filePath = (runId: string, name: string) => `${runFolder(runId)}/files/${name}`;

/** Remove a run and all its bytes. */
export async function deleteRun(database: Database, files: Files, runId: string): Promise<void> {
  // Records first: bytes without a record are unseen and can be removed again, a record without bytes would mislead.
  const transaction = database.transaction(["runs", "events", "checkpoints", "files"], "readwrite", STRICT);
  await Promise.all([
    transaction.objectStore("runs").delete(runId),
    ...(["events", "checkpoints", "files"] as const).map((store) =>
      transaction.objectStore(store).delete(allOf(runId)),
    ),
    transaction.done,
  ]);
  await files.remove(runFolder(runId));
}

const noRun = (runId: string) =>
  new Failure("missing", `There is no run ${runId} in this browser; it may have been deleted.`);
