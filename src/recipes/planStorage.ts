// What a checkpoint takes of the device's memory before it is brought in, stored in each of the ways there are.

import { readConfig } from "../formats/hfConfig.ts";
import type { Storage } from "../models/storage.ts";
import { checkTensors } from "../models/weights.ts";
import { planMemory } from "../training/plan.ts";

export interface StoragePlan {
  storage: Storage;
  /** The weights by themselves. */
  weightBytes: number;
  /** The weights in tuning, as below. */
  tuningBytes: number;
  /** What the device has for everything together; null where nobody tells. */
  budgetBytes: number | null;
  /** Whether tuning fits, as far as is known. */
  fits: boolean;
}

/** Tuning by LoRA on every linear map, a row at a time, layers computed again on the way back: the least that is of use. */
const TUNING = { rank: 16, rows: 1, length: 512, trainedTokens: 256, batches: 1, recompute: true };

/** Throws a sentence if the tensors are not those of the config. The backend must have been started: wasm or webgpu. */
export function planStorage(config: unknown, tensors: ReadonlyMap<string, { shape: number[] }>): StoragePlan[] {
  const checked = readConfig(config);
  checkTensors(checked, tensors);
  const length = Math.min(TUNING.length, checked.maxPositionEmbeddings);
  return (["f32", "f16", "int8", "int4"] as const).map((storage) => {
    const plan = planMemory(checked, { ...TUNING, length, trainedTokens: Math.ceil(length / 2), storage });
    return {
      storage,
      weightBytes: plan.weightBytes,
      tuningBytes: plan.totalBytes,
      budgetBytes: Number.isFinite(plan.budgetBytes) ? plan.budgetBytes : null,
      fits: plan.fits,
    };
  });
}
