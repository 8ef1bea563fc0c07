// The GPU: its adapter and device, what it can do, its errors, its loss. TensorFlow.js computes on our device, because
// the one it makes for itself asks for too little and listens to nothing.

import type { GpuBackend } from "./gpuBackend.ts";
import * as tf from "./tf.ts";

export interface AdapterFacts {
  /** For people: "nvidia turing", "SwiftShader (software)". */
  description: string;
  /** Computed by the processor: tens of times slower than WebAssembly on the same processor. */
  software: boolean;
}

/** What went wrong on the GPU since the page was loaded, none of which TensorFlow.js reports. */
export interface GpuErrors {
  count: number;
  latest: string | null;
}

/** The GPU is gone (reset, unplugged, put to sleep, out of memory for too long); what lay on it is gone with it. */
export class DeviceLostError extends Error {
  override name = "DeviceLostError";
}

/** The GPU has no room for what was asked. */
export class GpuMemoryError extends Error {
  override name = "GpuMemoryError";
}

/** The GPU refused work; of what was handed over with it nothing was done. */
export class GpuRefusedError extends Error {
  override name = "GpuRefusedError";
}

const errors: GpuErrors = { count: 0, latest: null };
const lossListeners = new Set<(reason: string) => void>();

/** The best adapter of this machine; null where there is none, or no WebGPU at all. */
export async function findAdapter(): Promise<GPUAdapter | null> {
  const gpu = (globalThis.navigator as Navigator | undefined)?.gpu;
  return (await gpu?.requestAdapter({ powerPreference: "high-performance" })) ?? null;
}

export function adapterFacts(adapter: GPUAdapter): AdapterFacts {
  const { vendor, architecture, device, description } = adapter.info;
  const words = [description, vendor, architecture, device].join(" ");
  const flagged = adapter.info.isFallbackAdapter || (adapter as { isFallbackAdapter?: boolean }).isFallbackAdapter;
  const software = flagged === true || /swiftshader|llvmpipe|lavapipe|softpipe|basic render|\bwarp\b/i.test(words);
  const name = /swiftshader/i.test(words)
    ? "SwiftShader"
    : description || [vendor, architecture].filter(Boolean).join(" ") || "GPU";
  return { description: software ? `${name} (software)` : name, software };
}

/**
 * Make `adapter`'s device the one TensorFlow.js computes on, as backend "webgpu", and make that backend the active one.
 *
 * Also the way back after a loss: tensors of the device before are lost and must be made anew.
 */
export async function startGpu(adapter: GPUAdapter): Promise<void> {
  const device = await requestDevice(adapter);
  const { GpuBackend } = await import("./gpuBackend.ts"); // Half a megabyte that a machine without a GPU never loads.
  const backend = new GpuBackend(device, adapter.info, adapterFacts(adapter).software);
  device.addEventListener("uncapturederror", (event) => reportGpuError(event.error.message));
  void device.lost.then((info) => {
    if (backend.stopped) return; // We let go of it ourselves.
    backend.lostBecause = info.message || info.reason || "no reason given";
    for (const listener of lossListeners) listener(backend.lostBecause);
  });
  stopGpu(); // Importing the backend has also registered its own factory under this name.
  tf.registerBackend("webgpu", () => backend, 3);
  await tf.setBackend("webgpu");
}

/** Let go of the device and of everything on it. */
export function stopGpu(): void {
  if ("webgpu" in tf.engine().registryFactory) tf.removeBackend("webgpu");
}

/** The active backend as ours. */
export function gpuBackend(): GpuBackend {
  return tf.backend() as GpuBackend;
}

/** Whether the active GPU computes on the processor: barriers are slow there. */
export function softwareGpu(): boolean {
  return gpuBackend().software;
}

/** The device's error count and latest message. Whoever reads results back compares the count with the one before. */
export function gpuErrors(): Readonly<GpuErrors> {
  return { ...errors };
}

/** Do `work` and fail with a GpuRefusedError, made of the sentence that `tell` gives, if the GPU reported an error meanwhile. */
export async function watchingErrors<T>(work: () => Promise<T>, tell: (latest: string) => string): Promise<T> {
  const before = errors.count;
  const result = await work();
  if (errors.count > before) throw new GpuRefusedError(tell(errors.latest ?? "no reason given"));
  return result;
}

/** Count an error that the GPU told somebody else about (an error scope, say). */
export function reportGpuError(message: string): void {
  errors.count++;
  errors.latest = message;
  console.error(`GPU: ${message}`);
}

/** Be told when the device is lost, and why. Returns how to stop being told. */
export function onDeviceLost(listener: (reason: string) => void): () => void {
  lossListeners.add(listener);
  return () => lossListeners.delete(listener);
}

/**
 * Do `work` and fail with a GpuMemoryError if the GPU could not allocate what it needed (WebGPU alone would go on and
 * compute with nothing). On other backends `work` is just done. One at a time: error scopes are a stack.
 */
export async function withinMemory<T>(work: () => T | Promise<T>): Promise<T> {
  if (tf.getBackend() !== "webgpu") return work();
  const { device } = gpuBackend();
  device.pushErrorScope("out-of-memory");
  let result: T;
  try {
    result = await work();
  } catch (error) {
    await device.popErrorScope();
    throw error;
  }
  const error = await device.popErrorScope();
  if (error) throw new GpuMemoryError(`The GPU ran out of memory: ${error.message}`);
  return result;
}

const WANTED_FEATURES: GPUFeatureName[] = ["shader-f16", "subgroups", "timestamp-query"];

/** Limits of which more is better. TensorFlow.js leaves the number of storage buffers at its default. */
const WANTED_LIMITS = [
  "maxBufferSize",
  "maxStorageBufferBindingSize",
  "maxStorageBuffersPerShaderStage",
  "maxComputeWorkgroupStorageSize",
  "maxComputeInvocationsPerWorkgroup",
  "maxComputeWorkgroupSizeX",
  "maxComputeWorkgroupSizeY",
  "maxComputeWorkgroupsPerDimension",
] as const;

async function requestDevice(adapter: GPUAdapter): Promise<GPUDevice> {
  return adapter.requestDevice({
    requiredFeatures: WANTED_FEATURES.filter((feature) => adapter.features.has(feature)),
    requiredLimits: Object.fromEntries(WANTED_LIMITS.map((limit) => [limit, adapter.limits[limit]])),
  });
}
