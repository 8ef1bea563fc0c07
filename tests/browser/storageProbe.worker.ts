// src/storage where it runs: in a worker, on the browser's own file system and database.

import { expose } from "comlink";
import { openCheckpoints } from "../../src/storage/checkpoints.ts";
import { openDatabase } from "../../src/storage/database.ts";
import { asFailure } from "../../src/storage/failure.ts";
import { openFiles } from "../../src/storage/files.ts";
import { withLock } from "../../src/storage/locks.ts";
import { checkpointAt } from "../storage/states.ts";

const api = {
  /** Save a checkpoint of this step, of so many bytes. Returns its slot. */
  async save(runId: string, step: number, sizeBytes: number): Promise<string> {
    try {
      const checkpoints = openCheckpoints(await openDatabase(), await openFiles(), runId);
      return (await checkpoints.save(checkpointAt(2, step, sizeBytes), step)).slot;
    } catch (error) {
      throw asFailure(error);
    }
  },

  /** Save checkpoint after checkpoint until this worker ends, telling the step of each that is safe. */
  async saveOn(runId: string, from: number, sizeBytes: number, onSaved: (step: number) => void): Promise<void> {
    const checkpoints = openCheckpoints(await openDatabase(), await openFiles(), runId);
    for (let step = from; ; step++) {
      await checkpoints.save(checkpointAt(2, step, sizeBytes), step);
      onSaved(step);
    }
  },

  /** The step of the newest whole checkpoint, and whether each of its bytes is right; null if there is none. */
  async load(runId: string): Promise<{ step: number; right: boolean } | null> {
    const loaded = await openCheckpoints(await openDatabase(), await openFiles(), runId).load();
    if (!loaded) return null;
    const { step } = loaded.state;
    const wanted = checkpointAt(2, step, loaded.tensors.byteLength).tensors;
    return { step, right: wanted.every((byte, index) => byte === loaded.tensors[index]) };
  },

  async write(path: string, bytes: Uint8Array): Promise<void> {
    try {
      await (await openFiles()).write(path, [bytes]);
    } catch (error) {
      throw asFailure(error);
    }
  },

  /** Hold a lock until this worker ends. Rejects if another one holds it. */
  hold(name: string): Promise<void> {
    return new Promise((resolve, reject) => {
      withLock(name, "Another tab holds it.", () => {
        resolve();
        return new Promise(() => {});
      }).catch(reject);
    });
  },
};

export type ProbeApi = typeof api;
expose(api);
