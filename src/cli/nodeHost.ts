// Where a run lives on the command line: models beside the page, everything else in one folder.

import { createHash } from "node:crypto";
import { createReadStream, existsSync } from "node:fs";
import { mkdir, open, readdir, readFile, rename, rm } from "node:fs/promises";
import { dirname, join, resolve, sep } from "node:path";
import { importCases } from "../data/import.ts";
import { split } from "../data/splits.ts";
import type { CaseStudy } from "../protocol/data.ts";
import type { Recipe } from "../protocol/recipe.ts";
import type { Checkpoint, RunEvent, RunState } from "../protocol/run.ts";
import { CHECKSUMS } from "../recipes/export/folder.ts";
import type { ModelFiles, NamedFile, RunHost } from "../recipes/host.ts";
import type { ByteSource } from "../formats/bytes.ts";
import { openCheckpoint } from "../formats/checkpoint.ts";
import { UsageError } from "./arguments.ts";
import type { OpenFile } from "../storage/files.ts";
import { diskSource } from "./diskSource.ts";

export interface NodeHostOptions {
  recipe: Recipe;
  /** Holds one folder per base model. */
  models: string;
  /** File of the cases, for a recipe whose study is imported. */
  data: string | undefined;
  /** Where checkpoints and what the person takes away go. */
  out: string;
  onEvent: (event: RunEvent) => void;
  stopping: () => boolean;
}

export function nodeHost({ recipe, models, data, out, onEvent, stopping }: NodeHostOptions): RunHost {
  return {
    readModel: (name) => readModel(join(models, name)),
    readStudy: () => readStudy(recipe, data),
    saveCheckpoint: (checkpoint) => saveCheckpoint(out, checkpoint),
    openFile: (name) => openInside(out, name),
    removeFile: (name) => rm(pathInside(out, name), { force: true }),
    clearFolder: (name) => clearFolder(pathInside(out, name)),
    onEvent,
    stopping,
    description: `Node ${process.versions.node} on ${process.platform}, ${process.arch}`,
  };
}

/** A checkpoint's folder, as a hub has it. The files stay open until the process ends. */
async function readModel(folder: string): Promise<ModelFiles> {
  const names = existsSync(folder) ? await readdir(folder) : [];
  if (!names.includes("config.json") && !names.some((name) => name.endsWith(".gguf"))) {
    throw new UsageError(`There is no base model in ${folder}: config.json is missing. Correct the recipe's "model".`);
  }
  const { parts, weights, weightFiles } = openCheckpoint(names.map((name) => diskSource(join(folder, name))));
  const hashed = async ({ name, size }: ByteSource): Promise<NamedFile> => {
    const hash = createHash("sha256");
    for await (const piece of createReadStream(join(folder, name))) hash.update(piece);
    return { name, sizeBytes: size, sha256: hash.digest("hex") };
  };
  return { ...parts, weights, sources: () => Promise.all(weightFiles.map(hashed)) };
}

/** The same rows go to the same parts as on the page. */
async function readStudy({ name, study, seed }: Recipe, file: string | undefined): Promise<CaseStudy> {
  if (study.kind !== "imported") throw new Error(`The recipe's study is "${study.kind}", yet a file was asked for.`);
  if (!file) throw new UsageError("This recipe's cases are the person's own. Name their file with --data FILE.");
  if (!existsSync(file)) throw new UsageError(`There is no file ${file}. Correct --data.`);
  const { cases, errors } = await importCases({ name: file, chunks: createReadStream(file) });
  if (errors.length > 0) {
    process.stderr.write(
      `${errors.length} rows of ${file} were left out. Line ${errors[0].row}: ${errors[0].message}\n`,
    );
  }
  return {
    name,
    seed,
    ...split(cases, { validation: study.validation, test: study.test, seed }, (one) => one.question),
  };
}

const CHECKPOINT = "checkpoint.json";
const TENSORS = /^checkpoint-[0-9a-f]{16}\.safetensors$/;

interface CheckpointFile {
  tensors: { file: string; sizeBytes: number; sha256: string };
  state: RunState;
}

/**
 * Replace the folder's checkpoint in one move: until checkpoint.json is renamed, the one before is whole and in force.
 *
 * Resolves when both files are on the disk.
 */
export async function saveCheckpoint(folder: string, { state, tensors }: Checkpoint): Promise<void> {
  await mkdir(folder, { recursive: true });
  const sha256 = hashOf(tensors);
  const file = `checkpoint-${sha256.slice(0, 16)}.safetensors`;
  await writeToDisk(join(folder, file), tensors);
  const content: CheckpointFile = { tensors: { file, sizeBytes: tensors.length, sha256 }, state };
  const unfinished = join(folder, `${CHECKPOINT}.new`);
  await writeToDisk(unfinished, new TextEncoder().encode(JSON.stringify(content)));
  await rename(unfinished, join(folder, CHECKPOINT));
  await removeTensors(folder, file);
}

/** The folder's checkpoint, null if it has none. Throws if it is damaged. */
export async function readCheckpoint(folder: string): Promise<Checkpoint | null> {
  const path = join(folder, CHECKPOINT);
  if (!existsSync(path)) return null;
  const damaged = (what: string) =>
    new Error(`The checkpoint in ${folder} is damaged: ${what}. Start the run again without --resume.`);
  let content: CheckpointFile;
  let tensors: Uint8Array;
  try {
    content = JSON.parse(await readFile(path, "utf8")) as CheckpointFile;
    tensors = new Uint8Array(await readFile(join(folder, content.tensors.file)));
  } catch (error) {
    throw damaged((error as Error).message);
  }
  if (hashOf(tensors) !== content.tensors.sha256) {
    throw damaged(
      `${content.tensors.file} is not what was written (${tensors.length} bytes, wanted ${content.tensors.sizeBytes})`,
    );
  }
  return { state: content.state, tensors };
}

/** Remove the folder's checkpoint: the run is over. */
export async function removeCheckpoint(folder: string): Promise<void> {
  await rm(join(folder, CHECKPOINT), { force: true });
  await removeTensors(folder, null);
}

async function removeTensors(folder: string, spared: string | null): Promise<void> {
  if (!existsSync(folder)) return;
  const old = (await readdir(folder)).filter((name) => TENSORS.test(name) && name !== spared);
  await Promise.all(old.map((name) => rm(join(folder, name))));
}

/** A file below the folder: under another name until it is whole. */
async function openInside(folder: string, name: string): Promise<OpenFile> {
  const path = pathInside(folder, name);
  await mkdir(dirname(path), { recursive: true });
  const unfinished = `${path}.part`;
  const file = await open(unfinished, "w");
  const hash = createHash("sha256");
  let sizeBytes = 0;
  return {
    async write(bytes) {
      await file.writeFile(bytes); // From where the last one ended.
      hash.update(bytes);
      sizeBytes += bytes.byteLength;
    },
    async close() {
      await file.sync();
      await file.close();
      await rename(unfinished, path);
      return { sizeBytes, sha256: hash.digest("hex") };
    },
    async abort() {
      await file.close().catch(() => {}); // It may be closed.
      await rm(unfinished, { force: true });
    },
  };
}

/** Only what an export lists as its own: a person may keep other files there. */
async function clearFolder(folder: string): Promise<void> {
  const list = join(folder, CHECKSUMS);
  if (!existsSync(list)) return;
  for (const line of (await readFile(list, "utf8")).split("\n")) {
    const [, name] = /^[0-9a-f]{64} {2}(.+)$/.exec(line) ?? [];
    if (name) await rm(pathInside(folder, name), { force: true });
  }
  await rm(list);
}

function pathInside(folder: string, name: string): string {
  const path = resolve(folder, name);
  if (path.startsWith(resolve(folder) + sep)) return path;
  throw new Error(`The file name "${name}" leads out of the run's folder.`);
}

/** Resolves when the bytes are on the disk, not just on their way. */
async function writeToDisk(path: string, bytes: Uint8Array): Promise<void> {
  const file = await open(path, "w");
  try {
    await file.writeFile(bytes);
    await file.sync();
  } finally {
    await file.close();
  }
}

function hashOf(bytes: Uint8Array): string {
  return createHash("sha256").update(bytes).digest("hex");
}
