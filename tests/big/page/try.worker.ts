// Loads a kept model as a run does, asks it, and takes one step of tuning.

import { expose } from "comlink";
import wasmUrl from "@tensorflow/tfjs-backend-wasm/dist/tfjs-backend-wasm-simd.wasm?url";
import { startBackend } from "../../../src/engine/backend.ts";
import * as tf from "../../../src/engine/tf.ts";
import { readConfig } from "../../../src/formats/hfConfig.ts";
import { hiddenStates, logits } from "../../../src/models/decoder.ts";
import { generate } from "../../../src/models/generate.ts";
import { loadModelFrom } from "../../../src/models/weights.ts";
import { openDatabase } from "../../../src/storage/database.ts";
import { openFiles } from "../../../src/storage/files.ts";
import { attachLora, loraTensors } from "../../../src/training/lora.ts";
import { createOptimizer, DEFAULT_OPTIMIZER } from "../../../src/training/optimizer.ts";
import { planMemory } from "../../../src/training/plan.ts";
import { createStepper } from "../../../src/training/step.ts";
import { openLocalModel } from "../../../workers/models.ts";
import { pageThreads } from "../../../workers/threads.ts";

export interface Tried {
  backend: string;
  seconds: { load: number; logits: number; generate: number; step: number };
  /** What the device is asked for, as planned. */
  plannedBytes: number;
  tokens: number[];
  losses: number[];
  /** Of the last place of the prompt. */
  logits: Float32Array;
}

const LENGTH = 64;

const api = {
  async tryModel(id: string, prompt: number[]): Promise<Tried> {
    const choice = await startBackend({
      wasmUrl: new URL(wasmUrl, self.location.href).href,
      threads: pageThreads(),
      tunings: { load: async () => null, save: async () => {} },
    });
    const [database, files] = await Promise.all([openDatabase(), openFiles()]);
    const seconds = { load: 0, logits: 0, generate: 0, step: 0 };
    const timed = async <T>(phase: keyof typeof seconds, work: () => Promise<T>): Promise<T> => {
      const startedMs = performance.now();
      const result = await work();
      seconds[phase] = (performance.now() - startedMs) / 1000;
      return result;
    };
    const { parts, weights } = await openLocalModel(database, files, id).then(({ weights: own, ...rest }) => ({
      parts: rest,
      weights: own,
    }));
    const config = readConfig(parts.config);
    const model = await timed("load", async () => loadModelFrom(config, weights));
    const last = await timed("logits", async () => {
      const ids = tf.tensor2d(prompt, [1, prompt.length], "int32");
      const rows = tf.tidy(() => {
        const h = hiddenStates(model, { ids });
        return logits(model, h.reshape([prompt.length, -1]).slice([prompt.length - 1, 0], [1, -1]));
      });
      return (await rows.data()) as Float32Array;
    });
    const [tokens] = await timed("generate", () =>
      generate(model, [Int32Array.from(prompt)], { maxNewTokens: 4, eosTokenId: -1 }),
    );
    attachLora(model, { rank: 16, alpha: 32, seed: 1 });
    const optimizer = createOptimizer(loraTensors(model), DEFAULT_OPTIMIZER);
    const stepper = createStepper(model, optimizer, { recompute: true });
    const ids = Int32Array.from({ length: LENGTH }, (_, i) => (i * 37) % 251);
    const batch = {
      rows: 1,
      length: LENGTH,
      ids,
      lengths: Int32Array.of(LENGTH),
      positions: Int32Array.from(ids, (_, i) => i),
      targets: Int32Array.from(ids, (_, i) => ids[(i + 1) % LENGTH]),
      weights: new Float32Array(LENGTH).fill(1 / LENGTH),
      tokens: LENGTH,
      trainedTokens: LENGTH,
    };
    const losses: number[] = [];
    await timed("step", async () => losses.push((await stepper.step([batch], { learningRate: 1e-3 })).loss));
    losses.push((await stepper.step([batch], { learningRate: 1e-3 })).loss);
    const settings = { storage: weights.storage ?? "f32", rank: 16, rows: 1, length: LENGTH, trainedTokens: LENGTH };
    const plan = planMemory(config, { ...settings, batches: 1, recompute: true });
    return {
      backend: `${choice.name}, ${choice.device}`,
      seconds,
      plannedBytes: plan.totalBytes,
      tokens,
      losses,
      logits: last,
    };
  },
};

export type TryApi = typeof api;
expose(api);
