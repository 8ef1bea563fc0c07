// How many dispatches a step takes on WebGPU, ours and stock, counted where both pass: at WebGPU's own methods. A layer's
// share is what one layer more adds.

import { gpuBackend } from "../../src/engine/device.ts";
import { valueAndGradients } from "../../src/engine/gradients.ts";
import { headLoss } from "../../src/engine/ops/headLoss.ts";
import { record } from "../../src/engine/record.ts";
import * as tf from "../../src/engine/tf.ts";
import type { DeepSeekConfig } from "../../src/formats/hfConfig.ts";
import { headWeight, hiddenStates, languageModelLoss } from "../../src/models/decoder.ts";
import { disposeModel } from "../../src/models/weights.ts";
import { lossInput } from "../../src/training/loss.ts";
import { activate, placeOf, type Row } from "./bench.ts";
import { countCalls } from "./calls.ts";
import { freshModel, ourTrainer, randomBatch, type Trainer, type Tuning } from "./ours.ts";
import { counted, type Result } from "./results.ts";
import { ONE_MILLION, withLayers } from "./shapes.ts";
import { asVariables, lossFrom, stockLoss, stockTrainer } from "./stock.ts";
import { stockHiddenStates } from "./stockModel.ts";

const [ROWS, LENGTH] = [2, 32];

/** Dispatches of a model of so many layers. */
interface Counts {
  forward: number;
  /** Loss and gradients. */
  gradients: number;
  /** The loss and its gradients from hidden states at hand. */
  loss: number;
  step: number;
}

export const dispatches: Row = {
  name: "dispatches",
  says: "dispatches of a step on WebGPU, by part, against stock operations",
  async *run(bench) {
    if (!bench.backends.includes("webgpu")) return;
    await activate("webgpu");
    gpuBackend().merging = true; // As real GPUs do, whatever this one is.
    const place = placeOf("webgpu", bench);
    const base = ONE_MILLION as DeepSeekConfig;
    const dense: DeepSeekConfig = { ...base, firstKDenseReplace: base.numHiddenLayers + 1 };
    for (const tuning of bench.quick ? (["lora"] as const) : (["lora", "full"] as const)) {
      const say = (part: string, ours: number, stock: number, most: number | null): Result => {
        const what = `dispatches, 1M, ${tuning === "lora" ? "LoRA" : "full"}: ${part}`;
        return counted({ row: "dispatches", what, ...place }, ours, { name: "stock", count: stock }, most);
      };
      const kinds: [string, DeepSeekConfig][] = [
        ["an expert layer", base],
        ["a dense layer", dense],
      ];
      for (const [kind, config] of bench.quick ? kinds.slice(0, 1) : kinds) {
        const [ours, stock] = await bothOf(config, tuning, config.numHiddenLayers);
        const [ourMore, stockMore] = await bothOf(config, tuning, config.numHiddenLayers + 1);
        yield say(`${kind} forward`, ourMore.forward - ours.forward, stockMore.forward - stock.forward, 12);
        const [own, other] = [ourMore.gradients - ours.gradients, stockMore.gradients - stock.gradients];
        yield say(`${kind} forward and backward`, own, other, 30);
        if (config === dense) continue;
        const rest = ({ loss, step, gradients }: Counts) => loss + step - gradients;
        yield say("loss and optimizer", rest(ours), rest(stock), 6);
        yield say(`the step, ${config.numHiddenLayers} layers`, ours.step, stock.step, null);
      }
    }
  },
};

async function bothOf(config: DeepSeekConfig, tuning: Tuning, layers: number): Promise<[Counts, Counts]> {
  const sized = withLayers(config, layers) as DeepSeekConfig;
  return [await oursOf(sized, tuning), await stockOf(sized, tuning)];
}

async function oursOf(config: DeepSeekConfig, tuning: Tuning): Promise<Counts> {
  const batch = randomBatch(config.vocabSize, ROWS, LENGTH);
  const { model, trained } = freshModel(config, tuning);
  const input = lossInput(batch);
  const h = tf.zeros([batch.positions.length, config.hiddenSize]);
  const leaves = trained.map(({ tensor }) => tensor);
  const headLeaves = tuning === "full" ? [h, headWeight(model) as tf.Tensor] : [h];
  const gradientsOf = (loss: () => tf.Scalar, of: tf.Tensor[]) => () => {
    const { value, gradients } = valueAndGradients(loss, of);
    return [value, ...gradients];
  };
  const counts = {
    forward: await replayed(() => hiddenStates(model, input)),
    gradients: await replayed(gradientsOf(() => languageModelLoss(model, input), leaves)),
    loss: await replayed(gradientsOf(() => headLoss(h, headWeight(model), input.targets, input.weights), headLeaves)),
  };
  tf.dispose([h, ...Object.values(input)]);
  return { ...counts, step: await secondStep(ourTrainer(model, trained, batch, 1e-3)) };
}

/** Dispatches of a replay of what `f` records. */
async function replayed(f: () => tf.TensorContainer): Promise<number> {
  const recording = await record(f);
  const calls = await countCalls(async () => recording.replay());
  recording.dispose();
  return calls.dispatches;
}

async function stockOf(config: DeepSeekConfig, tuning: Tuning): Promise<Counts> {
  const batch = randomBatch(config.vocabSize, ROWS, LENGTH);
  const { model, trained } = freshModel(config, tuning);
  const variables = asVariables(model, new Set(trained.map(({ tensor }) => tensor)));
  const ids = tf.tensor2d(batch.ids, [ROWS, LENGTH], "int32");
  const targets = tf.tensor1d(batch.targets, "int32");
  const h = tf.zeros([ROWS * LENGTH, config.hiddenSize]);
  const [head] = variables.filter((variable) => variable === model.embedTokens);
  const counts = {
    forward: await dispatched(() => stockHiddenStates(model, ids).hidden),
    gradients: await dispatched(() =>
      Object.values(tf.variableGrads(() => stockLoss(model, ids, targets), variables).grads),
    ),
    loss: await dispatched(() => tf.grads((x, _head) => lossFrom(model, x!, targets))(head ? [h, head] : [h])),
  };
  tf.dispose([ids, targets, h]);
  disposeModel(model);
  const again = freshModel(config, tuning);
  const tensors = again.trained.map(({ tensor }) => tensor);
  return { ...counts, step: await secondStep(stockTrainer(again.model, tensors, batch, 1e-3)) };
}

async function dispatched(f: () => tf.TensorContainer): Promise<number> {
  const calls = await countCalls(async () => tf.dispose(tf.tidy(f)));
  return calls.dispatches;
}

/** Dispatches of a trainer's second step: the first one may prepare. It is disposed of. */
async function secondStep(trainer: Trainer): Promise<number> {
  await trainer.step();
  const calls = await countCalls(() => trainer.step());
  trainer.dispose();
  return calls.dispatches;
}
