// Whole models on the GPU: everything between our kernels (TensorFlow.js's own operations, the tape, memory) included.

import { describe, expect, it } from "vitest";
import { gpuErrors } from "../../../src/engine/device.ts";
import * as tf from "../../../src/engine/tf.ts";
import { generate } from "../../../src/models/generate.ts";
import { disposeModel, namedWeights } from "../../../src/models/weights.ts";
import { createOptimizer, DEFAULT_OPTIMIZER, disposeOptimizer } from "../../../src/training/optimizer.ts";
import { trainStep } from "../../training/trainStep.ts";
import { FAMILIES, type Family, tinyBatch, tinyIds, tinyModel } from "../../models/tiny.ts";
import { activate } from "../harness.ts";

interface Run {
  losses: number[];
  replies: number[][];
  /** Tensors more at the end than at the start. */
  left: number;
}

/** Train a few steps, then continue two prompts of different lengths. */
async function run(family: Family, backend: "wasm" | "webgpu"): Promise<Run> {
  await activate(backend);
  const before = tf.memory().numTensors;
  const model = tinyModel(family);
  const trained = namedWeights(model).filter(({ name }) => !name.endsWith("e_score_correction_bias"));
  const optimizer = createOptimizer(trained, DEFAULT_OPTIMIZER);
  const losses: number[] = [];
  for (let step = 0; step < 5; step++) losses.push(await trainStep(model, optimizer, tinyBatch(model, step % 2), 0.01));
  const prompts = tinyIds(model, [5, 3]).map((ids) => Int32Array.from(ids));
  const replies = await generate(model, prompts, { maxNewTokens: 4, eosTokenId: -1 });
  disposeOptimizer(optimizer);
  disposeModel(model);
  return { losses, replies: replies.map((reply) => [...reply]), left: tf.memory().numTensors - before };
}

describe.each(FAMILIES)("a %s on webgpu", (family) => {
  it("learns and answers as on wasm, the same bits every time, without errors and without leaving tensors", async () => {
    const onWasm = await run(family, "wasm");
    const errorsBefore = gpuErrors().count;
    const onGpu = await run(family, "webgpu");
    for (const [step, loss] of onGpu.losses.entries()) {
      expect(Math.abs(loss / onWasm.losses[step] - 1), `step ${step}`).toBeLessThan(1e-4);
    }
    expect(onGpu.replies).toEqual(onWasm.replies);
    expect(onGpu.left).toBe(0);
    expect(await run(family, "webgpu")).toEqual(onGpu);
    expect(gpuErrors().count).toBe(errorsBefore);
  });
});
