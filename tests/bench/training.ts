// A training step: ours against the same model in stock TensorFlow.js operations with tf.train.adam.

import type { ModelConfig } from "../../src/formats/hfConfig.ts";
import { activate, type Backend, type Bench, isSlow, placeOf, type Row, shapesOf } from "./bench.ts";
import { interleave, spreadOf } from "./measure.ts";
import { checkSameWork, freshModel, ourTrainer, randomBatch, type Tuning } from "./ours.ts";
import { compared, type Result } from "./results.ts";
import { stockTrainer } from "./stock.ts";

const LEARNING_RATE = 1e-3;

export const training: Row = {
  name: "training",
  says: "a training step of the 1M and 5M shapes, LoRA and full, against stock operations",
  async *run(bench) {
    for (const backend of bench.backends) {
      await activate(backend);
      for (const [name, config] of shapesOf(bench)) {
        for (const tuning of ["lora", "full"] as const) yield await contest(name, config, tuning, backend, bench);
      }
    }
  },
};

async function contest(
  name: string,
  config: ModelConfig,
  tuning: Tuning,
  backend: Backend,
  bench: Bench,
): Promise<Result> {
  const [rows, length] = isSlow(backend, bench) ? [2, 64] : [8, 128];
  const batch = randomBatch(config.vocabSize, rows, length);
  const own = freshModel(config, tuning);
  const other = freshModel(config, tuning);
  const ours = ourTrainer(own.model, own.trained, batch, LEARNING_RATE);
  const tensors = other.trained.map(({ tensor }) => tensor);
  const stock = stockTrainer(other.model, tensors, batch, LEARNING_RATE);
  await checkSameWork(ours, stock);
  const [ourMs, stockMs] = await interleave([() => ours.step(), () => stock.step()], bench.patience);
  ours.dispose();
  stock.dispose();
  const what = `training step, ${name}, ${tuning === "lora" ? "LoRA" : "full"}, ${rows} x ${length}`;
  const theirs = { name: "stock", spread: spreadOf(stockMs) };
  const target = backend === "wasm" ? 4 : 10;
  return compared({ row: "training", what, ...placeOf(backend, bench) }, "ms", spreadOf(ourMs), theirs, target);
}
