// Data sets that a person imported, as cases.

import type { Case } from "../protocol/data.ts";
import { allOf, type Database, type DatasetRecord, STRICT } from "./database.ts";
import { Failure } from "./failure.ts";

const CHUNK = 500;

/** Store cases under a new id: all or none. */
export async function saveDataset(database: Database, name: string, cases: Case[]): Promise<DatasetRecord> {
  if (cases.length === 0) throw new Failure("input", `${name} holds no case that can be used, so nothing was stored.`);
  const record: DatasetRecord = {
    schemaVersion: 1,
    id: crypto.randomUUID(),
    createdAt: Date.now(),
    name,
    cases: cases.length,
  };
  const transaction = database.transaction(["datasets", "datasetChunks"], "readwrite", STRICT);
  const writes: Promise<unknown>[] = [transaction.objectStore("datasets").add(record)];
  for (let chunk = 0; chunk * CHUNK < cases.length; chunk++) {
    const part = cases.slice(chunk * CHUNK, (chunk + 1) * CHUNK);
    writes.push(transaction.objectStore("datasetChunks").add({ datasetId: record.id, chunk, cases: part }));
  }
  await Promise.all([...writes, transaction.done]);
  return record;
}

/** Newest first. */
export async function listDatasets(database: Database): Promise<DatasetRecord[]> {
  return (await database.getAllFromIndex("datasets", "createdAt")).toReversed();
}

/** Rejects with "missing" when there is no such data set. */
export async function readDataset(database: Database, id: string): Promise<{ record: DatasetRecord; cases: Case[] }> {
  const transaction = database.transaction(["datasets", "datasetChunks"]);
  const [record, chunks] = await Promise.all([
    transaction.objectStore("datasets").get(id),
    transaction.objectStore("datasetChunks").getAll(allOf(id)),
  ]);
  if (!record) {
    throw new Failure(
      "missing",
      "The data set of this recipe is not stored in this browser. Import its file again and choose it.",
    );
  }
  return { record, cases: chunks.flatMap((chunk) => chunk.cases) };
}

export async function deleteDataset(database: Database, id: string): Promise<void> {
  const transaction = database.transaction(["datasets", "datasetChunks"], "readwrite", STRICT);
  await Promise.all([
    transaction.objectStore("datasets").delete(id),
    transaction.objectStore("datasetChunks").delete(allOf(id)),
    transaction.done,
  ]);
}
