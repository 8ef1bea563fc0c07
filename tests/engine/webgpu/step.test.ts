// What becomes of a training step when the GPU does not do it; and that a GPU of the least limits does.

import { beforeAll, beforeEach, describe, expect, it } from "vitest";
import { provideWebGpu } from "../../../src/cli/webgpu.ts";
import {
  DeviceLostError,
  findAdapter,
  gpuBackend,
  gpuErrors,
  GpuMemoryError,
  GpuRefusedError,
  startGpu,
} from "../../../src/engine/device.ts";
import { rangeOf } from "../../../src/engine/resources.ts";
import * as tf from "../../../src/engine/tf.ts";
import type { Model } from "../../../src/models/decoder.ts";
import { disposeModel, namedWeights } from "../../../src/models/weights.ts";
import {
  createOptimizer,
  DEFAULT_OPTIMIZER,
  disposeOptimizer,
  type Optimizer,
} from "../../../src/training/optimizer.ts";
import { createStepper } from "../../../src/training/step.ts";
import { FAMILIES, type Family, tinyBatch, tinyModel } from "../../models/tiny.ts";
import { activate } from "../harness.ts";

beforeAll(() => provideWebGpu({ software: true }));

function training(family: Family): { model: Model; optimizer: Optimizer } {
  const model = tinyModel(family);
  const trained = namedWeights(model).filter(({ name }) => !name.endsWith("e_score_correction_bias"));
  return { model, optimizer: createOptimizer(trained, DEFAULT_OPTIMIZER) };
}

async function weightsOf({ parameters, state }: Optimizer): Promise<Buffer> {
  const parts = [];
  for (const tensor of [...parameters.map((parameter) => parameter.tensor), ...state.m, ...state.v]) {
    parts.push(Buffer.from((await tensor.data()).slice().buffer));
  }
  return Buffer.concat(parts);
}

describe("a step that the GPU", () => {
  beforeEach(async () => {
    await activate("webgpu");
    await startGpu((await findAdapter())!); // A fresh device: the tests spoil theirs.
  });

  it("refuses is told, and nothing of it was done", async () => {
    const { model, optimizer } = training("deepseek");
    const stepper = createStepper(model, optimizer);
    await stepper.step([tinyBatch(model)], { learningRate: 0.01 });
    const before = await weightsOf(optimizer);
    // A buffer of the step's vanishes under it.
    const { buffer } = rangeOf(gpuBackend().resourceOf(model.rope.cos));
    buffer.destroy();
    await expect(stepper.step([tinyBatch(model, 1)], { learningRate: 0.01 })).rejects.toThrow(GpuRefusedError);
    await expect(stepper.step([tinyBatch(model, 1)], { learningRate: 0.01 })).rejects.toThrow(
      /step 2, and nothing of it was done/,
    );
    expect((await weightsOf(optimizer)).equals(before)).toBe(true);
    expect(optimizer.step).toBe(1);
    stepper.dispose();
    disposeOptimizer(optimizer);
    disposeModel(model);
  });

  it("does is seen by whoever has read the weights and moments before", async () => {
    const { model, optimizer } = training("qwen2");
    const stepper = createStepper(model, optimizer);
    const read: Buffer[] = [];
    for (let step = 0; step < 3; step++) {
      await stepper.step([tinyBatch(model)], { learningRate: 0.01 });
      if (step !== 1) read.push(await weightsOf(optimizer));
    }
    for (const { dataId } of [
      ...optimizer.parameters.map(({ tensor }) => tensor),
      ...optimizer.state.m,
      ...optimizer.state.v,
    ]) {
      gpuBackend().forgetCopy({ dataId });
    }
    expect(read[1].equals(read[0])).toBe(false);
    expect(read[1].equals(await weightsOf(optimizer))).toBe(true);
    stepper.dispose();
    disposeOptimizer(optimizer);
    disposeModel(model);
  });

  it("has no room for is told before anything is done", async () => {
    const { model, optimizer } = training("qwen2");
    const before = await weightsOf(optimizer);
    const stepper = createStepper(model, optimizer);
    const { device } = gpuBackend();
    const pop = device.popErrorScope.bind(device);
    device.popErrorScope = async () => {
      await pop();
      return new GPUOutOfMemoryError("no room"); // Filling a real GPU's memory would take the machine with it.
    };
    try {
      await expect(stepper.step([tinyBatch(model)], { learningRate: 0.01 })).rejects.toThrow(GpuMemoryError);
    } finally {
      device.popErrorScope = pop;
    }
    expect((await weightsOf(optimizer)).equals(before)).toBe(true);
    expect(optimizer.step).toBe(0);
    stepper.dispose();
    disposeOptimizer(optimizer);
    disposeModel(model);
  });

  it("is lost in is told as the loss of the device", async () => {
    const { model, optimizer } = training("qwen2");
    const stepper = createStepper(model, optimizer);
    await stepper.step([tinyBatch(model)], { learningRate: 0.01 });
    gpuBackend().device.destroy();
    await expect(stepper.step([tinyBatch(model)], { learningRate: 0.01 })).rejects.toThrow(DeviceLostError);
    expect(optimizer.step).toBe(1);
  });
});

describe("a step whose launches share dispatches", () => {
  it.each(FAMILIES)("gives a %s the bits of one whose launches go one by one", async (family) => {
    await activate("webgpu");
    await startGpu((await findAdapter())!);
    const ends: Buffer[] = [];
    for (const merging of [true, false]) {
      gpuBackend().merging = merging;
      const { model, optimizer } = training(family);
      const stepper = createStepper(model, optimizer);
      for (let step = 0; step < 2; step++) await stepper.step([tinyBatch(model)], { learningRate: 0.01 });
      ends.push(await weightsOf(optimizer));
      stepper.dispose();
      disposeOptimizer(optimizer);
      disposeModel(model);
    }
    expect(Buffer.compare(ends[0], ends[1])).toBe(0);
  });
});

/** WebGPU's default limits: what every device has. */
const LEAST = {
  maxBufferSize: 2 ** 28,
  maxStorageBufferBindingSize: 2 ** 27,
  maxStorageBuffersPerShaderStage: 8,
  maxComputeWorkgroupStorageSize: 16384,
  maxComputeInvocationsPerWorkgroup: 256,
  maxComputeWorkgroupSizeX: 256,
  maxComputeWorkgroupSizeY: 256,
  maxComputeWorkgroupsPerDimension: 65535,
};

describe("a GPU of the least limits, without any feature", () => {
  it.each(FAMILIES)("trains a %s", async (family) => {
    const adapter = (await findAdapter())!;
    await startGpu({
      info: adapter.info,
      limits: LEAST,
      features: new Set(),
      requestDevice: (wanted: GPUDeviceDescriptor) => adapter.requestDevice(wanted),
    } as unknown as GPUAdapter);
    expect(gpuBackend().device.limits.maxStorageBuffersPerShaderStage).toBe(8);
    gpuBackend().merging = true;
    tf.env().set("WEBGPU_CPU_FORWARD", false);
    const errors = gpuErrors().count;
    const { model, optimizer } = training(family);
    const stepper = createStepper(model, optimizer);
    const losses = [];
    for (let step = 0; step < 4; step++)
      losses.push((await stepper.step([tinyBatch(model)], { learningRate: 0.01 })).loss);
    expect(losses.at(-1)).toBeLessThan(losses[0]);
    expect(gpuErrors().count).toBe(errors);
    stepper.dispose();
    disposeOptimizer(optimizer);
    disposeModel(model);
  });
});
