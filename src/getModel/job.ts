// The download at hand: which files of which commit, which of them are whole. Kept beside the bytes, so that it goes on
// after a reload. There is one at a time.

import * as v from "valibot";
import type { Files } from "../storage/files.ts";
import { type FileProgress, fetchFile, keptBytes } from "./fetchFile.ts";
import { addressOf, CommitSchema, type HubFile, HubFileSchema, RepositorySchema } from "./hub.ts";
import type { Patience } from "./request.ts";
import { Troubled } from "./trouble.ts";

/** All that this page keeps lies here; the other page has no business with it. */
const FOLDER = "get-model";
const RECORD = `${FOLDER}/job.json`;

const JobSchema = v.object({
  schemaVersion: v.literal(1),
  repository: RepositorySchema,
  commit: CommitSchema,
  files: v.array(v.object({ ...HubFileSchema.entries, whole: v.boolean() })),
});
export type Job = v.InferOutput<typeof JobSchema>;

export interface JobProgress {
  path: string;
  phase: FileProgress["phase"] | "whole";
  haveBytes: number;
}

/** How much room the browser says it has, as `navigator.storage.estimate`. */
export type Estimate = () => Promise<{ quota?: number; usage?: number }>;

/** Where a file of the download is kept. */
export function keptPath({ repository, commit }: Pick<Job, "repository" | "commit">, path: string): string {
  return `${FOLDER}/${repository.replace("/", "--")}@${commit}/${path}`;
}

/** Choose what to fetch. Whatever was fetched of anything else is removed. */
export async function chooseJob(files: Files, chosen: Omit<Job, "schemaVersion" | "files"> & { files: HubFile[] }) {
  const before = await readJob(files);
  if (before?.repository !== chosen.repository || before.commit !== chosen.commit) await files.remove(FOLDER);
  // Smallest first: what is wrong with a repository should show before its gigabytes are here.
  const sorted = chosen.files.toSorted((a, b) => a.sizeBytes - b.sizeBytes);
  const whole = (file: HubFile) =>
    before?.files.some((one) => one.path === file.path && one.checksum.hex === file.checksum.hex && one.whole) ?? false;
  const job: Job = {
    schemaVersion: 1,
    repository: chosen.repository,
    commit: chosen.commit,
    files: sorted.map((file) => ({ ...file, whole: whole(file) })),
  };
  await writeJob(files, job);
  return job;
}

/** The download at hand and how far it is; null where there is none, or none that can be read. */
export async function openJob(files: Files): Promise<{ job: Job; progress: JobProgress[] } | null> {
  const job = await readJob(files);
  if (!job) return null;
  const progress = job.files.map(async ({ path, whole }): Promise<JobProgress> => {
    return { path, phase: whole ? "whole" : "waiting", haveBytes: await keptBytes(files, keptPath(job, path)) };
  });
  return { job, progress: await Promise.all(progress) };
}

/** Remove the download at hand and all its bytes. */
export const removeJob = (files: Files): Promise<void> => files.remove(FOLDER);

/** Fetch what is not whole yet. Rejects with a trouble, with "quota" from storage, or as `patience.signal` says. */
export async function runJob(
  files: Files,
  hub: string,
  job: Job,
  { patience, estimate, tell }: { patience: Patience; estimate: Estimate; tell: (progress: JobProgress) => void },
): Promise<Job> {
  await ensureRoom(files, job, estimate);
  let at = job;
  for (const file of job.files) {
    if (file.whole) continue;
    const { path } = file;
    const target = { url: addressOf(hub, job, path), path: keptPath(job, path), file };
    await fetchFile(files, target, patience, (progress) => tell({ path, ...progress }));
    at = { ...at, files: at.files.map((one) => (one.path === path ? { ...one, whole: true } : one)) };
    await writeJob(files, at);
    tell({ path, phase: "whole", haveBytes: file.sizeBytes });
  }
  return at;
}

/** Browsers may say too much or nothing: then writing will tell. */
async function ensureRoom(files: Files, job: Job, estimate: Estimate): Promise<void> {
  const missing = job.files.map(async ({ path, sizeBytes }) => {
    return Math.max(0, sizeBytes - (await keptBytes(files, keptPath(job, path))));
  });
  const neededBytes = (await Promise.all(missing)).reduce((sum, bytes) => sum + bytes, 0);
  const { quota, usage = 0 } = await estimate();
  const freeBytes = quota === undefined ? Number.POSITIVE_INFINITY : Math.max(0, quota - usage);
  if (neededBytes > freeBytes) throw new Troubled({ kind: "noRoom", neededBytes, freeBytes });
}

async function readJob(files: Files): Promise<Job | null> {
  try {
    return v.parse(JobSchema, JSON.parse(new TextDecoder().decode(await files.read(RECORD))));
  } catch {
    return null; // Torn or another version's: its bytes are found again by their path, or removed with the next choice.
  }
}

async function writeJob(files: Files, job: Job): Promise<void> {
  await files.write(RECORD, [new TextEncoder().encode(JSON.stringify(job))]);
}
