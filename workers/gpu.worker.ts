// Owns the device that computes and the model in its memory. No other thread touches either.

import { expose } from "comlink";
import wasmUrl from "@tensorflow/tfjs-backend-wasm/dist/tfjs-backend-wasm-simd.wasm?url";
import { type BackendChoice, type BackendName, startBackend } from "../src/engine/backend.ts";
import { onDeviceLost } from "../src/engine/device.ts";
import type { Tuning } from "../src/engine/tuning.ts";
import { openCheckpoint } from "../src/formats/checkpoint.ts";
import type { AnswerMode } from "../src/protocol/data.ts";
import { parseRecipe, type Recipe } from "../src/protocol/recipe.ts";
import type { ModelSize } from "../src/protocol/report.ts";
import type { RunEnd, RunEvent } from "../src/protocol/run.ts";
import type { ModelFiles } from "../src/recipes/host.ts";
import { type Chat, openChat, type Reply, type ReplyOptions } from "../src/recipes/chat.ts";
import { runRecipe } from "../src/recipes/run.ts";
import { type ExportLimits, exportLimits } from "../src/recipes/export/limits.ts";
import { planStorage, type StoragePlan } from "../src/recipes/planStorage.ts";
import { openCheckpoints } from "../src/storage/checkpoints.ts";
import { type Database, openDatabase, type RunRecord } from "../src/storage/database.ts";
import { asFailure, Failure } from "../src/storage/failure.ts";
import { type Files, openFiles } from "../src/storage/files.ts";
import { runLock, TRAINING, withLock } from "../src/storage/locks.ts";
import { isLocalModel } from "../src/storage/models.ts";
import { createRun, filePath, listFiles, readRun, truncateEvents, updateRun } from "../src/storage/runs.ts";
import { readBaseConfig, readBaseModel, siteUrl } from "./baseModels.ts";
import { openEventLog } from "./eventLog.ts";
import { failing } from "./failing.ts";
import { fileSource, openLocalModel } from "./models.ts";
import { withRecovery } from "./recovery.ts";
import { runHost } from "./runHost.ts";
import { pageThreads } from "./threads.ts";

/** Whom a question goes to: a base model by its name, or the model a run made. */
export type Whom = { kind: "base"; model: string } | { kind: "run"; runId: string };

export type SizedReply = Reply & { size: ModelSize };

const TRAINING_ELSEWHERE = "Espalier is training in another tab of this browser. Wait for it or stop it there.";

const site = siteUrl();
let started: Promise<BackendChoice> | undefined;
/** The device that was started is gone, and with it all that lay on it. */
let lost = false;
let preferred: BackendName | undefined;
let stores: Promise<{ database: Database; files: Files }> | undefined;
let busyWith: "run" | "answer" | null = null;
let stopping = false;
/** The model that answered last, kept for the next question. */
let open: { whom: string; chat: Chat } | null = null;

const api = {
  /** Answers as soon as the thread is free. */
  ping(): void {},

  /** Choose and start what computes, once. */
  start(prefer?: BackendName): Promise<BackendChoice> {
    preferred = prefer;
    return failing(backend);
  },

  /** Remember a run that is to begin. Rejects while another tab trains: the run could not begin. */
  createRun(recipe: Recipe): Promise<RunRecord> {
    return failing(async () => {
      const { database } = await storage();
      const checked = parseRecipe(recipe);
      return withLock(TRAINING, TRAINING_ELSEWHERE, () => createRun(database, checked));
    });
  },

  /** Do the run, from its newest checkpoint if it has one. Resolves when it ends, with why; what it made is stored. */
  continueRun(runId: string, onEvent: (event: RunEvent) => void): Promise<RunEnd> {
    return failing(() =>
      whileBusy("run", () =>
        withLock(TRAINING, TRAINING_ELSEWHERE, () =>
          withLock(runLock(runId), "This run is open in another tab of this browser.", () =>
            withRecovery(() => work(runId, onEvent)),
          ),
        ),
      ),
    );
  },

  /** What a checkpoint of these tensors takes, stored in each way. Rejects with a sentence if they are not the config's. */
  planModel(config: unknown, tensors: [name: string, shape: number[]][]): Promise<StoragePlan[]> {
    return failing(async () => {
      await backend();
      return planStorage(config, new Map(tensors.map(([name, shape]) => [name, { shape }])));
    });
  },

  /** What of a model's exports cannot be had. */
  exportLimits(model: string): Promise<ExportLimits> {
    return failing(async () =>
      exportLimits(isLocalModel(model) ? (await readAnyModel(model)).config : await readBaseConfig(model, site)),
    );
  },

  /** Ask the work in progress, a run or an answer, to end after its current step. */
  stop(): void {
    stopping = true;
  },

  /** Put a question to a model. `onText` gets the reply so far, after each token. */
  ask(
    whom: Whom,
    question: string,
    mode: AnswerMode,
    options: ReplyOptions,
    onText: (part: { chain: string; answer: string }) => void,
  ): Promise<SizedReply> {
    return failing(() =>
      whileBusy("answer", async () => {
        const chat = await chatWith(whom);
        const reply = await chat.reply(question, mode, options, onText, () => stopping);
        return { ...reply, size: chat.size };
      }),
    );
  },
};

export type GpuApi = typeof api;
expose(api);

onDeviceLost(() => {
  lost = true;
});

/** The backend: started once, and once more after each loss of its device. */
function backend(): Promise<BackendChoice> {
  if (lost) {
    lost = false;
    open = null; // Its tensors went with the device.
    started = undefined;
  }
  started ??= startBackend({
    prefer: preferred,
    wasmUrl: new URL(wasmUrl, self.location.href).href,
    threads: pageThreads(),
    tunings: { load: loadTuning, save: saveTuning },
  });
  started.catch(() => {
    started = undefined; // The next call tries again.
  });
  return started;
}

const TUNING = "tuning"; // The setting's key.

async function loadTuning(): Promise<Tuning | null> {
  try {
    const { database } = await storage();
    return ((await database.get("settings", TUNING))?.value as Tuning | undefined) ?? null;
  } catch {
    return null; // It is measured again.
  }
}

async function saveTuning(value: Tuning): Promise<void> {
  try {
    const { database } = await storage();
    await database.put("settings", { key: TUNING, value });
  } catch {} // The next start measures again.
}

async function work(runId: string, onEvent: (event: RunEvent) => void): Promise<RunEnd> {
  const [{ database, files }, choice] = await Promise.all([storage(), backend()]);
  closeChat(); // The run needs its memory.
  const run = await readRun(database, runId);
  const checkpoints = openCheckpoints(database, files, runId);
  try {
    const from = await checkpoints.load();
    const told = from?.record.events ?? 0;
    await truncateEvents(database, runId, told);
    await updateRun(database, runId, { status: "running", message: undefined });
    const log = openEventLog(database, runId, told);
    const host = runHost({
      database,
      files,
      run,
      checkpoints,
      log,
      readModel: readAnyModel,
      onEvent,
      stopping: () => stopping,
    });
    const end = await runRecipe(run.recipe, host, choice, from ?? undefined);
    await log.flush();
    await updateRun(
      database,
      runId,
      end.type === "finished" ? { status: "finished", report: end.report } : { status: "stopped" },
    );
    return end;
  } catch (error) {
    const failure = await causeOf(error);
    // The first failure is the one to tell, should this one fail too.
    await updateRun(database, runId, { status: "failed", message: failure.message }).catch(() => {});
    throw failure;
  }
}

/** What fails on a lost device says all kinds of things; the loss, told a moment later, is why. */
async function causeOf(error: unknown): Promise<Failure> {
  const failure = asFailure(error);
  await new Promise((resolve) => setTimeout(resolve));
  if (!lost || failure.code === "deviceLost") return failure;
  return new Failure("deviceLost", `The GPU was lost. Resume from the last checkpoint. (${failure.message})`);
}

async function chatWith(whom: Whom): Promise<Chat> {
  const key = JSON.stringify(whom);
  if (open?.whom === key) return open.chat;
  closeChat();
  const files = whom.kind === "base" ? await readAnyModel(whom.model) : await readTunedModel(whom.runId);
  open = { whom: key, chat: openChat(files) };
  return open.chat;
}

function closeChat(): void {
  open?.chat.dispose();
  open = null;
}

/** One that lies beside the page, or one that the person brought. */
async function readAnyModel(name: string): Promise<ModelFiles> {
  if (!isLocalModel(name)) return readBaseModel(name, site);
  const { database, files } = await storage();
  return openLocalModel(database, files, name);
}

/** Whatever form it was exported in. */
async function readTunedModel(runId: string): Promise<ModelFiles> {
  const { database, files } = await storage();
  const written = (await listFiles(database, runId)).filter(({ name }) => name.startsWith(TUNED));
  const sources = written.map(async ({ name }) =>
    fileSource(await files.file(filePath(runId, name)), name.slice(TUNED.length)),
  );
  const { parts, weights } = openCheckpoint(await Promise.all(sources));
  return { ...parts, weights };
}

const TUNED = "model/"; // The merged model's folder.

function storage(): Promise<{ database: Database; files: Files }> {
  stores ??= Promise.all([openDatabase(), openFiles()]).then(([database, files]) => ({ database, files }));
  stores.catch(() => {
    stores = undefined; // The next call tries again.
  });
  return stores;
}

/** One thing at a time: runs and answers share the device. */
async function whileBusy<T>(what: "run" | "answer", task: () => Promise<T>): Promise<T> {
  if (!started) throw new Failure("engine", "The engine was not started before it was given work.");
  await backend();
  if (busyWith) {
    throw new Failure(
      "busy",
      busyWith === "run" ? "A run is under way: stop it or wait for it." : "A question is being answered.",
    );
  }
  busyWith = what;
  stopping = false;
  try {
    return await task();
  } finally {
    busyWith = null;
  }
}
