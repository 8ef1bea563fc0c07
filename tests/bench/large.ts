// The shape of DeepSeek-R1-Distill-Qwen-1.5B with random weights, stored small: does it fit the bytes that are planned,
// and how long is a step of LoRA on all its linear maps, layers recomputed?

import { valueWords, type PackedFormat, wordCount } from "../../src/engine/packed.ts";
import { packedFrom } from "../../src/engine/packing.ts";
import { adamW, adamWRates } from "../../src/engine/ops/adamW.ts";
import { record } from "../../src/engine/record.ts";
import { randomBits } from "../../src/engine/random.ts";
import { largestPieceBytes } from "../../src/engine/memory.ts";
import * as tf from "../../src/engine/tf.ts";
import { type ModelConfig, readConfig } from "../../src/formats/hfConfig.ts";
import type { Model } from "../../src/models/decoder.ts";
import { inPieces, type Maker, stackShape } from "../../src/models/storage.ts";
import { buildModelFrom, disposeModel } from "../../src/models/weights.ts";
import { attachLora, loraTensors } from "../../src/training/lora.ts";
import { createOptimizer, DEFAULT_OPTIMIZER, disposeOptimizer } from "../../src/training/optimizer.ts";
import { type MemorySettings, planMemory } from "../../src/training/plan.ts";
import { lossAndGradients } from "../../src/training/accumulate.ts";
import { lossInput } from "../../src/training/loss.ts";
import { activate, type Backend, type Bench, isSlow, placeOf, type Row } from "./bench.ts";
import { exactly, spreadOf } from "./measure.ts";
import { randomBatch } from "./ours.ts";
import { bounded, type Result, told } from "./results.ts";

const RANK = 16;
const MOST_INT4_BYTES = 2.2e9;

export const large: Row = {
  name: "large",
  says: "the 1.5B shape, int4 and int8, LoRA: bytes planned and allocated, a step",
  async *run(bench) {
    for (const backend of bench.backends) {
      await activate(backend);
      for (const storage of ["int4", "int8"] as const) yield* measure(backend, storage, bench);
    }
  },
};

/** In software on WebGPU, and with --quick, a tenth of the layers and short rows show that it runs. */
async function* measure(backend: Backend, storage: PackedFormat, bench: Bench): AsyncGenerator<Result> {
  const whole = !bench.quick && !isSlow(backend, bench);
  const [layers, length] = whole ? [28, 512] : bench.quick ? [1, 8] : [3, 16];
  const config = shape(layers);
  const common = { row: "large", ...placeOf(backend, bench) };
  const what = `1.5B shape, ${layers} of 28 layers, ${storage}, LoRA r ${RANK}, 1 x ${length}, recomputed`;
  const settings: MemorySettings = {
    storage,
    rank: RANK,
    rows: 1,
    length,
    trainedTokens: length,
    batches: 1,
    recompute: true,
  };
  const plan = planMemory(config, settings);
  if (!plan.fits) {
    const note = `${gigabytes(plan.totalBytes)} GB planned, ${gigabytes(plan.budgetBytes)} GB to be had: not run`;
    yield told({ ...common, what: `bytes of the ${what}`, note }, "bytes", exactly(plan.totalBytes));
    return;
  }
  const before = tf.memory().numBytes;
  const model = randomModel(config, storage);
  attachLora(model, { rank: RANK, alpha: RANK, seed: 1 });
  const optimizer = createOptimizer(loraTensors(model), DEFAULT_OPTIMIZER);
  const leaves = optimizer.parameters.map(({ tensor }) => tensor);
  const input = lossInput(randomBatch(config.vocabSize, 1, length));
  const rates = tf.tensor1d(adamWRates(1e-4, 1, DEFAULT_OPTIMIZER));
  const allocatedBefore = tf.memory().numBytes - before;
  const recording = await record(() => {
    const { value, gradients } = lossAndGradients(model, [input], leaves, { recompute: true });
    adamW(optimizer.state, gradients, rates, DEFAULT_OPTIMIZER);
    return value;
  });
  const allocated = allocatedBefore + recording.bytes;
  const note = `${gigabytes(plan.totalBytes)} GB planned, ${gigabytes(allocated)} allocated`;
  const place = { ...common, what: `bytes of the ${what}`, note };
  yield whole && storage === "int4"
    ? bounded(place, "bytes", exactly(allocated), MOST_INT4_BYTES)
    : told(place, "bytes", exactly(allocated));
  yield bounded(
    { ...common, what: `plan's error, ${what}` },
    "%",
    exactly(100 * Math.abs(plan.totalBytes / allocated - 1)),
    10,
  );
  const seconds: number[] = [];
  for (let round = 0; round < (common.device === "gpu" ? 5 : 1); round++) {
    const startedMs = performance.now();
    await recording.replay().data();
    seconds.push((performance.now() - startedMs) / 1000);
  }
  const speeds = seconds.map((one) => length / one);
  yield told(
    { ...common, what: `a step of the ${what}`, note: `${Math.min(...seconds).toFixed(1)} s` },
    "tokens/s",
    spreadOf(speeds),
  );
  recording.dispose();
  tf.dispose([rates, input.ids, input.positions, input.targets, input.weights]);
  disposeOptimizer(optimizer);
  disposeModel(model);
}

function shape(layers: number): ModelConfig {
  return readConfig({
    model_type: "qwen2",
    vocab_size: 151_936,
    hidden_size: 1536,
    num_hidden_layers: layers,
    num_attention_heads: 12,
    num_key_value_heads: 2,
    intermediate_size: 8960,
    max_position_embeddings: 131_072,
    rope_theta: 10_000,
    tie_word_embeddings: false,
  });
}

/** Random words, matrix by matrix: no weight is ever held in float32. */
function randomModel(config: ModelConfig, storage: PackedFormat): Model {
  let stream = 0;
  const matrix = (shape: [number, number]) => {
    const words = new Int32Array(wordCount(storage, shape));
    stream += 1;
    for (let i = 0; i < words.length; i++) words[i] = randomBits(1, stream, i);
    // Uniform integers: their deviation times the scale is 1 / sqrt(inputs).
    const scale = 1 / ((storage === "int4" ? 4.6 : 74) * Math.sqrt(shape[1]));
    new Float32Array(words.buffer, 4 * valueWords(storage, shape)).fill(scale);
    return packedFrom(words, shape, storage);
  };
  const make: Maker = {
    plain: (name, shape) => (name.endsWith("bias") ? tf.zeros(shape) : tf.ones(shape)),
    stacks: (stacks) => stacks.map((stack) => matrix(stackShape(stack))),
    matrix: (_, shape) => matrix(shape),
    table: (_, shape) => inPieces(storage, shape, largestPieceBytes(), (from, to) => matrix([to - from, shape[1]])),
  };
  return buildModelFrom(config, make);
}

function gigabytes(bytes: number): string {
  return (bytes / 1e9).toFixed(2);
}
