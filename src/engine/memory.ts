// What the device has room for, and how much memory a step would take: found out by going through it without computing or
// allocating anything.

import { gpuBackend } from "./device.ts";
import { note } from "./record.ts";
import { type NotedLaunch, PlannedBuffer, type Resource } from "./resources.ts";
import * as tf from "./tf.ts";
import { beginRehearsal, endRecording, makePhantom } from "./wasm/heap.ts";

/** Most bytes of one tensor. */
export function largestPieceBytes(): number {
  if (tf.getBackend() !== "webgpu") return 2 ** 31; // Kernels on the heap count elements and rows in 31 bits.
  const { maxStorageBufferBindingSize, maxBufferSize } = gpuBackend().device.limits;
  return Math.min(maxStorageBufferBindingSize, maxBufferSize);
}

/** Bytes for everything together, as far as it can be known: the heap ends at 4 GiB; of a GPU's memory nobody tells. */
export function memoryBudgetBytes(): number {
  return tf.getBackend() === "wasm" ? 2 ** 32 - HEAP_RESERVE_BYTES : Infinity;
}

const HEAP_RESERVE_BYTES = 128 * 2 ** 20; // Code, stack, and what a heap loses between tensors.

/** Give back what the device's pool holds and nobody uses: between two stages, whose tensors differ in size. */
export function giveBackMemory(): void {
  if (tf.getBackend() === "webgpu") gpuBackend().trimPool();
}

/** A tensor of this shape without memory. Rehearsals may read it, nothing else. */
export function phantom(shape: number[], dtype: "float32" | "int32" = "float32"): tf.Tensor {
  const info = tf.getBackend() === "wasm" ? makePhantom(shape, dtype) : gpuBackend().makeTensorInfo(shape, dtype);
  return tf.engine().makeTensorFromTensorInfo(info);
}

/**
 * Most bytes that the results of `f` and of what it computes on the way take at a time, as `record` would lay them out;
 * `f` reads phantoms, which are not counted. On WebGPU and WebAssembly.
 */
export function rehearse(f: () => tf.TensorContainer, phantoms: tf.Tensor[]): number {
  switch (tf.getBackend()) {
    case "wasm":
      return onHeap(f);
    case "webgpu":
      return onGpu(f, phantoms);
    default:
      throw new Error(`Memory is planned on wasm and webgpu; the backend is ${tf.getBackend()}, which needs no plan.`);
  }
}

function onHeap(f: () => tf.TensorContainer): number {
  beginRehearsal();
  let bytes = 0;
  try {
    note(f).dispose();
  } finally {
    bytes = endRecording().bytes;
  }
  return bytes;
}

function onGpu(f: () => tf.TensorContainer, phantoms: tf.Tensor[]): number {
  const backend = gpuBackend();
  backend.beginRecording();
  let results: Resource[] = [];
  let launches: NotedLaunch[];
  try {
    const { outputs, dispose } = note(f);
    results = tf.tensor_util.getTensorsInContainer(outputs).map((tensor) => backend.resourceOf(tensor));
    dispose();
  } finally {
    launches = backend.endRecording();
  }
  const apart = new Set([...results, ...phantoms.map((tensor) => backend.resourceOf(tensor))]);
  const resultBytes = [...new Set(results)].reduce((sum, { size }) => sum + size, 0);
  return resultBytes + sharedBytes(launches, apart);
}

/** Bytes of the buffers that planBuffers makes, where there are none yet. */
function sharedBytes(noted: NotedLaunch[], apart: Set<unknown>): number {
  const uses = new Map<PlannedBuffer, { first: number; last: number }>();
  noted.forEach(({ resources }, i) => {
    for (const resource of resources) {
      if (!(resource instanceof PlannedBuffer) || apart.has(resource)) continue;
      const use = uses.get(resource);
      if (use) use.last = i;
      else uses.set(resource, { first: i, last: i });
    }
  });
  const buffers: { size: number; uses: { first: number; last: number }[] }[] = [];
  for (const [{ size }, use] of [...uses].toSorted(([a], [b]) => b.size - a.size)) {
    const free = buffers.filter((one) => one.uses.every(({ first, last }) => last < use.first || first > use.last));
    const smallest = free.toSorted((a, b) => a.size - b.size)[0];
    if (smallest) smallest.uses.push(use);
    else buffers.push({ size, uses: [use] });
  }
  return buffers.reduce((sum, { size }) => sum + size, 0);
}
