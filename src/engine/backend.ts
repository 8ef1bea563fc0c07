// Which backend computes: WebGPU on a real GPU; else WebAssembly; else plain JavaScript.

import "@tensorflow/tfjs-backend-cpu";
import { setWasmPaths } from "@tensorflow/tfjs-backend-wasm";
import { adapterFacts, findAdapter, startGpu } from "./device.ts";
import * as tf from "./tf.ts";
import "./wasm/stock.ts";

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
  const asked = "it was asked for";
  if (prefer === "webgpu") return (await tryGpu(true)).choice ?? fail("webgpu", "this machine offers no GPU adapter");
  if (prefer === "wasm") return (await tryWasm(wasmUrl, asked)) ?? fail("wasm", "WebAssembly with SIMD did not start");
  if (prefer === "cpu") return startCpu(asked);
  const gpu = await tryGpu(false);
  if (gpu.choice) return gpu.choice;
  return (
    (await tryWasm(wasmUrl, gpu.problem)) ?? startCpu(`${gpu.problem}, and WebAssembly with SIMD could not be started`)
  );
}

/** The GPU, or why not. `software`: take an adapter that computes on the processor, too. */
async function tryGpu(software: boolean): Promise<{ choice?: BackendChoice; problem: string }> {
  const adapter = await findAdapter();
  if (!adapter) return { problem: "there is no GPU that WebGPU can use" };
  const facts = adapterFacts(adapter);
  if (facts.software && !software) {
    return { problem: `the only GPU adapter is ${facts.description}, on which WebAssembly is faster` };
  }
  try {
    await startGpu(adapter);
  } catch (error) {
    if (software) throw error;
    return { problem: `the GPU (${facts.description}) could not be started: ${String(error)}` };
  }
  const reason = software ? "it was asked for" : "the GPU is the fastest there is on this machine";
  return { choice: { name: "webgpu", device: facts.description, reason }, problem: "" };
}

let wasmNamed = false;

async function tryWasm(wasmUrl: string, reason: string): Promise<BackendChoice | null> {
  if (!wasmNamed) {
    const names = ["tfjs-backend-wasm.wasm", "tfjs-backend-wasm-simd.wasm", "tfjs-backend-wasm-threaded-simd.wasm"];
    setWasmPaths(Object.fromEntries(names.map((name) => [name, wasmUrl])), true); // It wants all three named.
    tf.env().set("WASM_HAS_MULTITHREAD_SUPPORT", false); // Its threads start from blob URLs, which our CSP forbids.
    wasmNamed = true; // Once it runs, naming them again is an error.
  }
  return (await tf.setBackend("wasm")) ? { name: "wasm", device: "CPU (SIMD)", reason } : null;
}

async function startCpu(reason: string): Promise<BackendChoice> {
  await tf.setBackend("cpu");
  return { name: "cpu", device: "CPU (JavaScript)", reason };
}

function fail(name: BackendName, problem: string): never {
  throw new Error(`The backend ${name} was asked for and cannot be had: ${problem}.`);
}

/** The version of TensorFlow.js that computes. */
export const TENSORFLOW_VERSION: string = tf.version_core;
