// The compiled kernels: the build that this machine runs fastest, fetched and compiled once.

import { withSharedMemory } from "./binary.ts";
import { hasRelaxedSimd } from "./features.ts";
import type { CpuKernels } from "./kernels.ts";
import { ThreadLostError } from "./threads.ts";

let compiled: WebAssembly.Module | null = null;

/** Load the kernels; `shared`: for memory that threads share. Whoever calls them later need not wait. */
export async function loadKernels(shared: boolean): Promise<void> {
  if (compiled) return;
  // The same build for all of a run: where a product and a sum are fused, results differ in the last bit.
  const { default: base64 } = hasRelaxedSimd()
    ? await import("./assembly/kernels.ts?assembly&relaxed")
    : await import("./assembly/kernels.ts?assembly");
  const bytes = Uint8Array.from(atob(base64), (c) => c.charCodeAt(0));
  compiled = await WebAssembly.compile(shared ? withSharedMemory(bytes) : bytes);
}

export function kernelModule(): WebAssembly.Module {
  if (!compiled) throw new Error("The CPU kernels are not loaded: start the wasm backend with startBackend.");
  return compiled;
}

/** The kernels on this memory. */
export function instantiateKernels(module: WebAssembly.Module, memory: WebAssembly.Memory): CpuKernels {
  const { exports } = new WebAssembly.Instance(module, { env: { memory }, threads: { pieceLost } });
  return exports as unknown as CpuKernels;
}

function pieceLost(): never {
  throw new ThreadLostError(
    "A thread ended while it changed tensors in place, so they are spoiled: go on from the last checkpoint",
  );
}
