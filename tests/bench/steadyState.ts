// The steady state of training: what JavaScript takes of a step, and whether two hundred steps leave memory as it was.

import type { BackendWasm } from "@tensorflow/tfjs-backend-wasm";
import { gpuBackend } from "../../src/engine/device.ts";
import * as tf from "../../src/engine/tf.ts";
import { activate, type Backend, type Bench, isSlow, placeOf, type Row } from "./bench.ts";
import { countCalls } from "./calls.ts";
import { exactly, spreadOf } from "./measure.ts";
import { freshModel, ourTrainer, randomBatch, type Trainer } from "./ours.ts";
import { bounded, type Result, told } from "./results.ts";
import { ONE_MILLION } from "./shapes.ts";

export const steadyState: Row = {
  name: "steady",
  says: "JavaScript's share of a step, and memory over 200 steps",
  async *run(bench) {
    for (const backend of bench.backends) {
      await activate(backend);
      if (backend === "webgpu") yield* javaScriptShare(bench);
      yield await growth(backend, bench);
    }
  },
};

/** Until the step's last submit returns JavaScript works; from there on to the loss it waits. */
async function* javaScriptShare(bench: Bench): AsyncGenerator<Result> {
  const [rows, length] = isSlow("webgpu", bench) ? [2, 64] : [8, 128];
  const trainer = trainerOf(rows, length);
  await trainer.step();
  await trainer.step();
  const shares: number[] = [];
  const made: number[] = [];
  for (let step = 0; step < (bench.quick ? 2 : 10); step++) {
    const startedMs = performance.now();
    const calls = await countCalls(() => trainer.step());
    shares.push((100 * (calls.submittedMs - startedMs)) / (performance.now() - startedMs));
    made.push(calls.bindGroups + calls.buffers + calls.pipelines);
  }
  trainer.dispose();
  const common = { row: "steady", ...placeOf("webgpu", bench) };
  const what = `JavaScript's share of a step, 1M, LoRA, ${rows} x ${length}`;
  const share = spreadOf(shares);
  yield common.device === "gpu"
    ? bounded({ ...common, what }, "%", share, 15)
    : told({ ...common, what, note: "judged on a GPU" }, "%", share);
  const objects = `bind groups, buffers and pipelines made in a step (one buffer reads the loss back)`;
  yield bounded({ ...common, what: objects }, "", spreadOf(made), 1);
}

async function growth(backend: Backend, bench: Bench): Promise<Result> {
  const steps = bench.quick ? 20 : 200;
  const trainer = trainerOf(1, 16);
  for (let step = 0; step < 3; step++) await trainer.step();
  const before = allocatedBytes(backend);
  for (let step = 0; step < steps; step++) await trainer.step();
  const grown = allocatedBytes(backend) - before;
  trainer.dispose();
  const what = `bytes allocated by ${steps} steps, 1M, LoRA, 1 x 16`;
  return bounded({ row: "steady", what, ...placeOf(backend, bench) }, "bytes", exactly(grown), 0);
}

function trainerOf(rows: number, length: number): Trainer {
  const { model, trained } = freshModel(ONE_MILLION, "lora");
  return ourTrainer(model, trained, randomBatch(ONE_MILLION.vocabSize, rows, length), 1e-3);
}

/** What TensorFlow.js counts, and what the backend has taken from the GPU or of WebAssembly's memory. */
function allocatedBytes(backend: Backend): number {
  const { numBytes } = tf.memory();
  if (backend === "webgpu") return numBytes + gpuBackend().bufferManager.numBytesAllocated;
  const { wasm } = tf.backend() as BackendWasm;
  return numBytes + (wasm as unknown as { HEAPU8: Uint8Array }).HEAPU8.length;
}
