// Our CPU kernels: AssemblyScript compiled to SIMD WebAssembly, computing in place on the heap of TensorFlow.js's wasm
// backend. Kernels get addresses; nothing is copied.

import type { BackendWasm } from "@tensorflow/tfjs-backend-wasm";
import * as tf from "../tf.ts";
import { type Arena, createArena } from "./arena.ts";
import type { CpuKernels } from "./kernels.ts";
import { instantiateKernels, kernelModule } from "./module.ts";
import type { ThreadHost } from "./threads.ts";

interface EmscriptenModule {
  asm: { memory: WebAssembly.Memory };
  HEAP32: Int32Array;
  _malloc(bytes: number): number;
  _free(address: number): void;
}

let bound: { backend: BackendWasm; kernels: CpuKernels } | null = null;
let scratch = { address: 0, bytes: 0 };

function backend(): BackendWasm {
  return tf.backend() as BackendWasm;
}

function emscripten(): EmscriptenModule {
  return backend().wasm as unknown as EmscriptenModule;
}

/** The kernels, bound to the active wasm backend's memory. */
export function cpu(): CpuKernels {
  const active = backend();
  if (bound?.backend === active) return bound.kernels;
  const { memory } = emscripten().asm;
  const kernels = instantiateKernels(kernelModule(), memory);
  kernels.bindOwn(allocateAligned(kernels.ownBytes()));
  bound = { backend: active, kernels };
  scratch = { address: 0, bytes: 0 };
  return kernels;
}

/** Have threads beside this one do their part of what the kernels compute. The heap must be shared memory. */
export async function startThreads({ count, start }: ThreadHost): Promise<void> {
  const kernels = cpu();
  const table = allocateAligned(kernels.threadsBytes());
  emscripten().HEAP32.fill(0, table / 4, (table + kernels.threadsBytes()) / 4);
  const work = { module: kernelModule(), memory: emscripten().asm.memory, table };
  const others = Array.from({ length: count - 1 }, () => allocateAligned(kernels.ownBytes()));
  await Promise.all(others.map((own, i) => start({ ...work, own, number: i + 2 }))); // Ours is 1.
  kernels.bindThreads(table, count);
}

const ALIGNMENT = 64; // A cache line.

function aligned(address: number): number {
  return Math.ceil(address / ALIGNMENT) * ALIGNMENT;
}

function allocate(bytes: number): number {
  const address = emscripten()._malloc(bytes) >>> 0;
  if (address === 0) throw outOfMemory(bytes);
  return address;
}

function allocateAligned(bytes: number): number {
  return aligned(allocate(bytes + ALIGNMENT));
}

function outOfMemory(bytes: number): Error {
  return new Error(
    `out of memory: WebAssembly has no ${bytes} bytes left for a tensor; take a smaller batch, shorter rows or a smaller model`,
  );
}

/** Address of a tensor's first byte on the heap. */
export function at(tensor: tf.TensorInfo): number {
  return backend().getMemoryOffset(tensor.dataId);
}

/** A new tensor on the heap, its content undefined. Throws where there is no memory left. */
export function make(shape: number[], dtype: "float32" | "int32" = "float32"): tf.TensorInfo {
  if (recorder) return backend().makeOutput(shape, dtype, recorder.arena.take(tf.util.sizeFromShape(shape) * 4));
  const tensor = backend().makeOutput(shape, dtype);
  if (at(tensor) === 0) throw outOfMemory(tf.util.sizeFromShape(shape) * 4); // TensorFlow.js does not look.
  return tensor;
}

/** A view of a tensor's content; valid until the next allocation, which may move the heap. */
export function view(tensor: tf.TensorInfo): Float32Array | Int32Array {
  return backend().typedArrayFromHeap(tensor) as Float32Array | Int32Array;
}

/** Address of at least `bytes` bytes of working memory, shared by all kernels, undefined content, 64-byte aligned. */
export function workspace(bytes: number): number {
  if (recorder) {
    const address = recorder.arena.take(bytes);
    recorder.workspaces.push(address);
    return address;
  }
  if (scratch.bytes < bytes) {
    if (scratch.bytes > 0) emscripten()._free(scratch.address);
    scratch = { address: 0, bytes: 0 };
    scratch = { address: allocate(bytes + ALIGNMENT), bytes };
  }
  return aligned(scratch.address);
}

/**
 * Do an operation's work on the heap: at once, or, in a step that is being recorded, at each replay of it. What it
 * captures are numbers (addresses, sizes) taken before: its tensors may be gone by then, their memory is not.
 */
export function run(work: () => void): void {
  if (recorder) recorder.works.push(work);
  else work();
}

interface Recorder {
  arena: Arena;
  works: (() => void)[];
  /** Working memory of the operation under way. */
  workspaces: number[];
}

let recorder: Recorder | null = null;
const arenas = new WeakMap<BackendWasm, Arena>();

/** What recordings compute on the way lies here; TensorFlow.js gives it back as it does with its own. */
function arena(): Arena {
  const active = backend();
  let own = arenas.get(active);
  if (!own) {
    const made = createArena(allocate, (address) => free(address));
    const module = emscripten();
    module._free(module._malloc(ALIGNMENT)); // The first call replaces the function by itself.
    const free = module._free.bind(module);
    module._free = (address) => {
      if (address >= NOWHERE) phantoms.giveBack(address);
      else if (!made.giveBack(address >>> 0)) free(address);
    };
    arenas.set(active, made);
    own = made;
  }
  return own;
}

/** From here on `run` does nothing but take note, until `endRecording`. */
export function beginRecording(): void {
  begin(arena());
  recordings += 1;
}

/** A recording will not be replayed any more: with the last one the memory of all is given back. */
export function letGoOfRecording(): void {
  recordings -= 1;
  if (recordings === 0) arena().giveUp();
}

let recordings = 0;

/** The same without any memory: what is noted cannot be done. */
export function beginRehearsal(): void {
  arena(); // Knows what to do when a tensor that lies nowhere is disposed of.
  begin(phantoms);
}

function begin(own: Arena): void {
  own.reset();
  recorder = { arena: own, works: [], workspaces: [] };
}

const NOWHERE = 2 ** 40; // Addresses from here on are of no memory.
let nextPhantom = 2 * NOWHERE;
let nextBlock = NOWHERE;
const phantoms = createArena(
  (bytes) => (nextBlock += bytes) - bytes,
  () => {},
);

/** A tensor without memory that rehearsals may read. */
export function makePhantom(shape: number[], dtype: "float32" | "int32"): tf.TensorInfo {
  arena();
  nextPhantom += 4 * tf.util.sizeFromShape(shape);
  return backend().makeOutput(shape, dtype, nextPhantom);
}

/** What was noted, to be done in this order, and the most memory that it holds at a time. */
export function endRecording(): { works: (() => void)[]; bytes: number } {
  const { works = [], arena: own = arena() } = recorder ?? {};
  recorder = null;
  return { works, bytes: own.peakBytes() };
}

/** An operation has been noted: its working memory may serve the next one. */
export function endOfOperation(): void {
  if (!recorder) return;
  for (const address of recorder.workspaces) recorder.arena.giveBack(address);
  recorder.workspaces = [];
}

/** Write integers at an address inside the working memory; part of the work that `run` does. */
export function writeIntegers(address: number, values: number[]): void {
  emscripten().HEAP32.set(values, address / 4);
}
