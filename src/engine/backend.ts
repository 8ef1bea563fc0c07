// Which backend computes: WebGPU on a real GPU; else WebAssembly; else plain JavaScript.

import "@tensorflow/tfjs-backend-cpu";
import { setWasmPaths } from "@tensorflow/tfjs-backend-wasm";
import { adapterFacts, findAdapter, softwareGpu, startGpu } from "./device.ts";
import * as tf from "./tf.ts";
import { type Tuning, useTuning } from "./tuning.ts";
import { withSharedMemory } from "./wasm/binary.ts";
import { hasSharedMemory } from "./wasm/features.ts";
import { startThreads } from "./wasm/heap.ts";
import { loadKernels } from "./wasm/module.ts";
import "./wasm/stock.ts";
import type { ThreadHost } from "./wasm/threads.ts";

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
  /** Where WebAssembly gets more threads from. Without it there is one. */
  threads?: ThreadHost;
  /** Where what was measured on a GPU is kept. Without it a GPU is measured at each start. */
  tunings?: TuningStore;
}

/** Of the newest measurement. Neither may reject. */
export interface TuningStore {
  load: () => Promise<Tuning | null>;
  save: (tuning: Tuning) => Promise<void>;
}

/** Start the backend and make it the active one. */
export async function startBackend(request: BackendRequest): Promise<BackendChoice> {
  const { prefer } = request;
  const asked = "it was asked for";
  if (prefer === "webgpu")
    return (await tryGpu(true, request)).choice ?? fail("webgpu", "this machine offers no GPU adapter");
  if (prefer === "wasm") return (await tryWasm(request, asked)) ?? fail("wasm", "WebAssembly with SIMD did not start");
  if (prefer === "cpu") return startCpu(asked);
  const gpu = await tryGpu(false, request);
  if (gpu.choice) return gpu.choice;
  return (
    (await tryWasm(request, gpu.problem)) ?? startCpu(`${gpu.problem}, and WebAssembly with SIMD could not be started`)
  );
}

/** The GPU, or why not. `software`: take an adapter that computes on the processor, too. */
async function tryGpu(
  software: boolean,
  { tunings }: BackendRequest,
): Promise<{ choice?: BackendChoice; problem: string }> {
  const adapter = await findAdapter();
  if (!adapter) return { problem: "there is no GPU that WebGPU can use" };
  const facts = adapterFacts(adapter);
  if (facts.software && !software) {
    return { problem: `the only GPU adapter is ${facts.description}, on which WebAssembly is faster` };
  }
  try {
    await startGpu(adapter);
    if (!softwareGpu()) await tune(tunings);
  } catch (error) {
    if (software) throw error;
    return { problem: `the GPU (${facts.description}) could not be started: ${String(error)}` };
  }
  const reason = software ? "it was asked for" : "the GPU is the fastest there is on this machine";
  return { choice: { name: "webgpu", device: facts.description, reason }, problem: "" };
}

/** Find out which forms of the kernels are the fastest on this GPU, unless that is known. Under a second. */
async function tune(tunings?: TuningStore): Promise<void> {
  const known = await tunings?.load();
  if (known && useTuning(known)) return;
  const { measureTuning } = await import("./measureTuning.ts");
  await tunings?.save(await measureTuning());
}

/** Threads that compute in WebAssembly, once that is decided. */
let wasmThreads: number | null = null;

async function tryWasm({ wasmUrl, threads }: BackendRequest, reason: string): Promise<BackendChoice | null> {
  const first = wasmThreads === null;
  const host = first && threads && threads.count > 1 && hasSharedMemory() ? threads : null;
  if (first) {
    nameWasm(wasmUrl);
    await loadKernels(host !== null);
    wasmThreads = 1;
  }
  if (!(await (host ? withSharedHeap(() => tf.setBackend("wasm")) : tf.setBackend("wasm")))) return null;
  if (host) wasmThreads = await countAfterStart(host);
  const device = wasmThreads === 1 ? "CPU (SIMD)" : `CPU (SIMD, ${wasmThreads} threads)`;
  return { name: "wasm", device, reason };
}

/** Say where TensorFlow.js finds its binary; once it runs, saying so again is an error. */
function nameWasm(wasmUrl: string): void {
  const names = ["tfjs-backend-wasm.wasm", "tfjs-backend-wasm-simd.wasm", "tfjs-backend-wasm-threaded-simd.wasm"];
  setWasmPaths(Object.fromEntries(names.map((name) => [name, wasmUrl])), true); // It wants all three named.
  tf.env().set("WASM_HAS_MULTITHREAD_SUPPORT", false); // Its threads start from blob URLs, which our CSP forbids.
}

/** While TensorFlow.js fetches its binary, through its platform, it gets one whose memory threads can share. */
async function withSharedHeap<T>(start: () => Promise<T>): Promise<T> {
  const { platform } = tf.env();
  const fetchPlainly = platform.fetch.bind(platform);
  platform.fetch = async (path, init) => {
    const response = await fetchPlainly(path, init);
    if (!response.ok) return response;
    return new Response(withSharedMemory(new Uint8Array(await response.arrayBuffer())));
  };
  try {
    return await start();
  } finally {
    platform.fetch = fetchPlainly;
  }
}

/** How many threads compute after an attempt to start the others. */
async function countAfterStart(host: ThreadHost): Promise<number> {
  try {
    await startThreads(host);
    return host.count;
  } catch {
    return 1; // What was started sleeps; we compute as if there were none.
  }
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
