// What a row of the bench is given.

import { adapterFacts, findAdapter } from "../../src/engine/device.ts";
import { startBackend } from "../../src/engine/backend.ts";
import { nodeThreads } from "../../src/cli/threads.ts";
import { provideWebGpu } from "../../src/cli/webgpu.ts";
import { wasmUrl } from "../../src/cli/wasmUrl.ts";
import type { Patience } from "./measure.ts";
import type { ModelConfig } from "../../src/formats/hfConfig.ts";
import type { Device, Result } from "./results.ts";
import { FIVE_MILLION, ONE_MILLION } from "./shapes.ts";

export type Backend = "wasm" | "webgpu";

export interface Bench {
  /** Backends in Node that were asked for. */
  backends: Backend[];
  /** Whether rows that run in a Chromium were asked for. */
  browser: boolean;
  /** Fewer shapes and rounds: shows that all of it runs, in minutes. */
  quick: boolean;
  patience: Patience;
  adapter: Adapter;
  /** The repository's folder. */
  root: string;
}

/** What WebGPU computes on in Node. */
export interface Adapter {
  description: string;
  device: Device;
}

export interface Row {
  name: string;
  /** One line for --help. */
  says: string;
  run: (bench: Bench) => AsyncGenerator<Result>;
}

/** The adapter in Node: a real GPU if there is one, else Chromium's software driver. */
export async function findNodeAdapter(): Promise<Adapter> {
  await provideWebGpu({ software: true });
  const adapter = await findAdapter();
  if (!adapter) throw new Error("WebGPU found no adapter in Node, not even a software one. Run with --backend wasm.");
  const { description, software } = adapterFacts(adapter);
  return { description, device: software ? "software" : "gpu" };
}

/** Make the backend the active one. */
export async function activate(backend: Backend): Promise<void> {
  const choice = await startBackend({ prefer: backend, wasmUrl: wasmUrl(), threads: nodeThreads() });
  if (choice.name !== backend)
    throw new Error(`The bench asked for ${backend} and got ${choice.name}: ${choice.reason}.`);
}

/** Of a result on this backend: which table, and where it ran. */
export function placeOf(backend: Backend, { adapter }: Bench): { where: string; device: Device } {
  return backend === "wasm"
    ? { where: "wasm, Node", device: "software" }
    : { where: `WebGPU, Node, ${adapter.description}`, device: adapter.device };
}

/** Whether WebGPU here computes on the processor, tens of times slower than wasm: sizes are then small. */
export function isSlow(backend: Backend, { adapter }: Bench): boolean {
  return backend === "webgpu" && adapter.device === "software";
}

/** The shapes that rows are measured at. */
export function shapesOf({ quick }: Bench): [string, ModelConfig][] {
  const small: [string, ModelConfig] = ["1M", ONE_MILLION];
  return quick ? [small] : [small, ["5M", FIVE_MILLION]];
}
