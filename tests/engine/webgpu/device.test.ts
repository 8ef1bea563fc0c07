// Choosing a backend, and what becomes of a GPU that fails.

import { readFileSync } from "node:fs";
import { beforeAll, describe, expect, it } from "vitest";
import { provideWebGpu } from "../../../src/cli/webgpu.ts";
import { startBackend } from "../../../src/engine/backend.ts";
import {
  adapterFacts,
  DeviceLostError,
  findAdapter,
  gpuBackend,
  gpuErrors,
  GpuMemoryError,
  onDeviceLost,
  startGpu,
  withinMemory,
} from "../../../src/engine/device.ts";
import { swiGlu } from "../../../src/engine/ops/swiGlu.ts";
import * as tf from "../../../src/engine/tf.ts";
import { activate, normal, toTensor } from "../harness.ts";

const WASM_FILE = "node_modules/@tensorflow/tfjs-backend-wasm/dist/tfjs-backend-wasm-simd.wasm";
const wasmUrl = `data:application/wasm;base64,${readFileSync(WASM_FILE).toString("base64")}`;

beforeAll(() => provideWebGpu({ software: true }));

describe("an adapter", () => {
  const info = { vendor: "", architecture: "", device: "", description: "", isFallbackAdapter: false };
  const adapter = (facts: Partial<typeof info>) => ({ info: { ...info, ...facts } }) as unknown as GPUAdapter;

  it.each([
    [{ vendor: "nvidia", architecture: "turing" }, "nvidia turing"],
    [{ vendor: "apple", architecture: "metal-3", description: "Apple M2" }, "Apple M2"],
    [{}, "GPU"],
  ])("of real hardware is called what it says: %o", (facts, description) => {
    expect(adapterFacts(adapter(facts))).toEqual({ description, software: false });
  });

  it.each([
    [{ vendor: "google", architecture: "swiftshader" }, "SwiftShader (software)"],
    [
      { vendor: "mesa", description: "llvmpipe (LLVM 15.0.6, 256 bits)" },
      "llvmpipe (LLVM 15.0.6, 256 bits) (software)",
    ],
    [{ vendor: "microsoft", description: "Microsoft Basic Render Driver" }, "Microsoft Basic Render Driver (software)"],
    [{ vendor: "someone", isFallbackAdapter: true }, "someone (software)"],
  ])("that computes on the processor is known as such: %o", (facts, description) => {
    expect(adapterFacts(adapter(facts))).toEqual({ description, software: true });
  });
});

describe("startBackend", () => {
  it("takes WebAssembly where the only adapter is a software one, and says so", async () => {
    const adapter = (await findAdapter())!;
    const choice = await startBackend({ wasmUrl });
    if (!adapterFacts(adapter).software) return expect(choice.name).toBe("webgpu"); // A machine with a GPU.
    expect(choice).toEqual({
      name: "wasm",
      device: "CPU (SIMD)",
      reason: "the only GPU adapter is SwiftShader (software), on which WebAssembly is faster",
    });
  });

  it("takes WebAssembly where there is no WebGPU, and fails if the GPU was asked for", async () => {
    const { gpu } = navigator;
    Object.defineProperty(navigator, "gpu", { value: undefined, configurable: true });
    try {
      expect(await startBackend({ wasmUrl })).toMatchObject({ name: "wasm", reason: /no GPU that WebGPU can use/ });
      await expect(startBackend({ prefer: "webgpu", wasmUrl })).rejects.toThrow(
        /webgpu was asked for and cannot be had/,
      );
    } finally {
      Object.defineProperty(navigator, "gpu", { value: gpu, configurable: true });
    }
  });

  it("takes what it is asked for", async () => {
    for (const prefer of ["cpu", "wasm", "webgpu", "wasm"] as const) {
      expect(await startBackend({ prefer, wasmUrl })).toMatchObject({ name: prefer, reason: "it was asked for" });
      expect(tf.getBackend()).toBe(prefer);
    }
  });
});

describe("the GPU", () => {
  beforeAll(() => activate("webgpu"));

  it("has the limits and features of its adapter, of which TensorFlow.js would ask for fewer", async () => {
    const adapter = (await findAdapter())!;
    const { device } = gpuBackend();
    expect(device.limits.maxStorageBuffersPerShaderStage).toBe(adapter.limits.maxStorageBuffersPerShaderStage);
    expect(device.limits.maxStorageBufferBindingSize).toBe(adapter.limits.maxStorageBufferBindingSize);
    for (const feature of ["shader-f16", "subgroups", "timestamp-query"] as const) {
      expect(device.features.has(feature)).toBe(adapter.features.has(feature));
    }
  });

  it("counts its errors", async () => {
    const before = gpuErrors().count;
    gpuBackend().device.createBuffer({ size: 4, usage: GPUBufferUsage.MAP_READ | GPUBufferUsage.STORAGE });
    await gpuBackend().queue.onSubmittedWorkDone();
    expect(gpuErrors()).toMatchObject({ count: before + 1, latest: /MapRead|usage/i });
  });

  it("says when it has run out of memory", async () => {
    const { device } = gpuBackend();
    expect(await withinMemory(() => 5)).toBe(5);
    const pop = device.popErrorScope.bind(device);
    device.popErrorScope = async () => {
      await pop();
      return new GPUOutOfMemoryError("no room"); // Filling a real GPU's memory would take the machine with it.
    };
    await expect(withinMemory(() => 5)).rejects.toThrow(GpuMemoryError);
    device.popErrorScope = pop;
    await expect(withinMemory(() => Promise.reject(new Error("other")))).rejects.toThrow("other");
  });

  it("that is lost, on which all would seem to work, fails at the next operation and read, and can be started anew", async () => {
    const before = await compute();
    const y = tf.tensor1d([1, 2]).add(1);
    const reasons: string[] = [];
    const stopListening = onDeviceLost((reason) => reasons.push(reason));
    const { device } = gpuBackend();
    device.destroy();
    await device.lost;
    expect(reasons).toHaveLength(1);
    await expect(y.data()).rejects.toThrow(DeviceLostError);
    await expect(compute()).rejects.toThrow(DeviceLostError);
    expect(() => tf.tensor1d([1]).add(1)).toThrow(/Start again from the last checkpoint/);

    await startGpu((await findAdapter())!);
    expect(await compute()).toEqual(before);
    stopListening();
  });
});

async function compute(): Promise<number[]> {
  const [gate, up] = [toTensor(normal([3, 5], 1)), toTensor(normal([3, 5], 2))];
  return [...(await swiGlu(gate, up).data())];
}
