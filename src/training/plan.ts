// How much memory a training run will take, before it begins; and what to change where there is not enough.

import { valueAndGradients } from "../engine/gradients.ts";
import { memoryBudgetBytes, phantom, rehearse } from "../engine/memory.ts";
import * as tf from "../engine/tf.ts";
import type { ModelConfig } from "../formats/hfConfig.ts";
import type { LossInput, Model } from "../models/decoder.ts";
import { phantomMaker, type Storage, tensorsOf as tensorsOfTable } from "../models/storage.ts";
import { buildModelFrom, disposeModel, linearSlots, namedTables } from "../models/weights.ts";
import { trainingLoss } from "./accumulate.ts";
import { loraTensors } from "./lora.ts";
import { trainableWeights } from "./trainable.ts";

export interface MemorySettings {
  storage: Storage;
  /** Rank of the adapters that are trained, on every linear map; null: every weight is trained. */
  rank: number | null;
  /** Rows of a batch. */
  rows: number;
  /** Tokens of a row. */
  length: number;
  /** Tokens of a row that carry loss, at most. */
  trainedTokens: number;
  /** Whether rows hold several sequences. */
  packed?: boolean;
  /** Whether the multi-token prediction layers are trained. */
  mtp?: boolean;
  /** Batches that make one step. */
  batches: number;
  recompute: boolean;
}

export interface MemoryPlan {
  settings: MemorySettings;
  /** As they are stored, with the tables of rotary angles. */
  weightBytes: number;
  /** Adapters, and two moments of whatever is trained. */
  trainableBytes: number;
  /** Remembered for the way back. */
  activationBytes: number;
  /** What is taken besides at the worst moment, gradients among it. */
  workspaceBytes: number;
  totalBytes: number;
  budgetBytes: number;
  fits: boolean;
}

export interface Advice {
  plan: MemoryPlan;
  /** What was changed, and what it costs: one sentence each, the least painful first. */
  changes: { setting: keyof MemorySettings; sentence: string }[];
}

/** Exact but for what the heap or the GPU's driver loses between pieces. On WebGPU and WebAssembly. */
export function planMemory(
  config: ModelConfig,
  settings: MemorySettings,
  budgetBytes = memoryBudgetBytes(),
): MemoryPlan {
  const model = buildModelFrom(config, phantomMaker(settings.storage));
  const adapters = settings.rank === null ? [] : attachPhantoms(model, settings.rank);
  const leaves = settings.rank === null ? trainableWeights(model, settings.mtp).map(({ tensor }) => tensor) : adapters;
  const input = phantomInput(settings, model.mtp.length);
  const inputs = tf.tensor_util.getTensorsInContainer(input as unknown as tf.TensorContainer);
  const phantoms = [...inputs, ...adapters, ...tensorsOf(model)];
  let activationBytes = 0;
  const step = () => {
    const { value, gradients } = valueAndGradients(() => {
      const loss = trainingLoss(model, input, { recompute: settings.recompute });
      activationBytes = rememberedBytes(phantoms);
      return loss;
    }, leaves);
    return [value, ...gradients];
  };
  const leafBytes = bytesOf(leaves);
  try {
    const stepBytes = rehearse(step, phantoms);
    const weightBytes = bytesOf(tensorsOf(model));
    // Moments; and sums of gradients, where several batches are added up.
    const trainableBytes = bytesOf(adapters) + (settings.batches > 1 ? 3 : 2) * leafBytes;
    const totalBytes = weightBytes + trainableBytes + stepBytes;
    return {
      settings,
      weightBytes,
      trainableBytes,
      activationBytes,
      workspaceBytes: stepBytes - activationBytes,
      totalBytes,
      budgetBytes,
      fits: totalBytes <= budgetBytes,
    };
  } finally {
    disposeModel(model);
    tf.dispose(inputs);
  }
}

/** Change what hurts least until the run fits; the plan says whether it then does. No changes where it fits at once. */
export function adviseMemory(config: ModelConfig, settings: MemorySettings, budgetBytes?: number): Advice {
  let plan = planMemory(config, settings, budgetBytes);
  const changes: Advice["changes"] = [];
  for (const { setting, options, sentence } of REMEDIES) {
    if (plan.fits) break;
    const before = plan;
    for (const changed of options(before.settings)) {
      plan = planMemory(config, changed, budgetBytes);
      if (plan.fits) break;
    }
    if (plan.totalBytes < before.totalBytes) changes.push({ setting, sentence: sentence(plan.settings) });
    else plan = before;
  }
  return { plan, changes };
}

interface Remedy {
  setting: keyof MemorySettings;
  /** The settings with more and more of the change. */
  options: (settings: MemorySettings) => MemorySettings[];
  sentence: (settings: MemorySettings) => string;
}

/** The least painful first. */
const REMEDIES: Remedy[] = [
  {
    setting: "recompute",
    options: (settings) => (settings.recompute ? [] : [{ ...settings, recompute: true }]),
    sentence: () => "Compute layers again instead of remembering them: the same result, a third more time.",
  },
  {
    setting: "rows",
    options: (settings) =>
      halves(settings.rows, 1).map((rows) => ({
        ...settings,
        rows,
        batches: Math.ceil((settings.rows * settings.batches) / rows),
      })),
    sentence: ({ rows, batches }) =>
      `Take ${rows} rows at a time and ${batches} batches a step: the same result up to rounding, a little more time.`,
  },
  {
    setting: "storage",
    options: (settings) => {
      const smaller: Storage[] = ["f16", "int8", "int4"];
      const from = smaller.indexOf(settings.storage as "f16") + 1;
      return settings.rank === null ? [] : smaller.slice(from).map((storage) => ({ ...settings, storage }));
    },
    sentence: ({ storage }) => `Store the frozen weights as ${storage}: a little less exact.`,
  },
  {
    setting: "length",
    options: (settings) =>
      halves(settings.length, 64).map((length) => {
        return { ...settings, length, trainedTokens: Math.min(settings.trainedTokens, length) };
      }),
    sentence: ({ length }) => `Take rows of at most ${length} tokens: longer examples are left out.`,
  },
  {
    setting: "rank",
    options: (settings) =>
      settings.rank === null ? [] : halves(settings.rank, 2).map((rank) => ({ ...settings, rank })),
    sentence: ({ rank }) => `Train adapters of rank ${rank}: they can learn less.`,
  },
];

/** Half of it, half of that, down to `least`. */
function halves(from: number, least: number): number[] {
  const found = [];
  for (let value = Math.floor(from / 2); value >= least; value = Math.floor(value / 2)) found.push(value);
  return found;
}

function attachPhantoms(model: Model, rank: number): tf.Tensor[] {
  for (const { linear } of linearSlots(model)) {
    const [out, width] = linear.weight.shape as [number, number];
    linear.lora = { a: phantom([rank, width]), b: phantom([out, rank]), scale: 1 };
  }
  return loraTensors(model).map(({ tensor }) => tensor);
}

function phantomInput({ rows, length, trainedTokens, packed, mtp }: MemorySettings, depths: number): LossInput {
  const predicting = rows * trainedTokens;
  const perToken = () => phantom([rows, length], "int32");
  const taken = () => ({
    positions: phantom([predicting], "int32"),
    places: phantom([rows * length], "int32"),
    weights: phantom([predicting]),
  });
  return {
    ids: perToken(),
    targets: phantom([predicting], "int32"),
    ...taken(),
    ...(packed && { packed: { positionIds: perToken(), starts: perToken() } }),
    ...(mtp && { ahead: Array.from({ length: depths }, () => ({ ids: perToken(), ...taken() })) }),
  };
}

/** Those of the tree and its tables, adapters apart. */
function tensorsOf(model: Model): tf.Tensor[] {
  return [...namedTables(model).flatMap(({ table }) => tensorsOfTable(table)), model.rope.cos, model.rope.sin];
}

/** What the tape keeps for the way back, each piece of memory once. */
function rememberedBytes(others: tf.Tensor[]): number {
  const known = new Set(others.map(({ dataId }) => dataId));
  const saved = (tf.engine().state.activeTape ?? []).flatMap((node) => node.saved ?? []);
  return bytesOf(saved.filter(({ dataId }) => !known.has(dataId) && known.add(dataId)));
}

function bytesOf(tensors: tf.Tensor[]): number {
  return tensors.reduce((sum, { size }) => sum + 4 * size, 0);
}
