// WGSL of products of gathered rows: c[m, n] = the sum over k of left(m, k) * right(n, k), for blocks of rows and columns
// that a text of its own finds. In two forms: `registers`, where each thread computes from memory without a barrier
// (software GPUs are slow at them), and `tiles`, where a workgroup brings both factors to its own memory first.

import type { PackedFormat } from "../packed.ts";
import { lines } from "../wgsl.ts";
import { elements, PASSED } from "./matmulText.ts";

export type Form = "registers" | "tiles";

/** How many rows and columns a thread (of `registers`) or a workgroup (of `tiles`) computes. */
export interface Shape {
  rows: number;
  columns: number;
}

const TILE = 64; // Rows and columns of a tile,
const DEPTH = 16; // and how much of k is brought to the workgroup at a time.
const OWN = 4; // Rows and columns of a tile that one thread computes.
const SIDE = TILE / OWN;
const PITCH = TILE + 1; // Lets threads that store along k meet different banks.

export const TILE_SHAPE: Shape = { rows: TILE, columns: TILE };
export const TILE_THREADS = SIDE * SIDE;

/** One sum over k. Expressions may use `b`, the block that was found. */
export interface Pass {
  /** Uniform over the block; always if not given. */
  when?: string;
  /** The length of k. */
  depth: string;
  /** Statements before the factors are read at `k`. */
  each?: string;
  /** One of each, or of one of them several. */
  left: Factor[];
  right: Factor[];
}

/**
 * A tensor and where to read it: an expression in `h`, the row's or column's handle, and in `k`. Of one that is stored small
 * the name is bound to its words, and `u.{name}Scales` is where the scales begin.
 */
export type Factor = [tensor: string, index: string, format?: PackedFormat];

export interface BlockProduct {
  /** Declarations: `struct Block` with `rows` and `columns`, the block's sizes, and `fn find(block: u32) -> Block`. */
  blocks: string;
  /** `fn store(b: Block, m: u32, n: u32, …)` gets a vector of neighbouring columns for each sum, the first inside. */
  store: string;
  /** What a row `m` and a column `n` of the block are known by. */
  rowHandle: string;
  columnHandle: string;
  passes: Pass[];
  /** Whether neighbours in k are neighbours in memory; else those in m or n are. */
  leftAlongK: boolean;
  rightAlongK: boolean;
}

/** How many sums there are. */
function sumsOf({ passes: [{ left, right }] }: BlockProduct): number {
  return Math.max(left.length, right.length);
}

/** The index with the handle's name put in. */
const indexOf = ([, index]: Factor, handle: string): string => index.replaceAll(/\bh\b/g, handle);

/** One element, and four neighbours, the first at a multiple of 4. */
const element = (factor: Factor, handle = "h"): string => {
  const index = indexOf(factor, handle);
  return factor[2] ? `${factor[0]}one(${index})` : `${factor[0]}[${index}]`;
};
const four = (factor: Factor, handle: string): string => {
  const index = indexOf(factor, handle);
  return factor[2] ? `${factor[0]}four(${index})` : `${factor[0]}[(${index}) / 4u]`;
};

export function factorsOf({ passes }: BlockProduct): Factor[] {
  return passes.flatMap(({ left, right }) => [...left, ...right]);
}

/**
 * How a thread of `registers` reads; loads are what software GPUs spend their time on. quads: four numbers at a time, where
 * all lengths and starts are multiples of 4 and the float32 factors' tensors are bound as vec4<f32>; and four threads in a
 * row, which are a subgroup, pass the rows they read round. They share a block of 16 rows and have 4 columns each;
 * `u.across` is a multiple of 4.
 */
export type Reading = "elements" | "quads";

/** Rows of a block and columns of a thread of `quads`. */
export const QUAD_SHAPE: Shape = { rows: 16, columns: 4 };

/** The whole text. `u.across`: blocks from left to right. */
export function blockProduct(form: Form, product: BlockProduct, shape: Shape, reading: Reading): string {
  return /* wgsl */ `
    ${product.blocks}
    ${factorsOf(product)
      .map(([name, , format]) => (format ? elements({ name, vectors: false, format }, name) : ""))
      .join("")}
    ${product.store.replaceAll("VECTOR", `vec${form === "tiles" ? OWN : shape.columns}<f32>`)}
    fn rowHandle(b: Block, m: u32) -> u32 { return ${product.rowHandle}; }
    fn columnHandle(b: Block, n: u32) -> u32 { return ${product.columnHandle}; }
    ${form === "tiles" ? tiles(product) : reading === "quads" ? quads(product) : registers(product, shape)}
  `;
}

/** The loop of every pass, where it applies. */
function loops({ passes }: BlockProduct, loop: (pass: Pass) => string): string {
  return passes.map((pass) => (pass.when ? `if (${pass.when}) { ${loop(pass)} }` : loop(pass))).join("\n");
}

const placeOf = (row: string) => `rowHandle(b, min(${row}, b.rows - 1u))`;

function registers(product: BlockProduct, { rows, columns }: Shape): string {
  const sums = sumsOf(product);
  const loop = ({ depth, each = "", left, right }: Pass): string => /* wgsl */ `
    for (var k = 0u; k < ${depth}; k++) {
      ${each}
      ${right.map((factor, i) => `let y${i} = vec${columns}<f32>(${across(columns, (c) => element(factor, `n${c}`))});`).join("\n")}
      ${lines(rows, (r) => left.map((factor, i) => `let x${i}r${r} = ${element(factor, `m${r}`)};`).join(" "))}
      ${everySum(rows, sums, (r, s) => `s${s}r${r} += x${of(left, s)}r${r} * y${of(right, s)};`)}
    }
  `;
  return /* wgsl */ `
    fn main(group: u32, thread: u32) {
      let i = group * THREADS + thread;
      let b = find(i / u.across);
      let column = i % u.across * ${columns}u;
      if (b.rows == 0u || column >= b.columns) { return; }
      ${lines(rows, (r) => `let m${r} = ${placeOf(`${r}u`)};`)}
      ${columnHandles(columns)}
      ${everySum(rows, sums, (r, s) => `var s${s}r${r} = vec${columns}<f32>();`)}
      ${loops(product, loop)}
      ${lines(rows, (r) => `if (${r}u < b.rows) { store(b, ${r}u, column, ${names(sums, r)}); }`)}
    }
  `;
}

const columnHandles = (columns: number): string =>
  lines(columns, (c) => `let n${c} = columnHandle(b, min(column + ${c}u, b.columns - 1u));`);

function everySum(rows: number, sums: number, line: (r: number, s: number) => string): string {
  return lines(rows * sums, (i) => line(Math.floor(i / sums), i % sums));
}

const of = (list: Factor[], s: number): number => Math.min(s, list.length - 1);

const across = (columns: number, part: (c: number) => string): string =>
  Array.from({ length: columns }, (_, c) => part(c)).join(", ");

// In the sums s{s}r{4 * d + i} a thread has the products of its own columns with row i of the thread whose number is its
// own ^ d.
function quads(product: BlockProduct): string {
  const sums = sumsOf(product);
  const { rows, columns } = QUAD_SHAPE;
  const loop = (pass: Pass): string => /* wgsl */ `{
    let depth = ${pass.depth};
    for (var k0 = 0u; k0 < depth; k0 += 4u) {
      ${readFours(product, pass)}
      ${PASSED.map((passed, d) => addPassed(product, pass, passed, d)).join("\n")}
    }
  }`;
  return /* wgsl */ `
    @diagnostic(off, subgroup_uniformity) // A quad's threads are there together or not at all.
    fn main(group: u32, thread: u32) {
      let i = group * THREADS + thread;
      let b = find(i / u.across);
      let lane = thread % 4u;
      let column = i % u.across * ${columns}u;
      if (b.rows == 0u || column - lane * ${columns}u >= b.columns) { return; }
      ${lines(4, (r) => `let m${r} = ${placeOf(`4u * lane + ${r}u`)};`)}
      ${columnHandles(columns)}
      ${everySum(rows, sums, (r, s) => `var s${s}r${r} = vec4<f32>();`)}
      ${loops(product, loop)}
      if (column >= b.columns) { return; }
      ${lines(rows, (r) => {
        const row = `4u * (lane ^ ${r >> 2}u) + ${r & 3}u`;
        return `if (${row} < b.rows) { store(b, ${row}, column, ${names(sums, r)}); }`;
      })}
    }
  `;
}

/**
 * Declares what a thread reads at k0: of each factor four vectors, x{i}v{j} and y{i}v{j}, the j-th of them four k of the
 * j-th row or column, or four rows or columns of the j-th k. The depth is a multiple of 4 where neighbours in k are
 * neighbours in memory; else past its end there are zeros.
 */
function readFours({ leftAlongK, rightAlongK }: BlockProduct, { each = "", left, right }: Pass): string {
  const sides = [
    { name: "x", handle: "m", factors: left, alongK: leftAlongK },
    { name: "y", handle: "n", factors: right, alongK: rightAlongK },
  ];
  const reads = (alongK: boolean, read: (vector: string, factor: Factor, handle: string) => string): string =>
    sides
      .filter((side) => side.alongK === alongK)
      .flatMap(({ name, handle, factors }) => factors.map((factor, i) => read(`${name}${i}v`, factor, handle)))
      .join("\n");
  return /* wgsl */ `
    ${reads(true, (vector, factor, handle) =>
      lines(4, (j) => `let ${vector}${j} = ${four(factor, `${handle}${j}`).replaceAll(/\bk\b/g, "k0")};`),
    )}
    ${reads(false, (vector) => lines(4, (j) => `var ${vector}${j} = vec4<f32>();`))}
    ${lines(
      4,
      (j) => /* wgsl */ `{
        let k = ${leftAlongK ? `k0 + ${j}u` : `min(k0 + ${j}u, depth - 1u)`};
        ${each}
        ${reads(false, (vector, factor, handle) => {
          const value = four(factor, `${handle}0`);
          return `${vector}${j} = ${handle === "m" ? `select(vec4<f32>(), ${value}, k0 + ${j}u < depth)` : value};`;
        })}
      }`,
    )}
  `;
}

function addPassed(product: BlockProduct, { left, right }: Pass, passed: string, d: number): string {
  const x = (i: number, r: number, q: number) => (product.leftAlongK ? `z${i}v${r}[${q}]` : `z${i}v${q}[${r}]`);
  const y = (i: number, q: number) =>
    product.rightAlongK ? `vec4<f32>(${across(4, (c) => `y${i}v${c}[${q}]`)})` : `y${i}v${q}`;
  return /* wgsl */ `{
    ${left.map((_, i) => lines(4, (j) => `let z${i}v${j} = ${passed}(x${i}v${j});`)).join("\n")}
    ${everySum(4, sumsOf(product), (r, s) =>
      lines(4, (q) => `s${s}r${4 * d + r} += ${x(of(left, s), r, q)} * ${y(of(right, s), q)};`),
    )}
  }`;
}

const names = (sums: number, r: number): string => Array.from({ length: sums }, (_, s) => `s${s}r${r}`).join(", ");

function tiles(product: BlockProduct): string {
  const sums = sumsOf(product);
  const [{ left, right }] = product.passes;
  const bring = (side: "left" | "right", factors: Factor[], alongK: boolean, limit: string, handle: string): string => {
    const [place, k] = alongK ? [`i / ${DEPTH}u`, `i % ${DEPTH}u`] : [`i % ${TILE}u`, `i / ${TILE}u`];
    return /* wgsl */ `
      for (var i = thread; i < ${TILE * DEPTH}u; i += THREADS) {
        let place = ${place};
        let inTile = ${k};
        let k = k0 + inTile;
        let slot = inTile * ${PITCH}u + place;
        if (k < depth && ${limit}) {
          let h = ${handle};
          EACH
          ${factors.map((factor, f) => `${side}${f}[slot] = ${element(factor)};`).join("\n")}
        } else {
          ${factors.map((_, f) => `${side}${f}[slot] = 0.0;`).join("\n")}
        }
      }
    `;
  };
  const loop = ({ depth, each = "", left, right }: Pass): string => /* wgsl */ `
    {
      let depth = ${depth};
      for (var k0 = 0u; k0 < depth; k0 += ${DEPTH}u) {
        ${bring("left", left, product.leftAlongK, "place < b.rows", "rowHandle(b, place)").replace("EACH", each)}
        ${bring("right", right, product.rightAlongK, "column0 + place < b.columns", "columnHandle(b, column0 + place)").replace("EACH", each)}
        workgroupBarrier();
        for (var k = 0u; k < ${DEPTH}u; k++) {
          let atLeft = k * ${PITCH}u + row;
          let atRight = k * ${PITCH}u + column;
          ${right.map((_, f) => `let y${f} = vec4(${[0, 1, 2, 3].map((c) => `right${f}[atRight + ${c}u]`).join(", ")});`).join("\n")}
          ${lines(OWN * sums, (i) => {
            const [r, s] = [Math.floor(i / sums), i % sums];
            const x = `left${Math.min(s, left.length - 1)}[atLeft + ${r}u]`;
            return `s${s}r${r} += ${x} * y${Math.min(s, right.length - 1)};`;
          })}
        }
        workgroupBarrier();
      }
    }
  `;
  const memory = (side: string, count: number): string =>
    lines(count, (f) => `var<workgroup> ${side}${f}: array<f32, ${PITCH * DEPTH}>;`);
  return /* wgsl */ `
    ${memory("left", left.length)}
    ${memory("right", right.length)}
    fn main(group: u32, thread: u32) {
      let b = find(group / u.across);
      let column0 = group % u.across * ${TILE}u;
      let row = thread / ${SIDE}u * ${OWN}u;
      let column = thread % ${SIDE}u * ${OWN}u;
      ${lines(OWN * sums, (i) => `var s${i % sums}r${Math.floor(i / sums)} = vec4<f32>();`)}
      if (b.rows > 0u && column0 < b.columns) {
        ${loops(product, loop)}
      }
      ${lines(
        OWN,
        (r) => /* wgsl */ `
          if (row + ${r}u < b.rows && column0 + column < b.columns) {
            store(b, row + ${r}u, column0 + column, ${names(sums, r)});
          }
        `,
      )}
    }
  `;
}
