// WGSL of products of gathered rows: c[m, n] = the sum over k of left(m, k) * right(n, k), for blocks of rows and columns
// that a text of its own finds. In two forms: `registers`, where each thread computes from memory without a barrier
// (software GPUs are slow at them), and `tiles`, where a workgroup brings both factors to its own memory first.

import { lines } from "../wgsl.ts";

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
  /** Factors as expressions in `h`, the row's or column's handle, and `k`: one each, or one of them several. */
  left: string[];
  right: string[];
}

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

/** The factor with the handle's name put in. */
const known = (factor: string, handle: string): string => factor.replaceAll(/\bh\b/g, handle);

/** The whole text. `u.across`: blocks from left to right. */
export function blockProduct(form: Form, product: BlockProduct, shape: Shape): string {
  return /* wgsl */ `
    ${product.blocks}
    ${product.store.replaceAll("VECTOR", `vec${form === "tiles" ? OWN : shape.columns}<f32>`)}
    fn rowHandle(b: Block, m: u32) -> u32 { return ${product.rowHandle}; }
    fn columnHandle(b: Block, n: u32) -> u32 { return ${product.columnHandle}; }
    ${form === "registers" ? registers(product, shape) : tiles(product)}
  `;
}

function registers(product: BlockProduct, { rows, columns }: Shape): string {
  const sums = sumsOf(product);
  const vector = `vec${columns}<f32>`;
  const all = (line: (r: number, s: number) => string) =>
    lines(rows * sums, (i) => line(Math.floor(i / sums), i % sums));
  const loop = ({ depth, each = "", left, right }: Pass): string => /* wgsl */ `
    for (var k = 0u; k < ${depth}; k++) {
      ${each}
      ${right
        .map((factor, i) => {
          const parts = Array.from({ length: columns }, (_, c) => known(factor, `n${c}`));
          return `let y${i} = ${vector}(${parts.join(", ")});`;
        })
        .join("\n")}
      ${lines(rows, (r) => left.map((factor, i) => `let x${i}r${r} = ${known(factor, `m${r}`)};`).join(" "))}
      ${all((r, s) => `s${s}r${r} += x${Math.min(s, left.length - 1)}r${r} * y${Math.min(s, right.length - 1)};`)}
    }
  `;
  return /* wgsl */ `
    fn main(group: u32, thread: u32) {
      let i = group * THREADS + thread;
      let b = find(i / u.across);
      let column = i % u.across * ${columns}u;
      if (b.rows == 0u || column >= b.columns) { return; }
      ${lines(rows, (r) => `let m${r} = rowHandle(b, min(${r}u, b.rows - 1u));`)}
      ${lines(columns, (c) => `let n${c} = columnHandle(b, min(column + ${c}u, b.columns - 1u));`)}
      ${all((r, s) => `var s${s}r${r} = ${vector}();`)}
      ${product.passes.map((pass) => (pass.when ? `if (${pass.when}) { ${loop(pass)} }` : loop(pass))).join("\n")}
      ${lines(rows, (r) => `if (${r}u < b.rows) { store(b, ${r}u, column, ${names(sums, r)}); }`)}
    }
  `;
}

const names = (sums: number, r: number): string => Array.from({ length: sums }, (_, s) => `s${s}r${r}`).join(", ");

function tiles(product: BlockProduct): string {
  const sums = sumsOf(product);
  const [{ left, right }] = product.passes;
  const bring = (side: "left" | "right", factors: string[], alongK: boolean, limit: string, handle: string): string => {
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
          ${factors.map((factor, f) => `${side}${f}[slot] = ${factor};`).join("\n")}
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
