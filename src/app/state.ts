// All that the page can be: one tagged union for each thing that has states.

import type { GpuApi, SizedReply, Whom } from "../../workers/gpu.worker.ts";
import type { ImportProgress, InspectedModel, RowError } from "../../workers/data.worker.ts";
import type { AnswerMode, Case } from "../protocol/data.ts";
import type { ExportLimits } from "../recipes/export/limits.ts";
import type { StoragePlan } from "../recipes/planStorage.ts";
import type { CheckpointRecord, DatasetRecord, FileRecord, ModelRecord, RunRecord } from "../storage/database.ts";
import type { FailureCode } from "../storage/failure.ts";
import type { ChosenModel } from "./chosenFiles.ts";
import type { Storage } from "./keeping.ts";

export type BackendChoice = Awaited<ReturnType<GpuApi["start"]>>;

/** What went wrong, to be put in the person's language where the code says enough. */
export interface Trouble {
  code: FailureCode;
  message: string;
}

export type Engine =
  | { status: "starting" }
  | { status: "ready"; choice: BackendChoice }
  /** It has not answered for a while; what it was doing may yet end. */
  | { status: "silent"; choice: BackendChoice }
  | { status: "failed"; trouble: Trouble };

/** The run that is shown. */
export type ShownRun =
  | { status: "none" }
  | { status: "running"; runId: string }
  | { status: "stopping"; runId: string }
  | { status: "stopped"; runId: string }
  /** The page or the browser ended while it was running. */
  | { status: "interrupted"; runId: string }
  /** Another tab is at work on it. */
  | { status: "elsewhere"; runId: string }
  | { status: "failed"; runId: string; trouble: Trouble }
  | { status: "finished"; runId: string };

/** A run in the list of all runs. */
export interface KnownRun {
  record: RunRecord;
  status: Exclude<ShownRun["status"], "none" | "stopping">;
  checkpoint: CheckpointRecord | null;
}

export type Importing =
  | { status: "idle" }
  | { status: "reading"; name: string; doneBytes: number; totalBytes: number }
  | { status: "imported"; dataset: DatasetRecord; skipped: RowError[]; skippedCount: number }
  | { status: "failed"; name: string; trouble: Trouble };

/** A checkpoint on its way into this browser. */
export type Bringing =
  | { status: "idle" }
  /** Its name, once it is known. */
  | { status: "looking"; name: string | null }
  | ({ status: "choosing" } & ModelChoice)
  | { status: "importing"; chosen: ChosenModel; storage: Storage; progress: ImportProgress | null; stopping: boolean }
  /** Before its end, by the person. */
  | { status: "stopped"; chosen: ChosenModel; storage: Storage }
  | { status: "brought"; model: ModelRecord }
  | { status: "failed"; name: string | null; trouble: Trouble };

/** How to keep it. */
export interface ModelChoice {
  chosen: ChosenModel;
  found: InspectedModel;
  plans: StoragePlan[];
  /** Null where none fits. */
  recommended: Storage | null;
  storage: Storage | null;
  /** What this browser has room for; null where it does not tell. */
  freeBytes: number | null;
}

export interface Question {
  whom: "base" | "tuned";
  mode: AnswerMode;
  text: string;
  /** The test case that was drawn, while the text is still its question. */
  drawn: Case | null;
}

export type Answer =
  | { status: "none" }
  | { status: "thinking"; part: { chain: string; answer: string }; mode: AnswerMode }
  | { status: "answered"; reply: SizedReply; mode: AnswerMode; graded: { expected: string; right: boolean } | null }
  | { status: "failed"; trouble: Trouble };

/** How a run can be gone on with. */
export const canResume = (status: ShownRun["status"]): boolean =>
  status === "stopped" || status === "interrupted" || status === "failed";

export const isAtWork = (status: ShownRun["status"]): boolean => status === "running" || status === "stopping";

export type { DatasetRecord, ExportLimits, FileRecord, ModelRecord, RowError, StoragePlan, Whom };
