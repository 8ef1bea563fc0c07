// The tuning stages of a recipe as another tool is told to do them.

import { exampleOf } from "../../data/chat.ts";
import type { Tokenizer } from "../../data/tokenizer.ts";
import type { ModelConfig } from "../../formats/hfConfig.ts";
import type { AnswerMode, Case, CaseStudy } from "../../protocol/data.ts";
import { isTuning, type Recipe } from "../../protocol/recipe.ts";
import { DEFAULT_OPTIMIZER } from "../../training/optimizer.ts";
import { LEAST_SHARE, warmUpSteps } from "../../training/schedule.ts";

/** One run of a tool. */
export interface Tuning {
  /** "chains" or "sft": names its data and what it leaves. */
  name: string;
  /** The run whose adapter it goes on with. */
  after: string | null;
  /** Null: all weights are trained. */
  lora: { rank: number; alpha: number; modules: string[] } | null;
  /** In how each case is put, once each. */
  modes: AnswerMode[];
  steps: number;
  /** Cases in a step, over all GPUs. */
  batch: number;
  /** Cases at a time on one GPU; divides the batch. */
  atATime: number;
  recompute: boolean;
  learningRate: number;
  warmUpSteps: number;
  /** What the learning rate ends at, of its peak. */
  leastShare: number;
  /** Rows of data that it has. */
  rows: number;
  /** Longest row, in tokens. */
  maxLength: number;
  seed: number;
  optimizer: typeof DEFAULT_OPTIMIZER;
}

/** What fits a GPU of the usual sizes at once; more are accumulated. */
const MOST_AT_A_TIME = 8;

export function tuningsOf(recipe: Recipe, config: ModelConfig, tokenizer: Tokenizer, study: CaseStudy): Tuning[] {
  const tunings: Tuning[] = [];
  for (const stage of recipe.stages.filter(isTuning)) {
    const adapter = "rank" in stage ? { rank: stage.rank, alpha: stage.alpha, modules: modulesOf(config) } : null;
    const before = tunings.at(-1);
    const modes: AnswerMode[] = stage.kind === "chains" ? ["chain"] : ["chain", "direct"];
    tunings.push({
      name: stage.kind,
      after: before?.name ?? null,
      lora: adapter,
      modes,
      steps: stage.steps,
      batch: stage.batch,
      atATime: largestDivisor(stage.batch, Math.min(stage.atATime ?? stage.batch, MOST_AT_A_TIME)),
      recompute: stage.recompute ?? false,
      learningRate: stage.learningRate,
      warmUpSteps: warmUpSteps(stage.steps),
      leastShare: LEAST_SHARE,
      rows: modes.length * study.train.length,
      maxLength: longest(tokenizer, [...study.train, ...study.validation], modes),
      seed: recipe.seed,
      optimizer: DEFAULT_OPTIMIZER,
    });
  }
  return tunings;
}

/**
 * Where adapters go. In models with routed experts the MLPs are left out: PEFT takes their names for the experts', and loads an
 * adapter of all of them as another one without a word.
 */
function modulesOf(config: ModelConfig): string[] {
  if (config.family === "qwen2") {
    return ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"];
  }
  const query = config.qLoraRank === null ? ["q_proj"] : ["q_a_proj", "q_b_proj"];
  return [...query, "kv_a_proj_with_mqa", "kv_b_proj", "o_proj"];
}

function largestDivisor(of: number, most: number): number {
  for (let n = most; n > 1; n--) if (of % n === 0) return n;
  return 1;
}

function longest(tokenizer: Tokenizer, cases: Case[], modes: AnswerMode[]): number {
  let most = 0;
  for (const item of cases) {
    for (const mode of modes) most = Math.max(most, exampleOf(tokenizer, item, mode).ids.length);
  }
  return most;
}
