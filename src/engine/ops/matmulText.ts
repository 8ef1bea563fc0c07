// The WGSL of matrix products. Each operand is read in blocks of 4 x 4 by one function, which knows its layout, its packing
// and its edges; what computes with the blocks is the same for all, in three variants.

import type { PackedFormat } from "../packed.ts";
import type * as tf from "../tf.ts";
import { lines } from "../wgsl.ts";

/**
 * How the threads of a workgroup share a product. Rows and columns are those of c that one thread computes.
 *
 * registers: 8 x 8 threads, each straight from memory: no barrier, which software GPUs are slow at.
 * quads: the same, the rows (a multiple of 4) read by four threads for each other: where a subgroup is four threads in a
 * row, as on software GPUs, whose loads cost as much as some ten multiplications.
 * shared: a tile of `down` x `across` threads, its operands brought to workgroup memory `depth` of K at a time.
 * split: 64 threads in `lanes` groups that take turns along K and add up at the end: for a c with few rows or few elements.
 */
export type Variant =
  | { kind: "registers"; rows: number; columns: number }
  | { kind: "quads"; rows: number; columns: number }
  | { kind: "shared"; down: number; across: number; rows: number; columns: number; depth: number }
  | { kind: "split"; lanes: number; rows: number };

/** How a tensor holds a matrix. */
export interface Stored {
  /** Of the tensor that is bound. */
  name: string;
  /** Bound as vec4<f32>. */
  vectors: boolean;
  format: PackedFormat | null;
}

/** One factor of a term, as the text sees it. */
export interface Operand extends Stored {
  /** Whether elements that follow each other in memory follow each other along K. */
  alongK: boolean;
  /** Whether the length of a stored row is a multiple of 4, and so is where it starts. */
  aligned: boolean;
}

export interface TermText {
  a: Operand;
  b: Operand;
  /** Whether K is a multiple of 4. */
  wholeK: boolean;
}

export interface ProductText {
  terms: TermText[];
  c: string;
  cVectors: boolean;
  bias: string | null;
  residual: string | null;
  residualVectors: boolean;
  accumulate: boolean;
  scaled: boolean;
}

/** Threads of a workgroup. */
export function threadsOf(variant: Variant): number {
  return variant.kind === "shared" ? variant.down * variant.across : 64;
}

/** Rows and columns of c that a workgroup computes. */
export function tileOf(variant: Variant): [number, number] {
  const { rows } = variant;
  if (variant.kind === "registers" || variant.kind === "quads") return [8 * rows, 8 * variant.columns];
  if (variant.kind === "shared") return [variant.down * rows, variant.across * variant.columns];
  return [rows, (64 / variant.lanes) * 4];
}

/** Kernel of the products, whose tiles are numbered one after another. Product p's uniforms end in p, term t's in p_t. */
export function productsText(products: ProductText[], variant: Variant): string {
  const [rows, columns] = tileOf(variant);
  const { depth = 0 } = variant as { depth?: number };
  const memory = {
    registers: "",
    quads: "",
    shared: `var<workgroup> tileA: array<vec4<f32>, ${(rows * depth) / 4}>;
      var<workgroup> tileB: array<vec4<f32>, ${(columns * depth) / 4}>;`,
    split: `var<workgroup> parts: array<vec4<f32>, ${64 * rows}>;`,
  };
  const body = { registers: registersText, quads: registersText, shared: sharedText, split: splitText }[
    variant.kind
  ] as (product: ProductText, p: number, variant: Variant) => string;
  return /* wgsl */ `
    ${memory[variant.kind]}
    ${products.map((product, p) => product.terms.map((term, t) => readers(term, p, `${p}_${t}`, variant.kind === "quads")).join("")).join("")}
    ${products.map(finishText).join("")}
    ${products.map((product, p) => body(product, p, variant)).join("")}
    fn main(group: u32, thread: u32) {
      ${lines(products.length, (p) => `if (group < u.end${p}) { product${p}(group${p > 0 ? ` - u.end${p - 1}` : ""}, thread); return; }`)}
    }
  `;
}

/** What the CPU kernels call the formats. */
export const FORMAT_CODES: Record<PackedFormat, number> = { f16: 0, int8: 1, int4: 2 };

/** Where the scales begin in a matrix's words: a word holds 4 or 8 values, and 32 values have a scale. */
export function scalesAt(format: PackedFormat, words: tf.TensorInfo): number {
  const count = words.shape[0];
  return { f16: count, int8: (count * 8) / 9, int4: (count * 4) / 5 }[format];
}

const FOUR = [0, 1, 2, 3];

const select4 = (part: (q: number) => string): string => FOUR.map(part).join(", ");

/** Functions a{id} and b{id} for the two operands of a term. */
function readers({ a, b, wholeK }: TermText, p: number, id: string, quads = false): string {
  return reader(a, `a${id}`, `u.M${p}`, `u.K${id}`, wholeK, quads) + reader(b, `b${id}`, `u.N${p}`, `u.K${id}`, wholeK);
}

/**
 * {name}(i, k): element (i + column, k + row) of the operand in each row and column of a 4 x 4 matrix; {name}row(i, k):
 * four elements along K. i past the end gives what stands before it, k past the end gives zeros.
 */
function reader(operand: Operand, name: string, size: string, K: string, wholeK: boolean, quads = false): string {
  const inside = (q: number | string, value: string, zero: string) =>
    wholeK ? value : `select(${zero}, ${value}, k + ${typeof q === "string" ? q : `${q}u`} < ${K})`;
  const step = (q: number | string) => (typeof q === "string" ? q : `${q}u`);
  const at = (q: number | string) => (wholeK ? `(k + ${step(q)})` : `min(k + ${step(q)}, ${K} - 1u)`);
  const single = (q: number) => {
    const index = operand.alongK ? `start + ${at(q)}` : `start + ${at(q)} * ${size} + min(i, ${size} - 1u)`;
    return inside(q, `${name}one(${index})`, "0.0");
  };
  const across = (q: number | string) => {
    const row = `start + ${at(q)} * ${size}`;
    const value = operand.aligned
      ? `${name}four(${row} + min(i, ${size} - 4u))`
      : `vec4<f32>(${select4((j) => `${name}one(${row} + min(i + ${j}u, ${size} - 1u))`)})`;
    return inside(q, value, "vec4<f32>()");
  };
  const start = operand.alongK ? `u.${name}Start + min(i, ${size} - 1u) * ${K}` : `u.${name}Start`;
  const row = operand.alongK && operand.aligned ? `${name}four(start + k)` : `vec4<f32>(${select4(single)})`;
  const block = operand.alongK
    ? `return transpose(mat4x4<f32>(${select4((q) => `${name}row(i + ${q}u, k)`)}));`
    : `let start = ${start}; return mat4x4<f32>(${select4(across)});`;
  const quadText = /* wgsl */ `
    @diagnostic(off, subgroup_uniformity) // Its four lanes are there together or not at all.
    fn ${name}quad(i: u32, k: u32, lane: u32) -> mat4x4<f32> {
      ${operand.alongK ? "" : `let start = ${start};`}
      let own = ${operand.alongK ? `${name}row(i + lane, k)` : across("lane")};
      return ${operand.alongK ? "transpose" : ""}(mat4x4<f32>(${select4((q) => `subgroupBroadcast(own, ${q}u)`)}));
    }
  `;
  return /* wgsl */ `
    ${elements(operand, name)}
    fn ${name}row(i: u32, k: u32) -> vec4<f32> {
      if (k >= ${K}) { return vec4<f32>(); }
      let start = ${start};
      return ${row};
    }
    fn ${name}(i: u32, k: u32) -> mat4x4<f32> {
      if (k >= ${K}) { return mat4x4<f32>(); }
      ${block}
    }
    ${quads ? quadText : ""}
  `;
}

/** {name}four(i): the elements from i on, i a multiple of 4 unless they are plain numbers; {name}one(i): element i. */
export function elements({ name: tensor, vectors, format }: Stored, name: string): string {
  const scale = `bitcast<f32>(${tensor}[u.${name}Scales + i / 32u])`;
  const half = (word: string) => `unpack2x16float(bitcast<u32>(${tensor}[${word}]))`;
  const four = {
    f32: plainFour(tensor, vectors, "i"),
    f16: `vec4<f32>(${half("i / 2u")}, ${half("i / 2u + 1u")})`,
    int8: `${scale} * vec4<f32>((vec4<i32>(${tensor}[i / 4u]) << vec4<u32>(24u, 16u, 8u, 0u)) >> vec4<u32>(24u))`,
    int4: `${scale} * vec4<f32>(((vec4<i32>(${tensor}[i / 8u] >> ((i & 4u) * 4u)) >> vec4<u32>(0u, 4u, 8u, 12u))
      & vec4<i32>(15)) - vec4<i32>(8))`,
  }[format ?? "f32"];
  const one = format === "f16" ? `${half("i / 2u")}[i & 1u]` : `${name}four(i - (i & 3u))[i & 3u]`;
  return /* wgsl */ `
    fn ${name}four(i: u32) -> vec4<f32> { return ${four}; }
    fn ${name}one(i: u32) -> f32 { return ${format || vectors ? one : `${tensor}[i]`}; }
  `;
}

function plainFour(tensor: string, vectors: boolean, at: string): string {
  if (vectors) return `${tensor}[(${at}) / 4u]`;
  return `vec4<f32>(${select4((q) => `${tensor}[${at} + ${q}u]`)})`;
}

/** finish{p}(row, column, value): four elements of c, of which those inside it are stored. */
function finishText(product: ProductText, p: number): string {
  const { c, cVectors, bias, residual, residualVectors, accumulate, scaled } = product;
  const store = accumulate ? "+=" : "=";
  const vector = () => {
    const terms = ["y"];
    if (bias) terms.push(plainFour(bias, false, "column"));
    if (residual) terms.push(plainFour(residual, residualVectors, "beside"));
    return `${c}[at / 4u] ${store} ${terms.join(" + ")};`;
  };
  const element = (q: number) => {
    const terms = [`y[${q}]`];
    if (bias) terms.push(`${bias}[column + ${q}u]`);
    if (residual) terms.push(`${residual}[beside + ${q}u]`);
    return `if (column + ${q}u < u.N${p}) { ${c}[at + ${q}u] ${store} ${terms.join(" + ")}; }`;
  };
  return /* wgsl */ `
    fn finish${p}(row: u32, column: u32, value: vec4<f32>) {
      if (row >= u.M${p} || column >= u.N${p}) { return; }
      let at = u.cStart${p} + row * u.cStride${p} + column;
      let beside = row * u.N${p} + column;
      let y = ${scaled ? `u.scale${p} * value` : "value"};
      ${cVectors ? vector() : lines(4, element)}
    }
  `;
}

/** Declares the sums: c{i}_{v} for row i and the v-th four columns. */
const sums = (rows: number, vectors: number): string =>
  lines(rows, (i) => lines(vectors, (v) => `var c${i}_${v} = vec4<f32>();`));

/** Adds to the sums: step q of a block, of which a(i) is the element of row i and b(v) the v-th four columns. */
const addStep = (rows: number, vectors: number, a: (i: number) => string, b: (v: number) => string): string =>
  lines(rows, (i) => lines(vectors, (v) => `c${i}_${v} += ${a(i)} * ${b(v)};`));

/** Statements that read blocks at k and add their products to the sums. `row` and `column` give where a group begins. */
function addBlocks(
  id: string,
  rows: number,
  vectors: number,
  row: (group: number) => string,
  column: (v: number) => string,
  quads = false,
): string {
  const single = rows < 4; // Then a row at a time, so that none is read in vain.
  const loads = single
    ? lines(rows, (i) => `let x${i} = a${id}row(${row(0)} + ${i}u, k);`)
    : lines(rows / 4, (g) => `let x${g} = a${id}${quads ? "quad" : ""}(${row(g)}, k${quads ? ", thread % 4u" : ""});`);
  const a = (q: number) => (i: number) => (single ? `x${i}[${q}]` : `x${Math.floor(i / 4)}[${q}][${i % 4}]`);
  return /* wgsl */ `
    ${loads}
    ${lines(vectors, (v) => `let y${v} = b${id}(${column(v)}, k);`)}
    ${lines(4, (q) => addStep(rows, vectors, a(q), (v) => `y${v}[${q}]`))}
  `;
}

function registersText({ terms }: ProductText, p: number, variant: Variant): string {
  const { rows, columns, kind } = variant as Variant & { kind: "registers" | "quads" };
  const quads = kind === "quads";
  const vectors = columns / 4;
  const row = (g: number) => `row + ${4 * g}u`;
  const column = (v: number) => `column + ${4 * v}u`;
  const loop = (_: TermText, t: number) => /* wgsl */ `
    for (var k = 0u; k < u.K${p}_${t}; k += 4u) { ${addBlocks(`${p}_${t}`, rows, vectors, row, column, quads)} }
  `;
  return /* wgsl */ `
    fn product${p}(tile: u32, thread: u32) {
      let row = (tile / u.across${p}) * ${8 * rows}u + (thread / 8u) * ${rows}u;
      let column = (tile % u.across${p}) * ${8 * columns}u + (thread % 8u) * ${columns}u;
      if (row >= u.M${p} || column ${quads ? `- (thread % 4u) * ${columns}u ` : ""}>= u.N${p}) { return; }
      ${sums(rows, vectors)}
      ${terms.map(loop).join("")}
      ${lines(rows, (i) => lines(vectors, (v) => `finish${p}(row + ${i}u, ${column(v)}, c${i}_${v});`))}
    }
  `;
}

// A thread's rows come in groups of 4 that lie 4 * down apart, its columns in groups 4 * across apart: neighbours then read
// neighbouring vectors of workgroup memory.
function sharedText({ terms }: ProductText, p: number, variant: Variant): string {
  const { down, across, rows, columns, depth } = variant as Variant & { kind: "shared" };
  const [groups, vectors] = [rows / 4, columns / 4];
  const [tileRows, tileColumns] = [(down * rows) / 4, (across * columns) / 4]; // In vectors.
  const steps = depth / 4;
  const bring = (tile: string, operand: string, alongK: boolean, count: number, first: string) => /* wgsl */ `
    for (var block = thread; block < ${count * steps}u; block += THREADS) {
      let step = block ${alongK ? `% ${steps}u` : `/ ${count}u`};
      let place = block ${alongK ? `/ ${steps}u` : `% ${count}u`};
      let values = ${operand}(${first} + 4u * place, k0 + 4u * step);
      ${lines(4, (q) => `${tile}[(4u * step + ${q}u) * ${count}u + place] = values[${q}];`)}
    }
  `;
  const loop = ({ a, b }: TermText, t: number) => /* wgsl */ `
    for (var k0 = 0u; k0 < u.K${p}_${t}; k0 += ${depth}u) {
      ${bring("tileA", `a${p}_${t}`, a.alongK, tileRows, "top")}
      ${bring("tileB", `b${p}_${t}`, b.alongK, tileColumns, "left")}
      workgroupBarrier();
      for (var k = 0u; k < ${depth}u; k++) {
        ${lines(groups, (g) => `let x${g} = tileA[k * ${tileRows}u + ${g * down}u + y];`)}
        ${lines(vectors, (v) => `let y${v} = tileB[k * ${tileColumns}u + ${v * across}u + x];`)}
        ${addStep(
          rows,
          vectors,
          (i) => `x${Math.floor(i / 4)}[${i % 4}]`,
          (v) => `y${v}`,
        )}
      }
      workgroupBarrier();
    }
  `;
  const place = (i: number) => `top + 4u * (${Math.floor(i / 4) * down}u + y) + ${i % 4}u`;
  return /* wgsl */ `
    fn product${p}(tile: u32, thread: u32) {
      let top = (tile / u.across${p}) * ${4 * tileRows}u;
      let left = (tile % u.across${p}) * ${4 * tileColumns}u;
      let y = thread / ${across}u;
      let x = thread % ${across}u;
      ${sums(rows, vectors)}
      ${terms.map(loop).join("")}
      ${lines(rows, (i) =>
        lines(vectors, (v) => `finish${p}(${place(i)}, left + 4u * (${v * across}u + x), c${i}_${v});`),
      )}
    }
  `;
}

function splitText({ terms }: ProductText, p: number, variant: Variant): string {
  const { lanes, rows } = variant as Variant & { kind: "split" };
  const across = 64 / lanes;
  // Neighbouring threads read what lies side by side.
  const [lane, place] = terms[0].b.alongK
    ? [`thread % ${lanes}u`, `thread / ${lanes}u`]
    : [`thread / ${across}u`, `thread % ${across}u`];
  const loop = (_: TermText, t: number) => /* wgsl */ `
    for (var k = 4u * lane; k < u.K${p}_${t}; k += ${4 * lanes}u) {
      ${addBlocks(
        `${p}_${t}`,
        rows,
        1,
        (g) => `top + ${4 * g}u`,
        () => "left + 4u * place",
      )}
    }
  `;
  return /* wgsl */ `
    fn product${p}(tile: u32, thread: u32) {
      let top = (tile / u.across${p}) * ${rows}u;
      let left = (tile % u.across${p}) * ${4 * across}u;
      let lane = ${lane};
      let place = ${place};
      ${sums(rows, 1)}
      ${terms.map(loop).join("")}
      ${lines(rows, (i) => `parts[(${i * across}u + place) * ${lanes}u + lane] = c${i}_0;`)}
      workgroupBarrier();
      for (var own = thread; own < ${rows * across}u; own += THREADS) {
        var sum = vec4<f32>();
        for (var i = 0u; i < ${lanes}u; i++) { sum += parts[own * ${lanes}u + i]; }
        finish${p}(top + own / ${across}u, left + 4u * (own % ${across}u), sum);
      }
    }
  `;
}
