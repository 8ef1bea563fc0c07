// Linear maps with what training hangs on them: bias, residual, a low-rank adapter (LoRA, Hu et al., 2021, eq. 3), weights
// that are stored small. Several maps of one input go together.

// N rows, I inputs, O outputs, R rank of an adapter.

import { detached, wantsGradient } from "../gradients.ts";
import { allocate } from "../launch.ts";
import { defineOp, hasKernel, type Inputs, runOp, runOps } from "../op.ts";
import { isPacked, type Matrix, type PackedFormat } from "../packed.ts";
import * as tf from "../tf.ts";
import { at, cpu, make, run } from "../wasm/heap.ts";
import { addUp } from "../wgsl.ts";
import { matmul, multiplyAll, multiplyOnHeap, type Product, type Term } from "./matmul.ts";
import { unpackedMatrix } from "./unpack.ts";

export interface Adapter {
  a: tf.Tensor; // [R, I]
  b: tf.Tensor; // [O, R]
  scale: number;
}

export interface LinearMap {
  weight: Matrix; // [O, I]
  bias?: tf.Tensor; // [O]
  lora?: Adapter;
}

/**
 * x: [N, I] -> [N, O]: x·Wᵀ + bias + residual + scale * (x·Aᵀ)·Bᵀ. `residual`: [N, O].
 *
 * A packed weight is frozen and passes gradients on to x.
 */
export function linear(
  x: tf.Tensor,
  weight: Matrix,
  { residual, ...rest }: Omit<LinearMap, "weight"> & { residual?: tf.Tensor } = {},
): tf.Tensor {
  return apply(x, [{ weight, ...rest }], residual)[0];
}

/** Several maps of one x: [N, I] -> [N, O] each. One launch forward, or few; the gradient of x is added up as it is made. */
export function linears(x: tf.Tensor, maps: LinearMap[]): tf.Tensor[] {
  return apply(x, maps);
}

/** The definition in plain operations. */
export function linearReference(x: tf.Tensor, { weight, bias, lora }: LinearMap, residual?: tf.Tensor): tf.Tensor {
  const plain = isPacked(weight) ? unpackedMatrix(weight) : weight;
  const terms = [tf.matMul(x as tf.Tensor2D, plain as tf.Tensor2D, false, true) as tf.Tensor];
  if (lora) terms.push(tf.matMul(tf.matMul(x, lora.a, false, true).mul(lora.scale), lora.b, false, true));
  if (bias) terms.push(bias);
  if (residual) terms.push(residual);
  return terms.reduce((sum, term) => sum.add(term));
}

/** What the kernels know of each map besides its tensors. */
interface MapFacts {
  out: number;
  width: number;
  format?: PackedFormat;
  rank: number;
  scale: number;
  /** Which of its tensors are trained. */
  wanted: Part[];
}

type Part = "weight" | "a" | "b";

interface Attributes {
  maps: MapFacts[];
}

function apply(x: tf.Tensor, maps: LinearMap[], residual?: tf.Tensor): tf.Tensor[] {
  for (const map of maps) check(x, map, residual);
  if (!hasKernel("LinearDown")) return maps.map((map) => linearReference(x, map, residual));
  const attributes = { maps: maps.map(factsOf) };
  const inputs: tf.NamedTensorMap = { x };
  if (residual) inputs.residual = residual;
  maps.forEach(({ weight, bias, lora }, i) => {
    inputs[`weight${i}`] = isPacked(weight) ? weight.words : weight;
    if (bias) inputs[`bias${i}`] = bias;
    if (lora) Object.assign(inputs, { [`a${i}`]: lora.a, [`b${i}`]: lora.b });
  });
  const narrow = narrowed(x, maps, attributes);
  const outputs = runOps(forwardOp(Object.keys({ ...inputs, ...narrow })), { ...inputs, ...narrow }, attributes);
  tf.dispose(Object.values(narrow)); // The tape has clones where it needs them.
  return outputs;
}

function check(x: tf.Tensor, { weight, bias, lora }: LinearMap, residual?: tf.Tensor): void {
  const [out, width] = weight.shape;
  const [rank] = lora?.a.shape ?? [0];
  const wanted: [tf.Tensor | undefined, number[]][] = [
    [x, [x.shape[0], width]],
    [bias, [out]],
    [residual, [x.shape[0], out]],
    [lora?.a, [rank, width]],
    [lora?.b, [out, rank]],
  ];
  if (wanted.every(([tensor, shape]) => !tensor || tf.util.arraysEqual(tensor.shape, shape))) return;
  const [, ...others] = wanted.map(([tensor]) => tensor?.shape ?? "none");
  throw new Error(
    `linear: x is [${x.shape}], weight is [${weight.shape}], and bias, residual, a and b are [${others.join("], [")}]`,
  );
}

function factsOf({ weight, lora }: LinearMap): MapFacts {
  const trained: [Part, tf.Tensor | undefined][] = [
    ["weight", isPacked(weight) ? undefined : weight],
    ["a", lora?.a],
    ["b", lora?.b],
  ];
  return {
    out: weight.shape[0],
    width: weight.shape[1]!,
    format: isPacked(weight) ? weight.format : undefined,
    rank: lora?.a.shape[0] ?? 0,
    scale: lora?.scale ?? 1,
    wanted: trained.filter(([, tensor]) => tensor && wantsGradient(tensor)).map(([part]) => part),
  };
}

/**
 * Of each map with an adapter xa = scale * x·Aᵀ: [N, R], off the tape: the gradient of the whole map covers it, and keeps it.
 */
function narrowed(x: tf.Tensor, maps: LinearMap[], attributes: Attributes): tf.NamedTensorMap {
  const adapters = maps.flatMap(({ lora }, i) => (lora ? [[`a${i}`, lora.a] as const] : []));
  if (adapters.length === 0) return {};
  return offTape({ x, ...Object.fromEntries(adapters) }, (inputs) => {
    const outputs = runOps("LinearDown", inputs, attributes);
    return Object.fromEntries(adapters.map(([name], i) => [`x${name}`, outputs[i]]));
  });
}

/** Use the tensors' content without being on the way of gradients. */
function offTape<T>(tensors: tf.NamedTensorMap, use: (aside: tf.NamedTensorMap) => T): T {
  const aside = Object.fromEntries(Object.entries(tensors).map(([name, tensor]) => [name, detached(tensor)]));
  const result = use(aside);
  tf.dispose(aside);
  return result;
}

interface Backend {
  make(shape: number[]): tf.TensorInfo;
  multiply(products: Product[]): void;
}

const GPU: Backend = { make: allocate, multiply: (products) => multiplyAll(products) };
const HEAP: Backend = { make, multiply: multiplyOnHeap };

type Kernel = (inputs: Inputs, attributes: Attributes, backend: Backend) => tf.TensorInfo[];

function onBoth(kernel: Kernel) {
  return {
    webgpu: (inputs: Inputs, attributes: Attributes) => kernel(inputs, attributes, GPU),
    wasm: (inputs: Inputs, attributes: Attributes) => kernel(inputs, attributes, HEAP),
  };
}

/** Multiply, and return what was multiplied into. */
function computed(products: Product[], backend: Backend): tf.TensorInfo[] {
  backend.multiply(products);
  return products.map(({ c }) => c);
}

const down: Kernel = (inputs, { maps }, backend) => {
  const [N, K] = inputs.x.shape;
  const products = maps.flatMap(({ rank, scale }, i): Product[] => {
    if (rank === 0) return [];
    const sizes = { M: N, N: rank, K, transposeA: false, transposeB: true };
    return [{ a: inputs.x, b: inputs[`a${i}`], c: backend.make([N, rank]), ...sizes, scale }];
  });
  return computed(products, backend);
};

const forward: Kernel = (inputs, { maps }, backend) => {
  const [N, K] = inputs.x.shape;
  const products = maps.map(({ out, format, rank }, i): Product => {
    const adapter: Term[] = rank > 0 ? [{ a: inputs[`xa${i}`], b: inputs[`b${i}`], K: rank }] : [];
    return {
      a: inputs.x,
      b: inputs[`weight${i}`],
      c: backend.make([N, out]),
      format,
      M: N,
      N: out,
      K,
      transposeA: false,
      transposeB: true,
      plus: adapter,
      bias: inputs[`bias${i}`],
      residual: inputs.residual,
    };
  });
  return computed(products, backend);
};

const defined = new Set<string>();

/** The operation for the inputs that there are: TensorFlow.js cannot save one that is not. */
function forwardOp(inputs: string[]): string {
  const name = `Linear ${inputs.join(" ")}`;
  if (defined.has(name)) return name;
  defined.add(name);
  const saves = inputs.filter((input) => input !== "residual" && !input.startsWith("bias"));
  const gradient = (dys: tf.Tensor[], saved: tf.Tensor[], attributes: Attributes) =>
    gradients(dys, Object.fromEntries(saves.map((input, i) => [input, saved[i]])), inputs, attributes);
  defineOp<Attributes>({ name, saves, ...onBoth(forward), gradient });
  return name;
}

/** The gradient for each of the inputs; what is trained for sure is computed at once. */
function gradients(
  dys: tf.Tensor[],
  saved: tf.NamedTensorMap,
  inputs: string[],
  attributes: Attributes,
): Record<string, () => tf.Tensor> {
  const { maps } = attributes;
  const dy = Object.fromEntries(dys.map((tensor, i) => [`dy${i}`, tensor]));
  const { x, ...weights } = saved;
  const has = (name: string) => inputs.includes(name);
  const dxa = named(
    maps.flatMap((_, i) => (has(`a${i}`) ? [`dxa${i}`] : [])),
    (names) => (names.length > 0 ? runOps("LinearUpGradient", { ...dy, ...weights }, attributes) : []),
  );
  const trained = named(
    maps.flatMap(({ wanted }, i) => wanted.map((part) => `${part}${i}`)),
    (names) => (names.length > 0 ? runOps("LinearParameterGradients", { ...dy, ...dxa, ...saved }, attributes) : []),
  );
  const result: Record<string, () => tf.Tensor> = {
    x: () => runOps("LinearInputGradient", { ...dy, ...dxa, ...weights }, attributes)[0],
    residual: () => dys[0].clone(),
  };
  // A tensor that is computed from what is trained was not asked for, but its gradient is wanted all the same.
  dys.forEach((own, i) => {
    result[`weight${i}`] = () => trained[`weight${i}`] ?? matmul(own, x, true, false);
    result[`a${i}`] = () => trained[`a${i}`] ?? matmul(dxa[`dxa${i}`], x, true, false);
    result[`b${i}`] = () => trained[`b${i}`] ?? matmul(own, saved[`xa${i}`], true, false);
    result[`bias${i}`] = () => runOp("ColumnSums", { x: own });
  });
  return result;
}

function named(names: string[], compute: (names: string[]) => tf.Tensor[]): Record<string, tf.Tensor> {
  const outputs = compute(names);
  return Object.fromEntries(names.map((name, i) => [name, outputs[i]]));
}

/** Of each map with an adapter dxa = scale * dy·B: [N, R]. */
const upGradient: Kernel = (inputs, { maps }, backend) => {
  const products = maps.flatMap(({ out, rank, scale }, i): Product[] => {
    if (rank === 0) return [];
    const [dy, b] = [inputs[`dy${i}`], inputs[`b${i}`]];
    const [N] = dy.shape;
    const sizes = { M: N, N: rank, K: out, transposeA: false, transposeB: false };
    return [{ a: dy, b, c: backend.make([N, rank]), ...sizes, scale }];
  });
  return computed(products, backend);
};

/** dx: the sum over the maps of dy·W + dxa·A: [N, I]. */
const inputGradient: Kernel = (inputs, { maps }, backend) => {
  const [N] = inputs.dy0.shape;
  const { width } = maps[0];
  const terms = maps.flatMap(({ out, format, rank }, i): Term[] => {
    const own: Term = { a: inputs[`dy${i}`], b: inputs[`weight${i}`], format, K: out };
    return rank === 0 ? [own] : [own, { a: inputs[`dxa${i}`], b: inputs[`a${i}`], K: rank }];
  });
  const [first, ...plus] = terms;
  const sizes = { M: N, N: width, transposeA: false, transposeB: false };
  return computed([{ ...first, plus, c: backend.make([N, width]), ...sizes }], backend);
};

/** dW = dyᵀ·x, dA = dxaᵀ·x and dB = dyᵀ·xa of each map, as far as they are wanted. */
const parameterGradients: Kernel = (inputs, { maps }, backend) => {
  const K = inputs.x.shape[0];
  const products = maps.flatMap(({ wanted, out, width, rank }, i) => {
    const factors = {
      weight: { a: inputs[`dy${i}`], b: inputs.x, M: out, N: width },
      a: { a: inputs[`dxa${i}`], b: inputs.x, M: rank, N: width },
      b: { a: inputs[`dy${i}`], b: inputs[`xa${i}`], M: out, N: rank },
    };
    return wanted.map((part): Product => {
      const { M, N } = factors[part];
      return { ...factors[part], c: backend.make([M, N]), K, transposeA: true, transposeB: false };
    });
  });
  return computed(products, backend);
};

defineOp({ name: "LinearDown", ...onBoth(down) });
defineOp({ name: "LinearUpGradient", ...onBoth(upGradient) });
defineOp({ name: "LinearInputGradient", ...onBoth(inputGradient) });
defineOp({ name: "LinearParameterGradients", ...onBoth(parameterGradients) });

/** x: [N, O] -> [O] */
defineOp({
  name: "ColumnSums",
  wasm: ({ x }) => {
    const [N, O] = x.shape;
    const sums = make([O]);
    const [from, to] = [at(x), at(sums)];
    run(() => cpu().columnSums(from, to, N, O));
    return sums;
  },
  webgpu: ({ x }) => {
    const [N, O] = x.shape;
    const sums = allocate([O]);
    addUp(x, sums, N, O);
    return sums;
  },
});
