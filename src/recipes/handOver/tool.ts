// What each tool is handed: files, as text, and how it is started.

import type { Tuning } from "./tuning.ts";

/** One row of data, control tokens in the texts; loss is on the target alone. */
export interface Row {
  prompt: string;
  target: string;
}

export interface ToolFiles {
  title: string;
  folder: string;
  /** Where rows go, by what they are for: a tuning's name, or "validation". */
  dataPath: (purpose: string) => string;
  /** A row as a line of JSON. */
  line: (row: Row) => object;
  /** The other files in the folder. */
  files: (tunings: Tuning[], facts: BaseFacts) => Record<string, string | object>;
  /** Commands for a shell in the folder. */
  commands: (tunings: Tuning[]) => string[];
  /** What is done otherwise than here, a sentence each; beside what holds for all tools. */
  differences: string[];
}

export interface BaseFacts {
  /** Null where padding has to be told apart from the end by its place. */
  padToken: string | null;
  endToken: string;
}

/** Steps between looks at the validation cases, and between checkpoints. */
export const lookEvery = ({ steps }: Tuning): number => Math.max(1, Math.round(steps / 10));

/** ZeRO-2 (Rajbhandari et al., 2020): optimizer and gradients are spread over the GPUs. */
export const DEEPSPEED = {
  bf16: { enabled: true },
  zero_optimization: { stage: 2, overlap_comm: true, contiguous_gradients: true },
  gradient_clipping: "auto",
  gradient_accumulation_steps: "auto",
  train_micro_batch_size_per_gpu: "auto",
  train_batch_size: "auto",
};
