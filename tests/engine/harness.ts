// What the tests of operations share: backends, seeded inputs, and the comparison of an operation on a backend, forward
// and gradients, with its definition on tfjs's cpu backend.

import { beforeAll } from "vitest";
import { startBackend, type BackendName } from "../../src/engine/backend.ts";
import { valueAndGradients } from "../../src/engine/gradients.ts";
import * as tf from "../../src/engine/tf.ts";

const WASM_FILE = "node_modules/@tensorflow/tfjs-backend-wasm/dist/tfjs-backend-wasm-simd.wasm";

const started = new Set<BackendName>();

/** Make the backend the active one, started if it is not yet. */
export async function activate(name: BackendName): Promise<void> {
  if (started.has(name)) {
    await tf.setBackend(name);
    return;
  }
  const wasmUrl = typeof window === "undefined" ? await prepareNode(name) : ""; // Tests in a browser do without wasm.
  const choice = await startBackend({ prefer: name, wasmUrl });
  if (choice.name !== name) throw new Error(`wanted the backend ${name}, got ${choice.name}: ${choice.reason}`);
  // Small tensors would be computed on the processor and hide the GPU's faults.
  if (name === "webgpu") tf.env().set("WEBGPU_CPU_FORWARD", false);
  started.add(name);
}

/** What browsers bring along: WebGPU, where it is wanted. Returns the URL of the wasm backend's binary. */
async function prepareNode(name: BackendName): Promise<string> {
  const [{ readFileSync }, { enableRelaxedSimd }, { provideWebGpu }] = await Promise.all([
    import("node:fs"),
    import("../../src/cli/relaxedSimd.ts"),
    import("../../src/cli/webgpu.ts"),
  ]);
  enableRelaxedSimd();
  if (name === "webgpu") await provideWebGpu({ software: true });
  return `data:application/wasm;base64,${readFileSync(WASM_FILE).toString("base64")}`;
}

/** In a `describe`: its tests run on this backend. */
export function useBackend(name: BackendName): void {
  beforeAll(() => activate(name));
}

/** A tensor's content without a backend. */
export interface Plain {
  shape: number[];
  dtype: "float32" | "int32";
  values: Float32Array | Int32Array;
}

/** Numbers in [0, 1) that depend on the seed alone (mulberry32). */
export function uniform(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), state | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** Standard normal numbers times `scale` (Box and Muller). */
export function normal(shape: number[], seed: number, scale = 1): Plain {
  const next = uniform(seed);
  const values = Float32Array.from(
    { length: tf.util.sizeFromShape(shape) },
    () => scale * Math.sqrt(-2 * Math.log(1 - next())) * Math.cos(2 * Math.PI * next()),
  );
  return { shape, dtype: "float32", values };
}

/** Integers from 0 to below - 1. */
export function integers(shape: number[], below: number, seed: number): Plain {
  const next = uniform(seed);
  const values = Int32Array.from({ length: tf.util.sizeFromShape(shape) }, () => Math.floor(next() * below));
  return { shape, dtype: "int32", values };
}

export function floats(shape: number[], values: number[]): Plain {
  return { shape, dtype: "float32", values: Float32Array.from(values) };
}

export function ints(shape: number[], values: number[]): Plain {
  return { shape, dtype: "int32", values: Int32Array.from(values) };
}

/** A tensor of this content on the active backend. */
export function toTensor({ shape, dtype, values }: Plain): tf.Tensor {
  return tf.tensor(values.slice(), shape, dtype);
}

export type Tensors = Record<string, tf.Tensor>;

/** An operation or its definition: float outputs are differentiated, integer outputs must be equal. */
export type Computation = (inputs: Tensors) => tf.Tensor | tf.Tensor[];

/** Outputs and gradients by name, read back. */
export type Results = Record<string, Plain>;

/**
 * Run `compute` on the active backend. Gradients are those of the sum of each output times fixed random numbers, with
 * respect to the inputs named in `trained`. Throws if it leaves tensors behind.
 */
export async function run(
  inputs: Record<string, Plain>,
  trained: string[],
  compute: Computation,
  beforeRunning: () => void = () => {},
): Promise<Results> {
  const before = tf.memory().numTensors;
  const tensors = Object.fromEntries(Object.entries(inputs).map(([name, plain]) => [name, toTensor(plain)]));
  const results: Results = {};
  beforeRunning();
  for (const [name, tensor] of Object.entries(tf.tidy(() => named(compute(tensors))))) {
    results[name] = await read(tensor);
  }
  if (trained.length > 0) {
    beforeRunning();
    const { value, gradients } = valueAndGradients(
      () => weightedSum(compute(tensors)),
      trained.map((name) => tensors[name]),
    );
    value.dispose();
    for (const [i, name] of trained.entries()) results[`d ${name}`] = await read(gradients[i]);
  }
  tf.dispose(tensors);
  const left = tf.memory().numTensors - before;
  if (left !== 0) throw new Error(`${left} tensors more than before were left behind on ${tf.getBackend()}`);
  return results;
}

function named(outputs: tf.Tensor | tf.Tensor[]): Tensors {
  const list = Array.isArray(outputs) ? outputs : [outputs];
  return Object.fromEntries(list.map((output, i) => [`output ${i}`, output]));
}

function weightedSum(outputs: tf.Tensor | tf.Tensor[]): tf.Scalar {
  const floating = Object.values(named(outputs)).filter(({ dtype }) => dtype === "float32");
  return tf.addN(floating.map((y, i) => y.mul(toTensor(normal(y.shape, 1000 + i))).sum())) as tf.Scalar;
}

async function read(tensor: tf.Tensor): Promise<Plain> {
  const values = (await tensor.data()).slice() as Float32Array;
  const { shape, dtype } = tensor;
  tensor.dispose();
  return { shape, dtype: dtype as Plain["dtype"], values };
}

export interface Comparison {
  inputs: Record<string, Plain>;
  /** Names of the inputs whose gradients are compared. */
  trained: string[];
  op: Computation;
  reference: Computation;
  /** Largest allowed difference, as a part of the largest magnitude in the expected tensor. */
  tolerance?: number;
  /** Called before the operation runs, to spoil the memory it will get. */
  poison?: () => void;
}

/** The operation on `backend` against its definition, and its gradients against autograd, on the cpu backend. */
export async function expectAgreement(backend: BackendName, comparison: Comparison): Promise<void> {
  const { inputs, trained, op, reference, tolerance = 1e-5, poison } = comparison;
  await activate("cpu");
  const expected = await run(inputs, trained, reference);
  await activate(backend);
  const found = await run(inputs, trained, op, poison);
  for (const [name, want] of Object.entries(expected))
    expectClose(`${name} on ${backend}`, found[name], want, tolerance);
}

/** Throws with the worst element if the two differ by more than `tolerance` of the largest expected magnitude. */
export function expectClose(name: string, found: Plain, want: Plain, tolerance: number): void {
  if (found.dtype !== want.dtype || !tf.util.arraysEqual(found.shape, want.shape)) {
    throw new Error(`${name}: is ${found.dtype} [${found.shape}], wanted ${want.dtype} [${want.shape}]`);
  }
  const allowed = want.dtype === "int32" ? 0 : tolerance * largest(want.values);
  let worst = 0;
  let place = -1;
  for (let i = 0; i < want.values.length; i++) {
    const difference = Math.abs(found.values[i] - want.values[i]);
    if (difference <= worst) continue; // Not for NaN: it is kept as the worst.
    worst = difference;
    place = i;
    if (Number.isNaN(difference)) break;
  }
  if (worst <= allowed) return;
  throw new Error(
    `${name}: element ${place} of [${want.shape}] is ${found.values[place]}, wanted ${want.values[place]} ` +
      `(difference ${worst}, allowed ${allowed})`,
  );
}

/** The largest magnitude, or 1 where all are 0 (or there are none). */
function largest(values: Float32Array | Int32Array): number {
  let most = 0;
  for (const value of values) most = Math.max(most, Math.abs(value));
  return most || 1;
}

/** Throws unless the two agree bit for bit. */
export function expectSameBits(found: Results, want: Results): void {
  for (const [name, { values }] of Object.entries(want)) {
    const [a, b] = [found[name].values, values].map((v) => Buffer.from(v.buffer, v.byteOffset, v.byteLength));
    if (!a.equals(b)) throw new Error(`${name}: another run gave other bits`);
  }
}
