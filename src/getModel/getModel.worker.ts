// Fetches, hashes and writes: only workers may write large files. Served with this page's headers, it may talk to the hub
// and to nobody else.

import { expose } from "comlink";
import { openFiles } from "../storage/files.ts";
import { HUB, listFiles, type Snapshot } from "./hub.ts";
import { chooseJob, type Job, type JobProgress, openJob, removeJob, runJob } from "./job.ts";
import { PATIENCE } from "./request.ts";
import { orTrouble, type Trouble } from "./trouble.ts";

/** How often the page is told how far it is. */
const TELL_EVERY_MS = 100;

let working = new AbortController();

const api = {
  /** The download that was begun before, if any. */
  open: (): Promise<{ job: Job; progress: JobProgress[] } | null | { trouble: Trouble }> =>
    orTrouble(async () => openJob(await openFiles())),

  /** What the hub has under "owner/name@revision". */
  list(text: string): Promise<Snapshot | { trouble: Trouble }> {
    working = new AbortController();
    const { signal } = working;
    return orTrouble(() => listFiles(HUB, text, { ...PATIENCE, signal }));
  },

  /** Make these files the download at hand. */
  choose: (chosen: Snapshot): Promise<Job | { trouble: Trouble }> =>
    orTrouble(async () => chooseJob(await openFiles(), chosen)),

  /** Fetch what is missing of it. "paused" when it was asked to pause. */
  run(job: Job, onProgress: (progress: JobProgress) => void): Promise<Job | "paused" | { trouble: Trouble }> {
    working = new AbortController();
    const { signal } = working;
    const { tell, end } = seldom(onProgress);
    return orTrouble(async () => {
      try {
        const estimate = () => navigator.storage.estimate();
        return await runJob(await openFiles(), HUB, job, { patience: { ...PATIENCE, signal }, estimate, tell });
      } catch (error) {
        if (signal.aborted) return "paused" as const;
        throw error;
      } finally {
        end();
      }
    });
  },

  /** Ask what is at work to end. What is here stays. */
  pause(): void {
    working.abort();
  },

  remove: (): Promise<void | { trouble: Trouble }> => orTrouble(async () => removeJob(await openFiles())),
};

export type GetModelApi = typeof api;
expose(api);

/** Tells at once when something changes, and otherwise now and then; what was told last is the latest, until the end. */
function seldom(onProgress: (progress: JobProgress) => void) {
  let [told, latest]: [JobProgress | null, JobProgress | null] = [null, null];
  let timer: ReturnType<typeof setTimeout> | undefined;
  const end = (): void => {
    clearTimeout(timer);
    timer = undefined;
  };
  const tellNow = (): void => {
    end();
    if (latest) onProgress(latest);
    told = latest;
  };
  const tell = (progress: JobProgress): void => {
    latest = progress;
    if (progress.path !== told?.path || progress.phase !== told.phase) tellNow();
    else timer ??= setTimeout(tellNow, TELL_EVERY_MS);
  };
  return { tell, end };
}
