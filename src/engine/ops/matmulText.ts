// The WGSL of matrix products. Each operand is read in blocks of 4 x 4 by one function, which knows its layout, its packing
// and its edges; what computes with the blocks is the same for all, in three variants.

import type { PackedFormat } from "../packed.ts";
import type * as tf from "../tf.ts";
import { lines } from "../wgsl.ts";

/**
 * How the threads of a workgroup share a product. Rows and columns are those of c that one thread computes.
 *
 * registers: 8 x 8 threads, each straight from memory: no barrier, which software GPUs are slow at.
 * quads: 4 x 4 subgroups of four threads, each of which reads its rows and its columns, passes its rows round and so meets
 * those of all four: few loads, of which one takes software GPUs as long as some fifteen multiplications.
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
  if (variant.kind === "registers") return [8 * rows, 8 * variant.columns];
  if (variant.kind === "quads") return [16 * rows, 16 * variant.columns];
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
  const body = { registers: registersText, quads: quadsText, shared: sharedText, split: splitText }[variant.kind] as (
    product: ProductText,
    p: number,
    variant: Variant,
  ) => string;
  return /* wgsl */ `
    ${memory[variant.kind]}
    ${products.map((product, p) => product.terms.map((term, t) => readers(term, p, `${p}_${t}`)).join("")).join("")}
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
function readers({ a, b, wholeK }: TermText, p: number, id: string): string {
  return reader(a, `a${id}`, `u.M${p}`, `u.K${id}`, wholeK) + reader(b, `b${id}`, `u.N${p}`, `u.K${id}`, wholeK);
}

/**
 * {name}(i, k): element (i + column, k + row) of the operand in each row and column of a 4 x 4 matrix; {name}row(i, k):
 * four elements along K. i past the end gives what stands before it, k past the end gives zeros.
 *
 * {name}block({name}at(i), k, size) is {name}(i, k) for a k below K, with what does not depend on k taken out of loops:
 * software GPUs would compute it again each time.
 */
function reader(operand: Operand, name: string, size: string, K: string, wholeK: boolean): string {
  const inside = (q: number, value: string, zero: string) =>
    wholeK ? value : `select(${zero}, ${value}, k + ${q}u < ${K})`;
  const at = (q: number) => (wholeK ? `(k + ${q}u)` : `min(k + ${q}u, ${K} - 1u)`);
  const along = (start: string) => {
    if (operand.aligned) return `${name}four(${start} + k)`;
    return `vec4<f32>(${select4((q) => inside(q, `${name}one(${start} + ${at(q)})`, "0.0"))})`;
  };
  const across = (q: number) => {
    const row = `${at(q)} * size`;
    const value = operand.aligned
      ? `${name}four(start.x + ${row})`
      : `vec4<f32>(${select4((j) => `${name}one(start[${j}] + ${row})`)})`;
    return inside(q, value, "vec4<f32>()");
  };
  const single = (q: number) => inside(q, `${name}one(start + ${at(q)} * ${size})`, "0.0");
  const last = !operand.alongK && operand.aligned ? 4 : 1;
  const places = `min(vec4<u32>(i) + vec4<u32>(0u, 1u, 2u, 3u), vec4<u32>(${size} - ${last}u))`;
  const place = `u.${name}Start + min(i, ${size} - 1u)`;
  return /* wgsl */ `
    ${elements(operand, name)}
    fn ${name}row(i: u32, k: u32) -> vec4<f32> {
      if (k >= ${K}) { return vec4<f32>(); }
      let start = ${place}${operand.alongK ? ` * ${K}` : ""};
      return ${operand.alongK ? along("start") : `vec4<f32>(${select4(single)})`};
    }
    fn ${name}at(i: u32) -> vec4<u32> { return u.${name}Start + ${places}${operand.alongK ? ` * ${K}` : ""}; }
    fn ${name}block(start: vec4<u32>, k: u32, size: u32) -> mat4x4<f32> {
      return ${
        operand.alongK
          ? `transpose(mat4x4<f32>(${select4((j) => along(`start[${j}]`))}))`
          : `mat4x4<f32>(${select4(across)})`
      };
    }
    fn ${name}(i: u32, k: u32) -> mat4x4<f32> {
      if (k >= ${K}) { return mat4x4<f32>(); }
      return ${name}block(${name}at(i), k, ${size});
    }
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

/** Where a thread reads: `row` and `column` give where a group of four begins. */
interface Place {
  rows: number;
  vectors: number;
  row: (group: number) => string;
  column: (v: number) => string;
}

/** Statements around a loop over k, which `loop` is, that read at k and add the products to the sums. */
function addBlocks(p: number, t: number, loop: string, { rows, vectors, row, column }: Place): string {
  const id = `${p}_${t}`;
  const single = rows < 4; // Then a row at a time, so that none is read in vain.
  const groups = single ? 0 : rows / 4;
  const a = (q: number) => (i: number) => (single ? `x${i}[${q}]` : `x${Math.floor(i / 4)}[${q}][${i % 4}]`);
  return /* wgsl */ `{
    ${lines(groups, (g) => `let a${g} = a${id}at(${row(g)});`)}
    ${lines(vectors, (v) => `let b${v} = b${id}at(${column(v)});`)}
    let M = u.M${p};
    let N = u.N${p};
    ${loop} {
      ${single ? lines(rows, (i) => `let x${i} = a${id}row(${row(0)} + ${i}u, k);`) : ""}
      ${lines(groups, (g) => `let x${g} = a${id}block(a${g}, k, M);`)}
      ${lines(vectors, (v) => `let y${v} = b${id}block(b${v}, k, N);`)}
      ${lines(4, (q) => addStep(rows, vectors, a(q), (v) => `y${v}[${q}]`))}
    }
  }`;
}

function registersText({ terms }: ProductText, p: number, variant: Variant): string {
  const { rows, columns } = variant as Variant & { kind: "registers" };
  const vectors = columns / 4;
  const place: Place = { rows, vectors, row: (g) => `row + ${4 * g}u`, column: (v) => `column + ${4 * v}u` };
  return /* wgsl */ `
    fn product${p}(tile: u32, thread: u32) {
      let row = (tile / u.across${p}) * ${8 * rows}u + (thread / 8u) * ${rows}u;
      let column = (tile % u.across${p}) * ${8 * columns}u + (thread % 8u) * ${columns}u;
      if (row >= u.M${p} || column >= u.N${p}) { return; }
      ${sums(rows, vectors)}
      ${terms.map((_, t) => addBlocks(p, t, `for (var k = 0u; k < u.K${p}_${t}; k += 4u)`, place)).join("")}
      ${lines(rows, (i) => lines(vectors, (v) => `finish${p}(row + ${i}u, ${place.column(v)}, c${i}_${v});`))}
    }
  `;
}

/** What a thread of four gets from the one whose number differs from its own in the bits of d. */
export const PASSED = ["", "quadSwapX", "quadSwapY", "quadSwapDiagonal"];

// In the sums c{d}i_v a thread has the products of its own columns with row i of the thread whose number is its own ^ d.
function quadsText({ terms }: ProductText, p: number, variant: Variant): string {
  const { rows, columns } = variant as Variant & { kind: "quads" };
  const [groups, vectors] = [rows / 4, columns / 4];
  const passed = (pass: string, g: number) => `mat4x4<f32>(${select4((q) => `${pass}(x${g}[${q}])`)})`;
  const add = (pass: string, d: number) => /* wgsl */ `{
    ${lines(groups, (g) => `let z${g} = ${passed(pass, g)};`)}
    ${lines(rows, (i) =>
      lines(vectors, (v) => lines(4, (q) => `c${d}${i}_${v} += z${Math.floor(i / 4)}[${q}][${i % 4}] * y${v}[${q}];`)),
    )}
  }`;
  const loop = (_: TermText, t: number) => /* wgsl */ `{
    ${lines(groups, (g) => `let a${g} = a${p}_${t}at(top + lane * ${rows}u + ${4 * g}u);`)}
    ${lines(vectors, (v) => `let b${v} = b${p}_${t}at(column + ${4 * v}u);`)}
    let K = u.K${p}_${t};
    for (var k = 0u; k < K; k += 4u) {
      ${lines(groups, (g) => `let x${g} = a${p}_${t}block(a${g}, k, M);`)}
      ${lines(vectors, (v) => `let y${v} = b${p}_${t}block(b${v}, k, N);`)}
      ${PASSED.map(add).join("")}
    }
  }`;
  return /* wgsl */ `
    @diagnostic(off, subgroup_uniformity) // The four are there together or not at all.
    fn product${p}(tile: u32, thread: u32) {
      let M = u.M${p};
      let N = u.N${p};
      let lane = thread % 4u;
      let top = (tile / u.across${p}) * ${16 * rows}u + (thread / 16u) * ${4 * rows}u;
      let left = (tile % u.across${p}) * ${16 * columns}u + (thread / 4u % 4u) * ${4 * columns}u;
      if (top >= M || left >= N) { return; }
      let column = left + lane * ${columns}u;
      ${PASSED.map((_, d) => sums(rows, vectors).replaceAll("var c", `var c${d}`)).join("")}
      ${terms.map(loop).join("")}
      ${PASSED.map((_, d) =>
        lines(rows, (i) =>
          lines(
            vectors,
            (v) => `finish${p}(top + (lane ^ ${d}u) * ${rows}u + ${i}u, column + ${4 * v}u, c${d}${i}_${v});`,
          ),
        ),
      ).join("")}
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
  const own: Place = { rows, vectors: 1, row: (g) => `top + ${4 * g}u`, column: () => "left + 4u * place" };
  const step = (t: number) => `for (var k = 4u * lane; k < u.K${p}_${t}; k += ${4 * lanes}u)`;
  return /* wgsl */ `
    fn product${p}(tile: u32, thread: u32) {
      let top = (tile / u.across${p}) * ${rows}u;
      let left = (tile % u.across${p}) * ${4 * across}u;
      let lane = ${lane};
      let place = ${place};
      ${sums(rows, 1)}
      ${terms.map((_, t) => addBlocks(p, t, step(t), own)).join("")}
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
