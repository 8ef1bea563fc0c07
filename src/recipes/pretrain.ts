// Pretraining of the base models that the app ships: from fresh weights, resumable, with its loss curve.

import { makeBatch } from "../data/batches.ts";
import { type Tokenizer } from "../data/tokenizer.ts";
import { nextTask } from "../engine/idle.ts";
import { readConfig } from "../formats/hfConfig.ts";
import { initModel, type NamedTensor, namedWeights } from "../models/weights.ts";
import type { Model } from "../models/decoder.ts";
import type { Batch, Example } from "../protocol/data.ts";
import { packCheckpoint, restoreOptimizer, unpackCheckpoint } from "../training/checkpoint.ts";
import { batchLoss } from "../training/loss.ts";
import { createOptimizer, type Optimizer } from "../training/optimizer.ts";
import { warmUpStableDecay } from "../training/schedule.ts";
import { createStepper } from "../training/step.ts";
import { batchShape } from "./batching.ts";
import { FIRST_PACKER_STATE, type PackerSettings, type PackerState, packRow, type TextSource } from "./packing.ts";

export interface PretrainSettings {
  steps: number;
  /** Rows a step, tokens a row. */
  rows: number;
  length: number;
  learningRate: number;
  weightDecay: number;
  /** How far a router's bias moves in a step; 0 in the last tenth of the steps. */
  balanceSpeed: number;
  drillShare: number;
  /** Steps at first, and share of the rows after them, of lists of words said again. */
  repetitionSteps: number;
  repetitionShare: number;
  questionWeight: number;
  answerWeight: number;
  seed: number;
  checkpointEvery: number;
  validateEvery: number;
}

export interface PretrainState {
  step: number;
  packer: PackerState;
  tokens: number;
  seconds: number;
}

export type PretrainEvent =
  | { type: "step"; step: number; loss: number; worstLoad: number; tokensPerSecond: number }
  | { type: "validated"; step: number; textLoss: number; drillLoss: number };

export interface PretrainHost {
  onEvent(event: PretrainEvent): void;
  saveCheckpoint(state: PretrainState, tensors: Uint8Array): Promise<void>;
  stopping(): boolean;
}

/** Train until the last step or until stopped. Returns the model; the caller disposes of it. */
export async function pretrain(
  config: unknown,
  tokenizer: Tokenizer,
  texts: { training: TextSource; validation: TextSource },
  settings: PretrainSettings,
  host: PretrainHost,
  from?: { state: PretrainState; tensors: Uint8Array },
): Promise<{ model: Model; state: PretrainState; finished: boolean }> {
  const { model, optimizer, state } = open(config, settings, from);
  const packer: PackerSettings = { ...settings, repetitionRows: settings.repetitionSteps * settings.rows };
  const validation = validationBatches(tokenizer, texts.validation, packer);
  const stepper = createStepper(model, optimizer, { balance: true });
  while (state.step < settings.steps) {
    const startedMs = performance.now();
    const { batch, next } = nextBatch(tokenizer, texts.training, packer, state.packer, settings.rows);
    const late = state.step > 0.9 * settings.steps;
    const { loss, worstLoad } = await stepper.step([batch], {
      learningRate: warmUpStableDecay(state.step, settings.steps, settings.learningRate),
      balanceSpeed: late ? 0 : settings.balanceSpeed,
    });
    state.packer = next;
    state.step += 1;
    state.tokens += batch.tokens;
    const seconds = (performance.now() - startedMs) / 1000;
    state.seconds += seconds;
    host.onEvent({
      type: "step",
      step: state.step,
      loss,
      worstLoad: worstLoad!,
      tokensPerSecond: batch.tokens / seconds,
    });
    const last = state.step === settings.steps || host.stopping();
    if (last || state.step % settings.validateEvery === 0) {
      const [textLoss, drillLoss] = [await meanLoss(model, validation.text), await meanLoss(model, validation.drills)];
      host.onEvent({ type: "validated", step: state.step, textLoss, drillLoss });
    }
    if (last || state.step % settings.checkpointEvery === 0) {
      await host.saveCheckpoint(structuredClone(state), await packCheckpoint(model, optimizer));
    }
    await nextTask(); // Lets a signal in.
    if (last && state.step < settings.steps) break;
  }
  stepper.dispose();
  return { model, state, finished: state.step >= settings.steps };
}

function open(
  config: unknown,
  settings: PretrainSettings,
  from?: { state: PretrainState; tensors: Uint8Array },
): { model: Model; optimizer: Optimizer; state: PretrainState } {
  const optimizerSettings = { beta1: 0.9, beta2: 0.95, eps: 1e-8, weightDecay: settings.weightDecay, clipNorm: 1 };
  const parsed = readConfig(config);
  if (!from) {
    const model = initModel(parsed, settings.seed);
    const state = { step: 0, packer: FIRST_PACKER_STATE, tokens: 0, seconds: 0 };
    return { model, optimizer: createOptimizer(trainable(model), optimizerSettings), state };
  }
  const { model, moments } = unpackCheckpoint(parsed, from.tensors, 1);
  const optimizer = createOptimizer(trainable(model), optimizerSettings);
  restoreOptimizer(optimizer, moments, from.state.step);
  return { model, optimizer, state: structuredClone(from.state) };
}

function trainable(model: Model): NamedTensor[] {
  return namedWeights(model).filter(({ name }) => !name.endsWith("e_score_correction_bias"));
}

function nextBatch(
  tokenizer: Tokenizer,
  texts: TextSource,
  settings: PackerSettings,
  from: PackerState,
  rows: number,
): { batch: Batch; next: PackerState } {
  const examples: Example[] = [];
  let state = from;
  for (let row = 0; row < rows; row++) {
    const packed = packRow(tokenizer, texts, settings, state);
    examples.push(packed.example);
    state = packed.state;
  }
  return { batch: makeBatch(examples, batchShape(settings.length)), next: state };
}

/** Held-out rows of either kind: texts that training never sees, exercises of a seed it never uses. */
function validationBatches(tokenizer: Tokenizer, texts: TextSource, settings: PackerSettings) {
  const of = (drillShare: number) => {
    const held = {
      ...settings,
      drillShare,
      repetitionRows: 0,
      repetitionShare: 0,
      questionWeight: 0,
      seed: settings.seed + 1_000_003,
    };
    let state = FIRST_PACKER_STATE;
    return Array.from({ length: 4 }, () => {
      const made = nextBatch(tokenizer, texts, held, state, 8);
      state = made.next;
      return made.batch;
    });
  };
  return { text: of(0), drills: of(1) };
}

async function meanLoss(model: Model, batches: Batch[]): Promise<number> {
  let total = 0;
  for (const batch of batches) total += await batchLoss(model, batch);
  return total / batches.length;
}

/** The weights of a checkpoint as a model of its own, e.g. to ship it. */
export function modelOfCheckpoint(config: unknown, tensors: Uint8Array): Model {
  return unpackCheckpoint(readConfig(config), tensors, 1).model;
}
