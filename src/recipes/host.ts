// Where a run happens: a worker with its storage, or the command line with a folder.

import type { Weights } from "../formats/bytes.ts";
import type { CheckpointParts } from "../formats/checkpoint.ts";
import type { KeptWeights } from "../models/keptWeights.ts";
import type { CaseStudy } from "../protocol/data.ts";
import type { Checkpoint, RunEvent } from "../protocol/run.ts";
import type { OpenFile, WrittenFile } from "../storage/files.ts";

/** A model to begin with: one that lies beside the page, or one that the person brought. */
export interface ModelFiles extends CheckpointParts {
  weights: Weights & Partial<KeptWeights>;
  /** The files that it came in, where it is known which. */
  sources?: () => Promise<NamedFile[]>;
}

export interface NamedFile extends WrittenFile {
  name: string;
}

/** What a run needs from where it happens. */
export interface RunHost {
  readModel(name: string): Promise<ModelFiles>;
  /** Cases of a data set that the person imported. */
  readStudy(datasetId: string): Promise<CaseStudy>;
  /** Resolves when the checkpoint is safe; the one before stays until then. */
  saveCheckpoint(checkpoint: Checkpoint): Promise<void>;
  /** Begin a file for the person to take away, in place of one of the same name. */
  openFile(name: string): Promise<OpenFile>;
  /** Does nothing where there is no such file. */
  removeFile(name: string): Promise<void>;
  /** Remove what an earlier export has left in a folder. */
  clearFolder(name: string): Promise<void>;
  onEvent(event: RunEvent): void;
  /** Asked between steps: whether to end after a checkpoint. */
  stopping(): boolean;
  /** What hosts the run, for the report: the browser, or Node and its version. */
  description: string;
}

/** Thrown inside to leave a run between two steps; the run can go on from its last checkpoint. */
export class Stopped extends Error {}
