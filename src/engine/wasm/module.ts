// The compiled kernels: the build that this machine runs fastest, fetched and compiled once.

import { withSharedMemory } from "./binary.ts";
import { hasRelaxedSimd } from "./features.ts";

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
