// A GPU that goes away in the middle of a run (driver reset, sleep, another program) need not end it: the run goes on
// from its last checkpoint on the device that comes back. One that goes away again and again does end it.

import { asFailure, Failure } from "../src/storage/failure.ts";

const MOST_LOSSES = 3;
const WITHIN_MS = 10 * 60_000;

/** Do `attempt`, and do it again when it fails because the device was lost: each begins at the last checkpoint. */
export async function withRecovery<T>(attempt: () => Promise<T>, now: () => number = Date.now): Promise<T> {
  let losses: number[] = [];
  for (;;) {
    try {
      return await attempt();
    } catch (error) {
      const failure = asFailure(error);
      if (failure.code !== "deviceLost") throw error;
      losses = [...losses.filter((at) => now() - at < WITHIN_MS), now()];
      if (losses.length < MOST_LOSSES) continue;
      throw new Failure(
        "deviceLost",
        `The GPU was lost ${MOST_LOSSES} times in ten minutes, the last time so: ${failure.message} Stored work is safe. Make the batches smaller or close other programs that use the GPU, then resume.`,
      );
    }
  }
}
