// Checkpoints of a run. Two files take turns; a record of size and hash is written strictly after the file is flushed, so
// that at every moment one file is whole and known to be. A cut-off write leaves the other checkpoint as it was.
//
// File: u64 length of the state, the state as JSON, the tensors (safetensors).

import type { Checkpoint, RunState } from "../protocol/run.ts";
import { allOf, type CheckpointRecord, type Database, STRICT } from "./database.ts";
import { Failure } from "./failure.ts";
import { type Files, sha256 } from "./files.ts";

export interface LoadedCheckpoint extends Checkpoint {
  record: CheckpointRecord;
}

export interface Checkpoints {
  /** Resolves when it would survive the end of the browser. The one before stays until then. */
  save(checkpoint: Checkpoint, events: number): Promise<CheckpointRecord>;
  /** The newest that is whole; null when none was ever saved. Rejects with "damaged" when none of those saved is whole. */
  load(): Promise<LoadedCheckpoint | null>;
}

/** The checkpoints of one run. One tab at a time may save: hold the run's lock. */
export function openCheckpoints(database: Database, files: Files, runId: string): Checkpoints {
  // The checkpoint to fall back to: the next save must spare it.
  let current: CheckpointRecord | null | undefined;

  async function load(): Promise<LoadedCheckpoint | null> {
    const records = await database.getAll("checkpoints", allOf(runId));
    for (const record of records.toSorted((a, b) => b.sequence - a.sequence)) {
      const bytes = await readWhole(files, record);
      if (!bytes) continue;
      current = record;
      return { record, ...unpack(bytes) };
    }
    current = null;
    if (records.length === 0) return null;
    throw new Failure(
      "damaged",
      `None of the ${records.length} checkpoints stored for this run is whole. Start the run again; its other files are untouched.`,
    );
  }

  return {
    load,

    async save(checkpoint, events) {
      if (current === undefined) await load().catch(() => null);
      const slot = current?.slot === "a" ? "b" : "a";
      const { state, tensors } = checkpoint;
      const written = await files.write(pathOf(runId, slot), [...packState(state), tensors]);
      const record: CheckpointRecord = {
        schemaVersion: 1,
        runId,
        slot,
        sequence: (current?.sequence ?? 0) + 1,
        ...written,
        stage: state.stage,
        step: state.step,
        events,
        savedAt: Date.now(),
      };
      const transaction = database.transaction("checkpoints", "readwrite", STRICT);
      await Promise.all([transaction.store.put(record), transaction.done]);
      current = record;
      return record;
    },
  };
}

/** Where a run's bytes lie. */
export const runFolder = (runId: string) => `runs/${runId}`;

const pathOf = (runId: string, slot: "a" | "b") => `${runFolder(runId)}/checkpoint-${slot}`;

/** The file's bytes if they are those that were recorded, else null. */
async function readWhole(files: Files, record: CheckpointRecord): Promise<Uint8Array | null> {
  try {
    const bytes = await files.read(pathOf(record.runId, record.slot));
    if (bytes.byteLength !== record.sizeBytes) return null;
    return (await sha256(bytes)) === record.sha256 ? bytes : null;
  } catch (error) {
    const { name } = error as Error;
    if (name === "missing" || name === "damaged") return null;
    throw error;
  }
}

function packState(state: RunState): [Uint8Array, Uint8Array] {
  const json = new TextEncoder().encode(JSON.stringify(state));
  const length = new Uint8Array(8);
  new DataView(length.buffer).setBigUint64(0, BigInt(json.byteLength), true);
  return [length, json];
}

function unpack(bytes: Uint8Array): Checkpoint {
  const length = Number(new DataView(bytes.buffer, bytes.byteOffset).getBigUint64(0, true));
  const state = JSON.parse(new TextDecoder().decode(bytes.subarray(8, 8 + length))) as RunState;
  if (state.schemaVersion !== 1) {
    throw new Failure(
      "version",
      `The checkpoint is of version ${String(state.schemaVersion)}, this page reads version 1. Resume the run in the Espalier that wrote it.`,
    );
  }
  return { state, tensors: bytes.slice(8 + length) }; // Copied: tensors are read at offsets counted from their start.
}
