// What a run tells, kept as it is told, so that a page opened later shows the run as if it had been there.

import type { RunEvent } from "../src/protocol/run.ts";
import type { Database } from "../src/storage/database.ts";
import { appendEvents } from "../src/storage/runs.ts";

const INTERVAL_MS = 1000;

export interface EventLog {
  add(event: RunEvent): void;
  /** Resolves when all that was added is stored, with how many events that makes. */
  flush(): Promise<number>;
}

/** `from`: how many events of the run are stored already. Writes at most once a second, in the background. */
export function openEventLog(database: Database, runId: string, from: number): EventLog {
  let stored = from;
  let waiting: RunEvent[] = [];
  let writtenMs = performance.now();
  let writing: Promise<void> = Promise.resolve();

  /** One write after the other. What could not be written waits for the next try. */
  function write(): Promise<void> {
    writtenMs = performance.now();
    writing = writing
      .catch(() => {})
      .then(async () => {
        const events = waiting;
        waiting = [];
        try {
          await appendEvents(database, runId, stored, events);
          stored += events.length;
        } catch (error) {
          waiting = [...events, ...waiting];
          throw error;
        }
      });
    return writing;
  }

  return {
    add(event) {
      if (!isKept(event)) return;
      waiting.push(event);
      if (performance.now() - writtenMs < INTERVAL_MS) return;
      write().catch(() => {}); // flush() before the next checkpoint says what is wrong.
    },

    async flush() {
      await write();
      return stored;
    },
  };
}

/** Ticks of a progress bar are of the moment, and the report is in the run's record. */
function isKept(event: RunEvent): boolean {
  switch (event.type) {
    case "scoring":
    case "evaluating":
    case "measuringLatency":
    case "exporting":
    case "finished":
      return false;
    case "stageStarted":
    case "memoryPlanned":
    case "step":
    case "scored":
    case "pruned":
    case "stageEnded":
    case "evaluated":
    case "checkpointed":
      return true;
  }
}
