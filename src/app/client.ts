// What the page can ask of its workers and its storage. Records and files are read here; whatever writes is in a worker.

import { proxy } from "comlink";
import dataWorkerUrl from "../../workers/data.worker.ts?worker&url";
import gpuWorkerUrl from "../../workers/gpu.worker.ts?worker&url";
import type { DataApi, ImportProgress, ImportResult, InspectedModel } from "../../workers/data.worker.ts";
import type { GpuApi, SizedReply, Whom } from "../../workers/gpu.worker.ts";
import type { AnswerMode, Case } from "../protocol/data.ts";
import type { Recipe } from "../protocol/recipe.ts";
import type { RunEnd, RunEvent } from "../protocol/run.ts";
import type { ExportLimits } from "../recipes/export/limits.ts";
import type { StoragePlan } from "../recipes/planStorage.ts";
import {
  type Database,
  type DatasetRecord,
  type FileRecord,
  type ModelRecord,
  openDatabase,
  type RunRecord,
} from "../storage/database.ts";
import { listDatasets } from "../storage/datasets.ts";
import { Failure } from "../storage/failure.ts";
import { openFiles } from "../storage/files.ts";
import { heldLocks, runLock } from "../storage/locks.ts";
import { listModels } from "../storage/models.ts";
import { filePath, latestCheckpoint, listFiles, listRuns, readEvents } from "../storage/runs.ts";
import { readSettings, type Settings } from "../storage/settings.ts";
import type { ChosenModel } from "./chosenFiles.ts";
import { canSaveFolder, download, saveFolder } from "./save.ts";
import type { BackendChoice, KnownRun } from "./state.ts";
import { Thread } from "./thread.ts";

export interface ReplyPart {
  chain: string;
  answer: string;
}

export interface PutQuestion {
  whom: Whom;
  text: string;
  mode: AnswerMode;
  maxNewTokens: number;
}

export interface Client {
  /** Start the worker that computes, in place of the present one. */
  startEngine(): Promise<BackendChoice>;
  createRun(recipe: Recipe): Promise<RunRecord>;
  /** Events come in bundles, ten times a second at most; the last may come after it resolves. */
  continueRun(runId: string, onEvents: (events: RunEvent[]) => void): Promise<RunEnd>;
  /** Ask the run or the answer in progress to end after its current step. */
  stop(): Promise<void>;
  /** The last part may come after it resolves. */
  ask(question: PutQuestion, onPart: (part: ReplyPart) => void): Promise<SizedReply>;
  deleteRun(runId: string): Promise<void>;

  /** Null when it was cancelled. */
  importFile(file: File, onProgress: (doneBytes: number) => void): Promise<ImportResult | null>;
  cancelImport(): Promise<void>;
  deleteDataset(id: string): Promise<void>;
  /** A test case of the recipe's study: the one that `seed` picks. */
  drawCase(recipe: Recipe, seed: number): Promise<Case>;
  isRight(item: Case, answer: string): Promise<boolean>;

  /** Look at a checkpoint's files. Rejects with a sentence if they cannot be used. */
  inspectModel(files: File[]): Promise<InspectedModel>;
  /** What it takes of the device, kept in each form. */
  planModel(found: InspectedModel): Promise<StoragePlan[]>;
  /** What of a model's exports cannot be had. */
  exportLimits(model: string): Promise<ExportLimits>;
  /** Null when it was cancelled. */
  importModel(
    chosen: ChosenModel,
    storage: ModelRecord["storage"],
    onProgress: (progress: ImportProgress) => void,
  ): Promise<ModelRecord | null>;
  cancelModelImport(): Promise<void>;
  deleteModel(id: string): Promise<void>;

  settings(): Promise<Settings>;
  saveSettings(settings: Settings): Promise<void>;
  /** Newest first. */
  runs(): Promise<KnownRun[]>;
  events(runId: string): Promise<RunEvent[]>;
  files(runId: string): Promise<FileRecord[]>;
  /** Hand a file of the run to the browser's downloads. */
  saveFile(runId: string, name: string): Promise<void>;
  /** Write these files into a folder that the person chooses; false if they chose none. To be called from a click. */
  saveFiles(runId: string, names: string[]): Promise<boolean>;
  datasets(): Promise<DatasetRecord[]>;
  /** Unfinished ones too, newest first. */
  models(): Promise<ModelRecord[]>;
  /** Bytes of this page's storage; null where the browser does not tell. */
  storageBytes(): Promise<number | null>;
  /** Bytes it has room for; null where the browser does not tell. */
  freeBytes(): Promise<number | null>;
}

export interface ClientEvents {
  /** The engine stopped answering, or answers again. */
  onSilence: (silent: boolean) => void;
  /** The engine ended by itself. */
  onDeath: (failure: Failure) => void;
}

const BUNDLE_MS = 100;

// At module scope: comlink drops the answers of a proxy that was collected as garbage.
let engine: Thread<GpuApi> | null = null;
let desk: Thread<DataApi> | null = null;
let database: Promise<Database> | null = null;

function gpu(): Thread<GpuApi> {
  if (!engine) throw new Failure("engine", "The engine was not started.");
  return engine;
}

function data(): Thread<DataApi> {
  desk ??= new Thread<DataApi>(
    dataWorkerUrl,
    () => {},
    () => {
      desk = null; // The next call starts another.
    },
  );
  return desk;
}

function records(): Promise<Database> {
  database ??= openDatabase();
  database.catch(() => {
    database = null;
  });
  return database;
}

export function openClient(events: ClientEvents): Client {
  return {
    startEngine() {
      engine?.end(new Failure("workerDied", "The engine was started again, so this was not finished."));
      engine = new Thread<GpuApi>(gpuWorkerUrl, events.onSilence, events.onDeath);
      return engine.call((api) => api.start());
    },

    createRun(recipe) {
      askToPersist();
      return gpu().call((api) => api.createRun(recipe));
    },

    continueRun(runId, onEvents) {
      return gpu().call((api) => api.continueRun(runId, proxy(bundler(living(onEvents)))));
    },

    stop: () => gpu().call((api) => api.stop()),

    ask({ whom, text, mode, maxNewTokens }, onPart) {
      const options = { maxNewTokens, temperature: 0, seed: 0 };
      const onParts = bundler(living<ReplyPart>((parts) => onPart(parts[parts.length - 1])));
      return gpu().call((api) => api.ask(whom, text, mode, options, proxy(onParts)));
    },

    deleteRun: (runId) => data().call((api) => api.deleteRun(runId)),
    importFile: (file, onProgress) => data().call((api) => api.importFile(file, proxy(onProgress))),
    cancelImport: () => data().call((api) => api.cancelImport()),
    deleteDataset: (id) => data().call((api) => api.deleteDataset(id)),
    drawCase: (recipe, seed) => data().call((api) => api.drawCase(recipe, seed)),
    isRight: (item, answer) => data().call((api) => api.isRight(item, answer)),
    inspectModel: (files) => data().call((api) => api.inspectModel(files)),
    planModel: ({ config, tensors }) => gpu().call((api) => api.planModel(config, tensors)),
    exportLimits: (model) => gpu().call((api) => api.exportLimits(model)),
    importModel({ files, name }, storage, onProgress) {
      askToPersist();
      return data().call((api) => api.importModel(files, name, storage, proxy(onProgress)));
    },
    cancelModelImport: () => data().call((api) => api.cancelModelImport()),
    deleteModel: (id) => data().call((api) => api.deleteModel(id)),
    saveSettings: (settings) => data().call((api) => api.saveSettings(settings)),

    settings: async () => readSettings(await records()),
    runs: async () => knownRuns(await records()),
    events: async (runId) => readEvents(await records(), runId),
    files: async (runId) => listFiles(await records(), runId),
    saveFile: async (runId, name) => download(await (await openFiles()).file(filePath(runId, name)), name),
    saveFiles,
    datasets: async () => listDatasets(await records()),
    models: async () => listModels(await records()),
    storageBytes: async () => (await navigator.storage?.estimate?.())?.usage ?? null,
    freeBytes,
  };
}

/** Ask the browser not to clear this page's storage by itself. It may say no; nothing depends on it. */
function askToPersist(): void {
  navigator.storage?.persist?.().catch(() => {});
}

async function freeBytes(): Promise<number | null> {
  const { quota, usage } = (await navigator.storage?.estimate?.()) ?? {};
  return quota === undefined || usage === undefined ? null : Math.max(0, quota - usage);
}

/** Each run with what has become of it: one that says it is running and that no tab holds was cut off. */
async function knownRuns(database: Database): Promise<KnownRun[]> {
  const [runs, held] = [await listRuns(database), await heldLocks()];
  return Promise.all(
    runs.map(async (record) => ({
      record,
      status: held.has(runLock(record.id)) ? "elsewhere" : record.status === "running" ? "interrupted" : record.status,
      checkpoint: await latestCheckpoint(database, record.id),
    })),
  );
}

async function saveFiles(runId: string, names: string[]): Promise<boolean> {
  const file = async (name: string) => (await openFiles()).file(filePath(runId, name));
  if (canSaveFolder()) return saveFolder(names, file);
  for (const name of names) download(await file(name), name);
  return true;
}

/** What the engine tells of itself is a sign of life. */
function living<T>(onBundle: (items: T[]) => void): (items: T[]) => void {
  const told = engine;
  return (items) => {
    told?.noticeLife();
    onBundle(items);
  };
}

/** Gather what comes and hand it on together. */
function bundler<T>(onBundle: (items: T[]) => void): (item: T) => void {
  let items: T[] = [];
  return (item) => {
    items.push(item);
    if (items.length > 1) return;
    setTimeout(() => {
      const bundle = items;
      items = [];
      onBundle(bundle);
    }, BUNDLE_MS);
  };
}
