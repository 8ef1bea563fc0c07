// How fast models run here: repeated, interleaved, so that what else the machine does falls on all alike.

import * as tf from "../engine/tf.ts";
import { generate } from "../models/generate.ts";
import type { Model } from "../models/decoder.ts";
import type { Latency } from "../protocol/report.ts";
import { median, quantile } from "./metrics.ts";

export interface LatencySetting {
  /** Rows side by side, tokens of each prompt, tokens generated. */
  rows: number;
  promptTokens: number;
  newTokens: number;
  repeats: number;
}

/** Medians for each model, measured in turns (the order of a round alternates); one round before it is not counted. */
export async function measureLatency(
  models: Model[],
  { rows, promptTokens, newTokens, repeats }: LatencySetting,
  onProgress: (done: number) => void = () => {},
): Promise<Latency[]> {
  const prompts = Array.from({ length: rows }, (_, row) => {
    // Any tokens will do: what a token is does not change what it costs. Experts are chosen by content, so they vary.
    return Int32Array.from({ length: promptTokens }, (_, t) => (row * 131 + t * 17 + 7) % models[0].config.vocabSize);
  });
  const prefill = models.map(() => [] as number[]);
  const decode = models.map(() => [] as number[]);
  for (let round = -1; round < repeats; round++) {
    const order = models.map((_, i) => (round % 2 === 0 ? i : models.length - 1 - i));
    for (const i of order) {
      const first = await timeGeneration(models[i], prompts, 1);
      const all = await timeGeneration(models[i], prompts, 1 + newTokens);
      if (round < 0) continue;
      prefill[i].push(first);
      decode[i].push((all - first) / newTokens);
    }
    onProgress(round + 1);
  }
  return models.map((_, i) => ({
    prefillMs: median(prefill[i]),
    prefillSpreadMs: quantile(prefill[i], 0.75) - quantile(prefill[i], 0.25),
    decodeMs: median(decode[i]),
    decodeSpreadMs: quantile(decode[i], 0.75) - quantile(decode[i], 0.25),
    repeats,
  }));
}

async function timeGeneration(model: Model, prompts: Int32Array[], maxNewTokens: number): Promise<number> {
  const started = tf.util.now();
  await generate(model, prompts, { maxNewTokens, eosTokenId: -1 });
  return tf.util.now() - started;
}
