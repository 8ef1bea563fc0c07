// WGSL of products of gathered rows: c[m, n] = the sum over k of left(m, k) * right(n, k), for blocks of rows and columns
// that a text of its own finds. In two forms: `registers`, where each thread computes from memory without a barrier
// (software GPUs are slow at them), and `tiles`, where a workgroup brings both factors to its own memory first.

import type { PackedFormat } from "../packed.ts";
import { lines } from "../wgsl.ts";
import { elements } from "./matmulText.ts";

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
 * How a thread of `registers` reads; loads are what software GPUs spend their time on. vectors: four numbers at a time,
 * where all lengths and starts are multiples of 4 and the float32 factors' tensors are bound as vec4<f32>. quads: besides, four
 * threads in a row, which are a subgroup, read the rows for each other; `u.across` is then a multiple of 4.
 */
export type Reading = "elements" | "vectors" | "quads";

/** Whether this product is read in quads: not the gradients of weights, where it was slower. */
export function readsInQuads({ leftAlongK }: BlockProduct, reading: Reading): boolean {
  return reading === "quads" && leftAlongK;
}

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
    ${form === "registers" ? registers(product, shape, reading) : tiles(product)}
  `;
}

type Loop = (product: BlockProduct, shape: Shape, pass: Pass, quads: boolean) => string;

function registers(product: BlockProduct, shape: Shape, reading: Reading): string {
  const { rows, columns } = shape;
  const sums = sumsOf(product);
  const quads = readsInQuads(product, reading);
  const loop = reading === "elements" ? loopOverElements : loopOverVectors;
  const passes = product.passes.map((pass) => {
    const text = loop(product, shape, pass, quads);
    return pass.when ? `if (${pass.when}) { ${text} }` : text;
  });
  const place = (row: string) => `rowHandle(b, min(${row}, b.rows - 1u))`;
  return /* wgsl */ `
    ${quads ? "@diagnostic(off, subgroup_uniformity) // A quad's threads are there together or not at all." : ""}
    fn main(group: u32, thread: u32) {
      let i = group * THREADS + thread;
      let b = find(i / u.across);
      let column = i % u.across * ${columns}u;
      if (b.rows == 0u || column ${quads ? `- thread % 4u * ${columns}u ` : ""}>= b.columns) { return; }
      ${
        quads
          ? lines(rows / 4, (g) => `let m${g} = ${place(`${4 * g}u + thread % 4u`)};`)
          : lines(rows, (r) => `let m${r} = ${place(`${r}u`)};`)
      }
      ${lines(columns, (c) => `let n${c} = columnHandle(b, min(column + ${c}u, b.columns - 1u));`)}
      ${everySum(rows, sums, (r, s) => `var s${s}r${r} = vec${columns}<f32>();`)}
      ${passes.join("\n")}
      ${quads ? "if (column >= b.columns) { return; }" : ""}
      ${lines(rows, (r) => `if (${r}u < b.rows) { store(b, ${r}u, column, ${names(sums, r)}); }`)}
    }
  `;
}

function everySum(rows: number, sums: number, line: (r: number, s: number) => string): string {
  return lines(rows * sums, (i) => line(Math.floor(i / sums), i % sums));
}

const of = (list: Factor[], s: number): number => Math.min(s, list.length - 1);

/** One k at a time. */
const loopOverElements: Loop = (product, { rows, columns }, { depth, each = "", left, right }) => /* wgsl */ `
  for (var k = 0u; k < ${depth}; k++) {
    ${each}
    ${right.map((factor, i) => `let y${i} = vec${columns}<f32>(${across(columns, (c) => element(factor, `n${c}`))});`).join("\n")}
    ${lines(rows, (r) => left.map((factor, i) => `let x${i}r${r} = ${element(factor, `m${r}`)};`).join(" "))}
    ${everySum(rows, sumsOf(product), (r, s) => `s${s}r${r} += x${of(left, s)}r${r} * y${of(right, s)};`)}
  }
`;

const across = (columns: number, part: (c: number) => string): string =>
  Array.from({ length: columns }, (_, c) => part(c)).join(", ");

/** Four k at a time where neighbours in memory are neighbours in k, else four rows or columns at a time. */
const loopOverVectors: Loop = (product, ...rest) => {
  if (!product.leftAlongK) return overRows(product, ...rest);
  return product.rightAlongK ? overDots(product, ...rest) : overColumns(product, ...rest);
};

/** Declares x0r0.., four neighbours in k of every row. */
function fourOfRows(left: Factor[], rows: number, quads: boolean): string {
  if (!quads)
    return lines(rows, (r) => left.map((factor, i) => `let x${i}r${r} = ${four(factor, `m${r}`)};`).join(" "));
  const own = lines(rows / 4, (g) => left.map((factor, i) => `let own${i}g${g} = ${four(factor, `m${g}`)};`).join(" "));
  const all = lines(rows, (r) =>
    left.map((_, i) => `let x${i}r${r} = subgroupBroadcast(own${i}g${r >> 2}, ${r & 3}u);`).join(" "),
  );
  return `${own}\n${all}`;
}

const overDots: Loop = (product, { rows, columns }, { depth, each = "", left, right }, quads) => /* wgsl */ `
  for (var k = 0u; k < ${depth}; k += 4u) {
    ${each}
    ${lines(columns, (c) => right.map((factor, i) => `let y${i}c${c} = ${four(factor, `n${c}`)};`).join(" "))}
    ${fourOfRows(left, rows, quads)}
    ${everySum(rows, sumsOf(product), (r, s) => {
      const dots = across(columns, (c) => `dot(x${of(left, s)}r${r}, y${of(right, s)}c${c})`);
      return `s${s}r${r} += vec${columns}<f32>(${dots});`;
    })}
  }
`;

const overColumns: Loop = (product, { rows }, { depth, each = "", left, right }, quads) => /* wgsl */ `
  for (var k0 = 0u; k0 < ${depth}; k0 += 4u) {
    ${fourOfRows(left, rows, quads).replaceAll(/\bk\b/g, "k0")}
    ${lines(
      4,
      (j) => /* wgsl */ `{
        let k = k0 + ${j}u;
        ${each}
        ${right.map((factor, i) => `let y${i} = ${four(factor, "n0")};`).join(" ")}
        ${everySum(rows, sumsOf(product), (r, s) => `s${s}r${r} += x${of(left, s)}r${r}[${j}] * y${of(right, s)};`)}
      }`,
    )}
  }
`;

const overRows: Loop = (product, { rows }, { depth, each = "", left, right }) => /* wgsl */ `
  for (var k = 0u; k < ${depth}; k++) {
    ${each}
    ${left.map((factor, i) => `let x${i} = ${four(factor, "m0")};`).join(" ")}
    ${right.map((factor, i) => `let y${i} = ${four(factor, "n0")};`).join(" ")}
    ${everySum(rows, sumsOf(product), (r, s) => `s${s}r${r} += x${of(left, s)}[${r}] * y${of(right, s)};`)}
  }
`;

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
        ${product.passes.map((pass) => (pass.when ? `if (${pass.when}) ${loop(pass)}` : loop(pass))).join("\n")}
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
