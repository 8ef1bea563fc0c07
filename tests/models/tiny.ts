// Tiny random models of both families, odd in every size that may be odd, and what the tests of models share.

import { expect } from "vitest";
import { makeBatch } from "../../src/data/batches.ts";
import { normalValues } from "../../src/engine/random.ts";
import * as tf from "../../src/engine/tf.ts";
import { type ModelConfig, readConfig } from "../../src/formats/hfConfig.ts";
import { hiddenStates, logits, type Model } from "../../src/models/decoder.ts";
import { buildModel, linearSlots, namedWeights } from "../../src/models/weights.ts";
import type { Batch, Example } from "../../src/protocol/data.ts";
import { attachLora, loraTensors } from "../../src/training/lora.ts";
import { integers } from "../engine/harness.ts";

export const FAMILIES = ["deepseek", "qwen2"] as const;
export type Family = (typeof FAMILIES)[number];

const CONFIGS: Record<Family, Record<string, unknown>> = {
  deepseek: {
    model_type: "deepseek_v3",
    vocab_size: 37,
    hidden_size: 20,
    num_hidden_layers: 3,
    num_attention_heads: 3,
    num_key_value_heads: 3,
    q_lora_rank: 9,
    kv_lora_rank: 7,
    qk_nope_head_dim: 5,
    qk_rope_head_dim: 4,
    v_head_dim: 6,
    intermediate_size: 19,
    moe_intermediate_size: 11,
    first_k_dense_replace: 1,
    n_routed_experts: 5,
    n_shared_experts: 1,
    num_experts_per_tok: 2,
    routed_scaling_factor: 1.5,
    n_group: 1,
    topk_group: 1,
    max_position_embeddings: 64,
    rope_theta: 10_000,
    tie_word_embeddings: true,
  },
  qwen2: {
    model_type: "qwen2",
    vocab_size: 41,
    hidden_size: 22,
    num_hidden_layers: 3,
    num_attention_heads: 6,
    num_key_value_heads: 3,
    head_dim: 4,
    intermediate_size: 21,
    max_position_embeddings: 64,
    rope_theta: 10_000,
    tie_word_embeddings: false,
  },
};

/** The family's tiny config; `changes` are keys of config.json. */
export function tinyConfig(family: Family, changes: Record<string, unknown> = {}): ModelConfig {
  return readConfig({ ...CONFIGS[family], ...changes });
}

/** A model with nothing at its neutral value: norms are not 1, biases not 0. The caller disposes of it. */
export function tinyModel(family: Family, changes: Record<string, unknown> = {}, seed = 1): Model {
  let stream = 0;
  return buildModel(tinyConfig(family, changes), (name, shape) => {
    const size = tf.util.sizeFromShape(shape);
    stream += 1;
    if (name.endsWith("norm.weight")) return normalValues(size, 0.2, seed, stream).map((x) => 1 + x);
    if (name.endsWith("bias")) return normalValues(size, 0.1, seed, stream);
    const std = name.includes("embed_tokens") ? 0.5 : 0.9 / Math.sqrt(shape[1]);
    return normalValues(size, std, seed, stream);
  });
}

/** Token ids below the model's vocabulary, one list per row. */
export function tinyIds(model: Model, lengths: number[], seed = 5): number[][] {
  return lengths.map((length, row) => [...integers([length], model.config.vocabSize, seed + row).values]);
}

/** Rows of different lengths; the first two tokens of each carry no loss. */
export function tinyBatch(model: Model, seed = 5, lengths = [9, 6]): Batch {
  const examples = tinyIds(model, lengths, seed).map((ids): Example => {
    return { ids: Int32Array.from(ids), weights: Float32Array.from(ids, (_, t) => (t < 2 ? 0 : 1)) };
  });
  return makeBatch(examples, { lengthMultiple: 4, positionMultiple: 8, maxLength: 64 });
}

/** Adapters on every linear map, with no factor at zero. */
export function attachRandomLora(model: Model, rank = 3, targets?: string[]): void {
  attachLora(model, { rank, alpha: 2 * rank, seed: 3, targets });
  linearSlots(model).forEach(({ linear: { lora } }, i) => {
    if (!lora) return;
    const { shape, size } = lora.b;
    lora.b.dispose();
    lora.b = tf.tensor(normalValues(size, 0.2, 4, i), shape);
  });
}

/** Logits of every token: [B*T, V]. */
export function logitsOf(model: Model, ids: number[][]): Float32Array {
  return tf.tidy(() => {
    const h = hiddenStates(model, { ids: tf.tensor2d(ids, undefined, "int32") });
    return logits(model, h.reshape([-1, h.shape[2]!])).dataSync() as Float32Array;
  });
}

/** Contents of every weight and adapter by name. */
export function contents(model: Model): Map<string, Float32Array> {
  const all = [...namedWeights(model), ...loraTensors(model)];
  return new Map(all.map(({ name, tensor }) => [name, (tensor.dataSync() as Float32Array).slice()]));
}

/** Names whose contents differ in any bit between the two, or that only one has. */
export function changedNames(before: Map<string, Float32Array>, after: Map<string, Float32Array>): string[] {
  const names = [...new Set([...before.keys(), ...after.keys()])];
  return names.filter((name) => {
    const [a, b] = [before.get(name), after.get(name)];
    return !a || !b || !bytes(a).equals(bytes(b));
  });
}

function bytes(values: Float32Array): Buffer {
  return Buffer.from(values.buffer, values.byteOffset, values.byteLength);
}

/** The two are alike up to `tolerance` of the largest magnitude in `want`. */
export function expectNear(found: ArrayLike<number>, want: ArrayLike<number>, tolerance: number): void {
  expect(found.length).toBe(want.length);
  let [worst, largest] = [0, 0];
  for (let i = 0; i < want.length; i++) {
    const difference = Math.abs(found[i] - want[i]);
    if (!(difference <= worst)) worst = difference; // NaN is kept as the worst.
    largest = Math.max(largest, Math.abs(want[i]));
  }
  expect(worst).toBeLessThanOrEqual(tolerance * largest);
}

/** Fails if `work` leaves tensors behind or disposes of some that it does not own. */
export async function expectNoLeak(work: () => unknown): Promise<void> {
  const before = tf.memory().numTensors;
  await work();
  expect(tf.memory().numTensors - before).toBe(0);
}
