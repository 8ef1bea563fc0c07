// Matrix products in the layouts that training needs: x·Wᵀ forward, dY·W and dYᵀ·x backward. On the GPU sums of several
// products, packed weights, bias and residual come in one pass, and products of one step in one launch.

import { gpuBackend } from "../device.ts";
import { allocate, launch, type Kernel } from "../launch.ts";
import { defineOp, hasKernel, runOp } from "../op.ts";
import type { PackedFormat } from "../packed.ts";
import * as tf from "../tf.ts";
import { variantFor } from "../tuning.ts";
import { at, cpu, make, run } from "../wasm/heap.ts";
import {
  FORMAT_CODES,
  productsText,
  scalesAt,
  threadsOf,
  tileOf,
  type Operand,
  type ProductText,
  type Variant,
} from "./matmulText.ts";

/**
 * a: [M, K] ([K, M] if transposeA), b: [K, N] ([N, K] if transposeB) -> [M, N].
 *
 * Two dimensions only: fold leading axes into M first.
 */
export function matmul(a: tf.Tensor, b: tf.Tensor, transposeA = false, transposeB = false): tf.Tensor {
  const inner = a.shape[transposeA ? 0 : 1];
  if (a.rank !== 2 || b.rank !== 2 || inner !== b.shape[transposeB ? 1 : 0]) {
    throw new Error(`matmul: a is [${a.shape}]${transposeA ? "ᵀ" : ""}, b is [${b.shape}]${transposeB ? "ᵀ" : ""}`);
  }
  if (!hasKernel("Matmul")) return matmulReference(a, b, transposeA, transposeB);
  return runOp("Matmul", { a, b }, { transposeA, transposeB });
}

/** The definition in plain operations. */
export function matmulReference(a: tf.Tensor, b: tf.Tensor, transposeA: boolean, transposeB: boolean): tf.Tensor {
  return tf.matMul(a, b, transposeA, transposeB);
}

interface Transposes {
  transposeA: boolean;
  transposeB: boolean;
}

/** The product of two tensors, its result made by `allocated`. */
function productOf(
  { a, b }: Record<string, tf.TensorInfo>,
  { transposeA, transposeB }: Transposes,
  allocated: (shape: number[]) => tf.TensorInfo,
): Product {
  const [M, K] = transposeA ? [a.shape[1], a.shape[0]] : a.shape;
  const N = b.shape[transposeB ? 0 : 1];
  return { a, b, c: allocated([M, N]), M, N, K, transposeA, transposeB };
}

defineOp<Transposes>({
  name: "Matmul",
  saves: ["a", "b"],
  wasm: (inputs, transposes) => {
    const product = productOf(inputs, transposes, make);
    multiplyOnHeap([product]);
    return product.c;
  },
  webgpu: (inputs, transposes) => {
    const product = productOf(inputs, transposes, allocate);
    multiply(product);
    return product.c;
  },
  gradient: ([dy], [a, b], { transposeA: tA, transposeB: tB }) => ({
    a: () => (tA ? matmul(b, dy, tB, true) : matmul(dy, b, false, !tB)),
    b: () => (tB ? matmul(dy, a, true, tA) : matmul(a, dy, !tA, false)),
  }),
});

/** One product of a sum of products. */
export interface Term {
  /** [M, K], or [K, M] if transposeA. */
  a: tf.TensorInfo;
  /** [K, N], or [N, K] if transposeB; the words of a packed matrix if `format` is given. */
  b: tf.TensorInfo;
  format?: PackedFormat;
  K: number;
  /** Elements of `a` and `b` to skip: a product of some rows of larger tensors. */
  aStart?: number;
  bStart?: number;
}

/** c (+)= scale * (a·b + plus) + bias + residual. */
export interface Product extends Term, Transposes {
  c: tf.TensorInfo;
  M: number;
  N: number;
  /** More products to add, in the same layouts. */
  plus?: Term[];
  scale?: number;
  /** [N], added to each row. */
  bias?: tf.TensorInfo;
  /** [M, N] */
  residual?: tf.TensorInfo;
  /** Elements of `c` to skip, and from one row to the next (N unless given): a product into a part of a larger tensor. */
  cStart?: number;
  cStride?: number;
  /** Add to what `c` holds. */
  accumulate?: boolean;
}

function termsOf(product: Product): Term[] {
  return [product, ...(product.plus ?? [])];
}

/** On the wasm heap. */
export function multiplyOnHeap(products: Product[]): void {
  for (const product of products) multiplyOne(product);
}

function multiplyOne(product: Product): void {
  const { M, N, transposeA: tA, transposeB: tB, scale = 1, bias, residual, cStride = N } = product;
  const c = at(product.c) + 4 * (product.cStart ?? 0);
  if (scale !== 1 && product.accumulate) throw new Error("multiply: a product that is scaled cannot be added in place");
  termsOf(product).forEach(({ a, b, format, K, aStart = 0, bStart = 0 }, i) => {
    const accumulate = i > 0 || product.accumulate === true;
    const from = at(a) + 4 * aStart;
    const other = at(b);
    if (format) {
      const [rows, columns] = tB ? [N, K] : [K, N];
      const code = FORMAT_CODES[format];
      run(() => cpu().gemmPacked(code, tB, M, N, K, from, K, other, rows, columns, c, cStride, accumulate));
      return;
    }
    const [lda, ldb] = [tA ? M : K, tB ? K : N];
    run(() => cpu().gemm(tA, tB, M, N, K, from, lda, other + 4 * bStart, ldb, c, cStride, accumulate));
  });
  if (scale !== 1) run(() => cpu().scale(c, scale, c, M * N));
  if (bias) {
    const row = at(bias);
    run(() => cpu().addRow(c, row, M, N));
  }
  if (residual) {
    const other = at(residual);
    run(() => cpu().add(c, other, c, M * N));
  }
}

/** On the GPU. */
export function multiply(product: Product, variant?: Variant): void {
  multiplyAll([product], variant);
}

/** On the GPU: in order, as many in one launch as have room there, do not wait for one another, and gain by it. */
export function multiplyAll(products: Product[], variant?: Variant): void {
  const { merging } = gpuBackend();
  let group: Product[] = [];
  for (const part of products.flatMap(inParts)) {
    if (group.length > 0 && !(merging && fitTogether([...group, part]))) {
      launchGroup(group, variant);
      group = [];
    }
    group.push(part);
  }
  if (group.length > 0) launchGroup(group, variant);
}

const MOST_BUFFERS = 8; // Every WebGPU device binds as many.
const MOST_TERMS = 3;

/** A sum of more terms than one launch can bind, as several products that add to c. */
function inParts(product: Product): Product[] {
  const terms = termsOf(product);
  const most = product.bias && product.residual ? MOST_TERMS - 1 : MOST_TERMS;
  if (terms.length <= most) return [product];
  const { c, M, N, transposeA, transposeB, scale, cStart, cStride } = product;
  const [first, ...others] = terms.slice(most);
  const rest = { c, M, N, transposeA, transposeB, scale, cStart, cStride, accumulate: true };
  return [{ ...product, plus: terms.slice(1, most) }, ...inParts({ ...first, plus: others, ...rest })];
}

function readsOf(product: Product): tf.TensorInfo[] {
  const { bias, residual } = product;
  return [...termsOf(product).flatMap(({ a, b }) => [a, b]), ...[bias, residual].filter((tensor) => tensor != null)];
}

function fitTogether(products: Product[]): boolean {
  const reads = new Set(products.flatMap(readsOf).map(({ dataId }) => dataId));
  const writes = new Set(products.map(({ c }) => c.dataId));
  if (writes.size < products.length || products.length > MOST_TERMS) return false;
  return reads.size + writes.size <= MOST_BUFFERS && ![...writes].some((id) => reads.has(id));
}

function launchGroup(products: Product[], given?: Variant): void {
  const largest = products.reduce((most, product) => (work(product) > work(most) ? product : most));
  const loops = products.reduce((count, product) => count + termsOf(product).length, 0);
  const variant = given ?? variantFor(largest, loops);
  const [rows, columns] = tileOf(variant);
  const bound = bind(products);
  const sizes: Record<string, number> = {};
  const numbers: Record<string, number> = {};
  let end = 0;
  products.forEach((product, p) => {
    const { M, N, scale, cStart = 0, cStride = N } = product;
    const across = Math.ceil(N / columns);
    end += across * Math.ceil(M / rows);
    const own = { M, N, cStart, cStride, across, end };
    for (const [name, size] of Object.entries(own)) sizes[`${name}${p}`] = size;
    if (scale != null) numbers[`scale${p}`] = scale;
    termsOf(product).forEach((term, t) => {
      sizes[`K${p}_${t}`] = term.K;
      sizes[`a${p}_${t}Start`] = term.aStart ?? 0;
      sizes[`b${p}_${t}Start`] = term.bStart ?? 0;
      if (term.format) sizes[`b${p}_${t}Scales`] = scalesAt(term.format, term.b);
    });
  });
  launch({
    name: "matmul",
    source: productsText(
      products.map((product) => textOf(product, bound)),
      variant,
    ),
    reads: bound.reads,
    writes: bound.writes,
    vectors: [...bound.vectors],
    sizes,
    numbers,
    workgroups: end,
    threads: threadsOf(variant),
    enable: variant.kind === "quads" ? ["subgroups"] : [],
  });
}

function work({ M, N, K }: Product): number {
  return M * N * K;
}

interface Bound extends Pick<Kernel, "reads" | "writes"> {
  nameOf: (tensor: tf.TensorInfo) => string;
  /** Names of what is bound as vec4<f32>. */
  vectors: Set<string>;
}

/** A name for each tensor, however often it is used. Vectors where every use of it reads whole ones. */
function bind(products: Product[]): Bound {
  const names = new Map<object, string>();
  const reads: Record<string, tf.TensorInfo> = {};
  const writes: Record<string, tf.TensorInfo> = {};
  for (const tensor of products.flatMap(readsOf)) {
    if (names.has(tensor.dataId)) continue;
    names.set(tensor.dataId, `t${names.size}`);
    reads[names.get(tensor.dataId)!] = tensor;
  }
  products.forEach(({ c }, p) => {
    names.set(c.dataId, `c${p}`);
    writes[`c${p}`] = c;
  });
  const nameOf = ({ dataId }: tf.TensorInfo) => names.get(dataId)!;
  const vectors = new Set(names.values());
  for (const product of products) {
    const { bias, residual, c } = product;
    for (const term of termsOf(product)) {
      if (!isAligned(product, term, "a")) vectors.delete(nameOf(term.a));
      if (term.format || !isAligned(product, term, "b")) vectors.delete(nameOf(term.b));
    }
    if (bias) vectors.delete(nameOf(bias));
    if (!storesVectors(product)) for (const tensor of [c, residual]) if (tensor) vectors.delete(nameOf(tensor));
  }
  return { reads, writes, nameOf, vectors };
}

/** Whether the operand's stored rows begin at, and are as long as, a multiple of 4. */
function isAligned({ transposeA, transposeB, M, N }: Product, term: Term, side: "a" | "b"): boolean {
  const along = side === "a" ? (transposeA ? M : term.K) : transposeB ? term.K : N;
  const start = (side === "a" ? term.aStart : term.bStart) ?? 0;
  return along % 4 === 0 && start % 4 === 0;
}

function storesVectors({ N, cStart = 0, cStride = N }: Product): boolean {
  return [N, cStart, cStride].every((size) => size % 4 === 0);
}

function textOf(product: Product, { nameOf, vectors }: Bound): ProductText {
  const { transposeA, transposeB, c, bias, residual, accumulate = false, scale } = product;
  const operand = (term: Term, side: "a" | "b"): Operand => ({
    name: nameOf(term[side]),
    vectors: vectors.has(nameOf(term[side])),
    format: side === "b" ? (term.format ?? null) : null,
    alongK: side === "a" ? !transposeA : transposeB,
    aligned: isAligned(product, term, side),
  });
  return {
    terms: termsOf(product).map((term) => ({
      a: operand(term, "a"),
      b: operand(term, "b"),
      wholeK: term.K % 4 === 0,
    })),
    c: nameOf(c),
    cVectors: vectors.has(nameOf(c)),
    bias: bias ? nameOf(bias) : null,
    residual: residual ? nameOf(residual) : null,
    residualVectors: residual != null && vectors.has(nameOf(residual)),
    accumulate,
    scaled: scale != null,
  };
}
