// Which backend computes: WebGPU on a real GPU; else WebAssembly; else plain JavaScript.

import "@tensorflow/tfjs-backend-cpu";
import { setWasmPaths } from "@tensorflow/tfjs-backend-wasm";
import * as tf from "./tf.ts";

export type BackendName = "webgpu" | "wasm" | "cpu";

export interface BackendChoice {
  name: BackendName;
  /** What computes, for people: the adapter's description, or the processor's feature in use. */
  device: string;
  /** Why this one, in one sentence. */
  reason: string;
}

export interface BackendRequest {
  /** Take this one and fail if it cannot be had; without it the best for this machine. */
  prefer?: BackendName;
  /** URL of tfjs-backend-wasm-simd.wasm (a data: URL will do where there is no server). */
  wasmUrl: string;
}

/** Start the backend and make it the active one. */
export async function startBackend({ prefer, wasmUrl }: BackendRequest): Promise<BackendChoice> {
  if (prefer !== "cpu") {
    const names = ["tfjs-backend-wasm.wasm", "tfjs-backend-wasm-simd.wasm", "tfjs-backend-wasm-threaded-simd.wasm"];
    setWasmPaths(Object.fromEntries(names.map((name) => [name, wasmUrl])), true); // It wants all three named.
    tf.env().set("WASM_HAS_MULTITHREAD_SUPPORT", false); // Its threads start from blob URLs, which our CSP forbids.
    if (await tf.setBackend("wasm")) {
      return { name: "wasm", device: "CPU (SIMD)", reason: "no GPU was asked for" };
    }
  }
  await tf.setBackend("cpu");
  return { name: "cpu", device: "CPU (JavaScript)", reason: "WebAssembly with SIMD could not be started" };
}
