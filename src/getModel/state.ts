// What the page shows, and what can be done on it.

import { batch, type Signal, signal } from "@preact/signals";
import { openFiles } from "../storage/files.ts";
import type { Client } from "./client.ts";
import type { Snapshot } from "./hub.ts";
import { type Job, type JobProgress, keptPath } from "./job.ts";
import { canSaveFolder, download, saveFolder } from "./save.ts";
import type { Trouble } from "./trouble.ts";

export type Language = "en" | "zh";

export type Work =
  | { status: "opening" }
  | { status: "choosing" }
  | { status: "listing" }
  | { status: "listed"; snapshot: Snapshot; chosen: ReadonlySet<string> }
  | { status: "fetching" | "pausing" | "paused" | "whole"; job: Job };

export type Saving = { status: "none" } | { status: "saving"; path: string } | { status: "saved"; folder: string };

export interface State {
  language: Signal<Language>;
  work: Signal<Work>;
  /** How far each file of the download is. */
  progress: Signal<ReadonlyMap<string, JobProgress>>;
  saving: Signal<Saving>;
  /** What went wrong last, "workerEnded" when nothing more will happen. */
  trouble: Signal<Trouble | "workerEnded" | null>;
}

export function createState(language: Language): State {
  return {
    language: signal(language),
    work: signal<Work>({ status: "opening" }),
    progress: signal<ReadonlyMap<string, JobProgress>>(new Map()),
    saving: signal<Saving>({ status: "none" }),
    trouble: signal<Trouble | "workerEnded" | null>(null),
  };
}

export type Actions = ReturnType<typeof createActions>;

export function createActions(state: State, client: Client) {
  /** Go to `work`, with nothing wrong. */
  const become = (work: Work): void =>
    batch(() => {
      state.work.value = work;
      state.trouble.value = null;
    });

  /** Go to `work`, because of `trouble`. */
  const fail = (trouble: Trouble, work: Work): void =>
    batch(() => {
      state.work.value = work;
      state.trouble.value = trouble;
    });

  const note = (progress: JobProgress): void => {
    state.progress.value = new Map(state.progress.value).set(progress.path, progress);
  };

  async function open(): Promise<void> {
    const found = await client.open();
    if (found === null) return become({ status: "choosing" });
    if ("trouble" in found) return fail(found.trouble, { status: "choosing" });
    state.progress.value = new Map(found.progress.map((one) => [one.path, one]));
    become(standing(found.job));
  }

  async function run(job: Job): Promise<void> {
    become({ status: "fetching", job });
    void navigator.storage?.persist?.().catch(() => {}); // Asked, not needed: what the browser clears is fetched again.
    const result = await client.run(job, note);
    const after = await client.open(); // A file that was wrong is not there any more.
    const now = after && !("trouble" in after) ? after : { job, progress: [] };
    batch(() => {
      state.progress.value = new Map(now.progress.map((one) => [one.path, one]));
      if (result !== "paused" && "trouble" in result) fail(result.trouble, standing(now.job));
      else become(standing(now.job));
    });
  }

  return {
    open,

    setLanguage(language: Language): void {
      state.language.value = language;
    },

    /** Ask the hub what it has. */
    async list(text: string): Promise<void> {
      const before = state.work.value;
      become({ status: "listing" });
      const snapshot = await client.list(text);
      if ("trouble" in snapshot) return fail(snapshot.trouble, before);
      become({ status: "listed", snapshot, chosen: usual(snapshot) });
    },

    toggle(path: string): void {
      const work = state.work.value;
      if (work.status !== "listed") return;
      const chosen = new Set(work.chosen);
      if (!chosen.delete(path)) chosen.add(path);
      state.work.value = { ...work, chosen };
    },

    /** Fetch the chosen files. */
    async fetch(): Promise<void> {
      const work = state.work.value;
      if (work.status !== "listed") return;
      const files = work.snapshot.files.filter(({ path }) => work.chosen.has(path));
      const job = await client.choose({ ...work.snapshot, files });
      if ("trouble" in job) return fail(job.trouble, work);
      state.progress.value = new Map();
      state.saving.value = { status: "none" };
      await run(job);
    },

    async goOn(): Promise<void> {
      const work = state.work.value;
      if (work.status === "paused") await run(work.job);
    },

    async pause(): Promise<void> {
      const work = state.work.value;
      if (work.status !== "fetching") return;
      become({ status: "pausing", job: work.job });
      await client.pause();
    },

    async remove(): Promise<void> {
      const result = await client.remove();
      if (result) return fail(result.trouble, state.work.value);
      state.progress.value = new Map();
      state.saving.value = { status: "none" };
      become({ status: "choosing" });
    },

    /** Hand one file to the browser's downloads. */
    async saveFile(path: string): Promise<void> {
      const work = state.work.value;
      if (work.status === "whole") download(await keptFile(work.job, path), path);
    },

    /** Write all files into a folder of the person's, or hand them to the browser's downloads. */
    async saveAll(): Promise<void> {
      const work = state.work.value;
      if (work.status !== "whole") return;
      const names = work.job.files.map(({ path }) => path);
      if (!canSaveFolder()) {
        for (const path of names) download(await keptFile(work.job, path), path);
        return;
      }
      const folder = work.job.repository.split("/")[1];
      try {
        const onFile = (path: string): void => {
          state.saving.value = { status: "saving", path };
        };
        const done = await saveFolder(folder, names, (path) => keptFile(work.job, path), onFile);
        state.saving.value = done ? { status: "saved", folder } : { status: "none" };
      } catch (error) {
        state.saving.value = { status: "none" };
        state.trouble.value = { kind: "storage", message: (error as Error).message };
      }
    },
  };
}

/** Where a download stands that nobody is at work on. */
function standing(job: Job): Work {
  return { status: job.files.every(({ whole }) => whole) ? "whole" : "paused", job };
}

/** The files of a checkpoint as most want it: one set of weights, and of several .gguf none until one is chosen. */
function usual({ files }: Snapshot): ReadonlySet<string> {
  const weights = files.filter(({ path }) => path.endsWith(".safetensors"));
  const standard = weights.filter(({ path }) => /^model[\w.-]*\.safetensors$/.test(path));
  const gguf = files.filter(({ path }) => path.endsWith(".gguf"));
  const left = new Set([
    ...(standard.length > 0 ? weights.filter((file) => !standard.includes(file)) : []),
    ...(weights.length > 0 || gguf.length > 1 ? gguf : []),
  ]);
  return new Set(files.filter((file) => !left.has(file)).map(({ path }) => path));
}

async function keptFile(job: Job, path: string): Promise<File> {
  return (await openFiles()).file(keptPath(job, path));
}
