// Our contestant, and what both contestants are given. The only place that calls the product's training and decoding.

import type { ModelConfig } from "../../src/formats/hfConfig.ts";
import { uniform } from "../../src/engine/random.ts";
import type { Model } from "../../src/models/decoder.ts";
import { generate } from "../../src/models/generate.ts";
import { disposeModel, initModel, namedWeights } from "../../src/models/weights.ts";
import type { NamedTensor } from "../../src/models/weights.ts";
import type { Batch } from "../../src/protocol/data.ts";
import { attachLora, loraTensors } from "../../src/training/lora.ts";
import { createOptimizer, disposeOptimizer } from "../../src/training/optimizer.ts";
import { createStepper } from "../../src/training/step.ts";

/** A model in training on one batch, again and again. */
export interface Trainer {
  /** One update. Resolves with the loss before it, in nats, when the step is done. */
  step(): Promise<number>;
  dispose(): void;
}

/** Adapters of rank 8 on every linear map, or every weight. */
export type Tuning = "lora" | "full";

/** Adam as tf.train.adam has it: both contestants compute the same numbers, so their losses can be compared. */
export const ADAM = { beta1: 0.9, beta2: 0.999, eps: 1e-8 };

const SEED = 1;

/** A model of random weights and the tensors of it that are trained. */
export function freshModel(config: ModelConfig, tuning: Tuning): { model: Model; trained: NamedTensor[] } {
  const model = initModel(config, SEED);
  if (tuning === "full") {
    // The router's bias is moved by balancing, not by gradients.
    return { model, trained: namedWeights(model).filter(({ name }) => !name.endsWith("e_score_correction_bias")) };
  }
  attachLora(model, { rank: 8, alpha: 16, seed: SEED });
  return { model, trained: loraTensors(model) };
}

/** Rows of random tokens, each of which is trained to say the next. */
export function randomBatch(words: number, rows: number, length: number): Batch {
  const count = rows * length;
  const ids = randomTokens(words, count, SEED);
  return {
    rows,
    length,
    ids,
    lengths: new Int32Array(rows).fill(length),
    positions: Int32Array.from({ length: count }, (_, i) => i),
    targets: Int32Array.from(ids, (_, i) => ids[(i + 1) % count]),
    weights: new Float32Array(count).fill(1 / count),
    tokens: count,
    trainedTokens: count,
  };
}

export function randomTokens(words: number, count: number, stream: number): Int32Array {
  return Int32Array.from({ length: count }, (_, i) => Math.floor(uniform(SEED, stream, i) * words));
}

/** Trains `model`, which it owns from here on. It clips by a norm that is never reached: the work without the effect. */
export function ourTrainer(model: Model, trained: NamedTensor[], batch: Batch, learningRate: number): Trainer {
  const optimizer = createOptimizer(trained, { ...ADAM, weightDecay: 0, clipNorm: 1e9 });
  const stepper = createStepper(model, optimizer);
  return {
    step: async () => (await stepper.step([batch], { learningRate })).loss,
    dispose() {
      stepper.dispose();
      disposeOptimizer(optimizer);
      disposeModel(model);
    },
  };
}

/** Two steps by both, which also warms them up: the losses must agree, before and after an update, and go down. */
export async function checkSameWork(ours: Trainer, other: Trainer): Promise<void> {
  const losses = [await ours.step(), await ours.step()];
  const expected = [await other.step(), await other.step()];
  const same = losses.every((loss, i) => Math.abs(loss - expected[i]) < 2e-3 * expected[i]);
  if (!same || losses[1] >= losses[0]) {
    throw new Error(
      `The contestants should compute the same falling losses: ours are ${losses}, the other's ${expected}.`,
    );
  }
}

export interface Generation {
  /** Per row, the first of which the prompt gives. */
  newTokens: number;
  /** Called with each row's token as soon as they are known. */
  onTokens: (tokens: number[]) => void;
}

/** Greedy decoding; no row ends early. */
export async function ourGenerate(model: Model, prompts: Int32Array[], { newTokens, onTokens }: Generation) {
  await generate(model, prompts, {
    maxNewTokens: newTokens,
    eosTokenId: -1,
    onTokens: (tokens) => onTokens(tokens as number[]),
  });
}
