// Our CPU kernels: AssemblyScript compiled to SIMD WebAssembly, computing in place on the heap of TensorFlow.js's wasm
// backend. Kernels get addresses; nothing is copied.

import type { BackendWasm } from "@tensorflow/tfjs-backend-wasm";
import * as tf from "../tf.ts";
import base64 from "./assembly/kernels.ts?assembly";
import type { CpuKernels } from "./kernels.ts";

interface EmscriptenModule {
  asm: { memory: WebAssembly.Memory };
  _malloc(bytes: number): number;
}

let bound: { backend: BackendWasm; kernels: CpuKernels } | null = null;
let scratch = { address: 0, bytes: 0 };

function backend(): BackendWasm {
  return tf.backend() as BackendWasm;
}

/** The kernels, bound to the active wasm backend's memory. Compiled synchronously the first time (tens of kilobytes). */
export function cpu(): CpuKernels {
  const active = backend();
  if (bound?.backend === active) return bound.kernels;
  const bytes = Uint8Array.from(atob(base64), (c) => c.charCodeAt(0));
  const { memory } = (active.wasm as unknown as EmscriptenModule).asm;
  const instance = new WebAssembly.Instance(new WebAssembly.Module(bytes), { env: { memory } });
  bound = { backend: active, kernels: instance.exports as unknown as CpuKernels };
  scratch = { address: 0, bytes: 0 };
  return bound.kernels;
}

/** Address of a tensor's first byte on the heap. */
export function at(tensor: tf.TensorInfo): number {
  return backend().getMemoryOffset(tensor.dataId);
}

/** A new tensor on the heap, its content undefined. */
export function make(shape: number[], dtype: "float32" | "int32" = "float32"): tf.TensorInfo {
  return backend().makeOutput(shape, dtype);
}

/** A view of a tensor's content; valid until the next allocation, which may move the heap. */
export function view(tensor: tf.TensorInfo): Float32Array | Int32Array {
  return backend().typedArrayFromHeap(tensor) as Float32Array | Int32Array;
}

/** Address of at least `bytes` bytes of working memory, shared by all kernels, undefined content, 16-byte aligned. */
export function workspace(bytes: number): number {
  if (scratch.bytes < bytes) {
    const module = backend().wasm as unknown as EmscriptenModule & { _free(address: number): void };
    if (scratch.bytes > 0) module._free(scratch.address);
    scratch = { address: module._malloc(bytes + 16) >>> 0, bytes };
  }
  return (scratch.address + 15) & ~15;
}
