// Ours against jax-js in one browser: a training step of a small GPT, from the same weights, on the same batch.

import wasmUrl from "@tensorflow/tfjs-backend-wasm/dist/tfjs-backend-wasm-simd.wasm?url";
import { startBackend } from "../../../src/engine/backend.ts";
import type { Qwen2Config } from "../../../src/formats/hfConfig.ts";
import { pageThreads } from "../../../workers/threads.ts";
import type { Backend } from "../bench.ts";
import { checkSameWork, freshModel, ourTrainer, randomBatch } from "../ours.ts";
import { interleave, type Patience } from "../measure.ts";
import { GPT_FIVE_MILLION } from "../shapes.ts";
import { jaxTrainer, type PlainWeights } from "./jaxGpt.ts";

export interface ContestRequest {
  backend: Backend;
  rows: number;
  length: number;
  patience: Patience;
}

export interface ContestResult {
  parameters: number;
  /** What computed, in words. */
  device: string;
  threads: number;
  /** Milliseconds of each step. */
  ours: number[];
  jax: number[];
}

const LEARNING_RATE = 1e-3;

export async function contest({ backend, rows, length, patience }: ContestRequest): Promise<ContestResult> {
  const { name, device } = await startBackend({ prefer: backend, wasmUrl, threads: pageThreads() });
  if (name !== backend) throw new Error(`The page asked for ${backend} and got ${name}.`);
  const config = GPT_FIVE_MILLION as Qwen2Config;
  const batch = randomBatch(config.vocabSize, rows, length);
  const { model, trained } = freshModel(config, "full");
  const weights: PlainWeights = new Map();
  for (const { name, tensor } of trained) {
    weights.set(name, { shape: tensor.shape, values: (await tensor.data()).slice() as Float32Array });
  }
  const ours = ourTrainer(model, trained, batch, LEARNING_RATE);
  const jax = await jaxTrainer(backend, config, weights, batch, LEARNING_RATE);
  await checkSameWork(ours, jax);
  const [ourMs, jaxMs] = await interleave([() => ours.step(), () => jax.step()], patience);
  const parameters = [...weights.values()].reduce((sum, { values }) => sum + values.length, 0);
  return {
    parameters,
    device,
    threads: crossOriginIsolated ? navigator.hardwareConcurrency : 1,
    ours: ourMs,
    jax: jaxMs,
  };
}
