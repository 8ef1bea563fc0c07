// One tab at a time: a run is trained, resumed or deleted only by the tab that holds its lock. The browser frees a lock
// when its tab goes, however it goes. (Chromium also does not freeze a hidden tab that holds one.)

import { Failure } from "./failure.ts";

const PREFIX = "espalier:";

/** The engine of this browser: two runs side by side would fight for one GPU and its memory. */
export const TRAINING = "training";
export const runLock = (runId: string) => `run:${runId}`;

/** Do `work` while holding `name`. Rejects at once with `sentence` when another tab holds it. */
export async function withLock<T>(name: string, sentence: string, work: () => Promise<T>): Promise<T> {
  if (!navigator.locks) {
    throw new Failure(
      "unsupported",
      "This browser has no Web Locks, so Espalier cannot keep two tabs apart. Update it.",
    );
  }
  return navigator.locks.request(PREFIX + name, { ifAvailable: true }, async (lock) => {
    if (!lock) throw new Failure("elsewhere", sentence);
    return work();
  }) as Promise<T>;
}

/** Names held now by any tab, this one included. */
export async function heldLocks(): Promise<Set<string>> {
  const { held = [] } = await navigator.locks.query();
  const names = held.map((lock) => lock.name ?? "").filter((name) => name.startsWith(PREFIX));
  return new Set(names.map((name) => name.slice(PREFIX.length)));
}
