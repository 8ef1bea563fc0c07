// Checkpoints that a person brought: a record, the parts that are text in one file, the weights in another.

import { type Database, type ModelRecord, STRICT } from "./database.ts";
import { Failure } from "./failure.ts";
import type { Files } from "./files.ts";

/** Whether a recipe's model is one that the person brought; others lie beside the page. */
export const isLocalModel = (name: string): boolean => name.startsWith("local-");

const folder = (id: string): string => `models/${id}`;
export const weightsPath = (id: string): string => `${folder(id)}/weights.safetensors`;
const partsPath = (id: string): string => `${folder(id)}/parts.json`;

/** Remember a model whose weights are to be written, with its other parts (as JSON). */
export async function createModel(
  database: Database,
  files: Files,
  record: ModelRecord,
  parts: unknown,
): Promise<void> {
  await files.write(partsPath(record.id), [new TextEncoder().encode(JSON.stringify(parts))]);
  await putModel(database, record);
}

/** Replace a model's record. */
export async function putModel(database: Database, record: ModelRecord): Promise<void> {
  const transaction = database.transaction("models", "readwrite", STRICT);
  await Promise.all([transaction.store.put(record), transaction.done]);
}

/** Whole and unfinished ones, newest first. */
export async function listModels(database: Database): Promise<ModelRecord[]> {
  return (await database.getAllFromIndex("models", "createdAt")).toReversed();
}

export async function findModel(database: Database, id: string): Promise<ModelRecord | undefined> {
  return database.get("models", id);
}

/** A whole model: its record, its other parts, a handle on its weights. Rejects with "missing", a sentence. */
export async function readModel(
  database: Database,
  files: Files,
  id: string,
): Promise<{ record: ModelRecord; parts: unknown; weights: File }> {
  const record = await findModel(database, id);
  if (!record) {
    throw new Failure("missing", "The model of this recipe is not kept in this browser. Bring its files again.");
  }
  if (record.doneBytes < record.sizeBytes) {
    throw new Failure("missing", `${record.name} was not brought in to its end. Bring its files again to go on.`);
  }
  const [parts, weights] = await Promise.all([files.read(partsPath(id)), files.file(weightsPath(id))]);
  if (weights.size !== record.sizeBytes) {
    throw new Failure(
      "damaged",
      `The weights of ${record.name} have ${weights.size} bytes, ${record.sizeBytes} are wanted. Delete it and bring its files again.`,
    );
  }
  return { record, parts: JSON.parse(new TextDecoder().decode(parts)), weights };
}

/** Remove a model and all its bytes. */
export async function deleteModel(database: Database, files: Files, id: string): Promise<void> {
  const transaction = database.transaction("models", "readwrite", STRICT);
  await Promise.all([transaction.store.delete(id), transaction.done]); // The record first, as for runs.
  await files.remove(folder(id));
}
