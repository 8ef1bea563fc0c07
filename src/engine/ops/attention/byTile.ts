// Attention by tiles of 32 queries times 32 keys, for GPUs: each workgroup of 8 x 16 threads brings both operands of a
// product through workgroup memory, 32 entries of the heads' width at a time, so that wide heads need no more of it than
// narrow ones. A thread has 4 rows of a tile and 2 of its columns, in registers.

// No S x S buffer: running maximum and sum over tiles of keys (Dao et al., 2022, algorithms 1 and 4).

import { lines } from "../../wgsl.ts";
import type { HeadShape } from "./shape.ts";

/** Rows and columns of a tile. */
export const TILE = 32;
export const TILE_THREADS = 128;

const PART = ["x", "y", "z", "w"];
const chunks = (width: number): number => Math.ceil(width / TILE);

/** The operands' pieces, padded by one element so that threads side by side meet different memory banks. */
const MEMORY = /* wgsl */ `
  var<workgroup> left: array<vec4<f32>, ${TILE * 9}>; // [inner][8 fours of rows]
  var<workgroup> right: array<vec2<f32>, ${TILE * 18}>; // [inner][16 twos of columns]
  var<workgroup> rowParts: array<vec4<f32>, ${TILE_THREADS}>; // [fours of rows][16 threads]
`;

/** Entries of the tensors, zero outside of them. */
const entries = ({ K, P, V, joined }: HeadShape): string => /* wgsl */ `
  fn queryEntry(b: u32, h: u32, token: u32, d: u32) -> f32 {
    if (token >= u.T || d >= ${K + P}u) { return 0.0; }
    return q[((b * u.T + token) * u.H + h) * ${K + P}u + d];
  }
  fn keyEntry(b: u32, g: u32, token: u32, d: u32) -> f32 {
    if (token >= u.T) { return 0.0; }
    if (d < ${K}u) { return ${joined ? "kv" : "k"}[((b * u.T + token) * u.G + g) * ${joined ? K + V : K}u + d]; }
    ${P > 0 ? `if (d < ${K + P}u) { return rotary[(b * u.T + token) * ${P}u + d - ${K}u]; }` : ""}
    return 0.0;
  }
  fn valueEntry(b: u32, g: u32, token: u32, d: u32) -> f32 {
    if (token >= u.T || d >= ${V}u) { return 0.0; }
    return ${joined ? `kv[((b * u.T + token) * u.G + g) * ${K + V}u + ${K}u + d]` : `v[((b * u.T + token) * u.G + g) * ${V}u + d]`};
  }
`;

const gradientEntry = ({ V }: HeadShape): string => /* wgsl */ `
  fn gradientEntry(b: u32, h: u32, token: u32, d: u32) -> f32 {
    if (token >= u.T || d >= ${V}u) { return 0.0; }
    return dy[((b * u.T + token) * u.H + h) * ${V}u + d];
  }
`;

/** An operand of a product: how an entry of it is read, and the first of its 32 tokens. */
interface Operand {
  entry: (token: string, d: string) => string;
  from: string;
}

const query = (from: string): Operand => ({ entry: (t, d) => `queryEntry(b, h, ${t}, ${d})`, from });
const key = (from: string): Operand => ({ entry: (t, d) => `keyEntry(b, g, ${t}, ${d})`, from });
const value = (from: string): Operand => ({ entry: (t, d) => `valueEntry(b, g, ${t}, ${d})`, from });
const outputGradient = (from: string): Operand => ({ entry: (t, d) => `gradientEntry(b, h, ${t}, ${d})`, from });

/** `into`0 and `into`1 += left · right, over the 32 inner entries that are in workgroup memory. */
const multiply = (into: string): string => /* wgsl */ `
  for (var inner = 0u; inner < ${TILE}u; inner++) {
    let rows = left[inner * 9u + ty];
    let columns = right[inner * 18u + tx];
    ${into}0 += rows * columns.x;
    ${into}1 += rows * columns.y;
  }
`;

/** `into` = rows · columnsᵀ over the heads' width: a tile of one number per pair of tokens. */
const pairwise = (into: string, rows: Operand, columns: Operand, width: number): string => /* wgsl */ `
  var ${into}0 = vec4<f32>();
  var ${into}1 = vec4<f32>();
  for (var start = 0u; start < ${width}u; start += ${TILE}u) {
    let d = start + thread % 32u;
    workgroupBarrier();
    for (var four = thread / 32u; four < 8u; four += 4u) {
      let token = ${rows.from} + 4u * four;
      left[thread % 32u * 9u + four] = vec4(
        ${[0, 1, 2, 3].map((i) => rows.entry(`token + ${i}u`, "d")).join(", ")}
      );
    }
    for (var two = thread / 32u; two < 16u; two += 4u) {
      let token = ${columns.from} + 2u * two;
      right[thread % 32u * 18u + two] = vec2(${columns.entry("token", "d")}, ${columns.entry("token + 1u", "d")});
    }
    workgroupBarrier();
    ${multiply(into)}
  }
`;

/** Put a tile of weights where a product over its columns' tokens finds it. */
const keepTile = (weights: string): string => /* wgsl */ `
  workgroupBarrier();
  left[2u * tx * 9u + ty] = ${weights}0;
  left[(2u * tx + 1u) * 9u + ty] = ${weights}1;
`;

/** `into` += kept tile · operand, whose width comes in pieces of 32: `into`0_0, `into`0_1, `into`1_0, … */
const weighted = (into: string, operand: Operand, width: number): string =>
  lines(
    chunks(width),
    (c) => /* wgsl */ `
  workgroupBarrier();
  for (var inner = thread / 16u; inner < ${TILE}u; inner += 8u) {
    let d = ${TILE * c}u + 2u * tx;
    let token = ${operand.from} + inner;
    right[inner * 18u + tx] = vec2(${operand.entry("token", "d")}, ${operand.entry("token", "d + 1u")});
  }
  workgroupBarrier();
  ${multiply(`${into}${c}_`)}
`,
  );

const accumulators = (name: string, width: number): string =>
  lines(chunks(width), (c) => `var ${name}${c}_0 = vec4<f32>(); var ${name}${c}_1 = vec4<f32>();`);

/** For each row of the thread that is there, and each of its entries: `store(token, d, value)`. */
const storeRows = (
  name: string,
  from: string,
  width: number,
  store: (token: string, d: string, value: string) => string,
): string =>
  lines(
    4,
    (r) => /* wgsl */ `
  if (live && ${from} + ${r}u < u.T) {
    ${lines(2 * chunks(width), (i) => {
      const d = `${TILE * (i >> 1) + (i & 1)}u + 2u * tx`;
      return `if (${d} < ${width}u) { ${store(`(${from} + ${r}u)`, `(${d})`, `${name}${i >> 1}_${i & 1}.${PART[r]}`)} }`;
    })}
  }
`,
  );

/** The sum or maximum over the 16 threads of a row, of what each gives, in every one of them. */
const overRow = (name: string, own: string, join: (a: string, b: string) => string): string => /* wgsl */ `
  rowParts[thread] = ${own};
  workgroupBarrier();
  var ${name} = rowParts[ty * 16u];
  for (var other = 1u; other < 16u; other++) { ${name} = ${join(name, "rowParts[ty * 16u + other]")}; }
`;

/** Where the workgroup stands. Spare workgroups do the last one's work again and store nothing. */
const place = (heads: "H" | "G"): string => /* wgsl */ `
  let tiles = (u.T + ${TILE - 1}u) / ${TILE}u;
  let item = min(group, u.B * u.${heads} * tiles - 1u);
  let live = group == item;
  let own = item % tiles * ${TILE}u; // The first token of its tile.
  let b = item / (tiles * u.${heads});
  let ty = thread / 16u;
  let tx = thread % 16u;
  let row = own + 4u * ty;
  let tokens = vec4(row) + vec4(0u, 1u, 2u, 3u);
`;

const vector4 = (entry: (i: number) => string): string => `vec4(${[0, 1, 2, 3].map(entry).join(", ")})`;
const storeOutput = (array: string, heads: string, width: number) => (token: string, d: string, value: string) =>
  `${array}[((b * u.T + ${token}) * ${heads}) * ${width}u + ${d}] = ${value};`;

/** Reads q, keys, values (and starts, if `segments`); writes o and stats: the logsumexp and the first token seen. */
export const forward = (shape: HeadShape, segments: boolean): string => /* wgsl */ `
  ${MEMORY}
  ${entries(shape)}
  fn firstOf(b: u32, token: u32) -> u32 {
    return ${segments ? "u32(max(starts[b * u.T + min(token, u.T - 1u)], 0))" : "0u"};
  }
  fn main(group: u32, thread: u32) {
    ${place("H")}
    let h = item / tiles % u.H;
    let g = h / (u.H / u.G);
    let firsts = ${vector4((i) => `firstOf(b, row + ${i}u)`)};
    var most = vec4(-3.0e38);
    var sum = vec4<f32>();
    ${accumulators("o", shape.V)}
    for (var base = firstOf(b, own) / ${TILE}u * ${TILE}u; base <= own; base += ${TILE}u) {
      ${pairwise("s", query("own"), key("base"), shape.K + shape.P)}
      ${lines(
        2,
        (c) => /* wgsl */ `
        let token${c} = vec4(base + 2u * tx + ${c}u);
        let seen${c} = (tokens >= token${c}) & (token${c} >= firsts);
        s${c} = select(vec4(-3.0e38), u.scale * s${c}, seen${c});
      `,
      )}
      ${overRow("peak", "max(s0, s1)", (a, other) => `max(${a}, ${other})`)}
      let above = max(most, peak);
      let keep = exp(most - above);
      most = above;
      let p0 = select(vec4<f32>(), exp(s0 - above), seen0);
      let p1 = select(vec4<f32>(), exp(s1 - above), seen1);
      sum = sum * keep + p0 + p1; // Of this thread's columns.
      ${lines(chunks(shape.V), (c) => `o${c}_0 *= keep; o${c}_1 *= keep;`)}
      ${keepTile("p")}
      ${weighted("o", value("base"), shape.V)}
    }
    ${overRow("all", "sum", (a, other) => `${a} + ${other}`)}
    ${lines(chunks(shape.V), (c) => `o${c}_0 /= all; o${c}_1 /= all;`)}
    ${storeRows("o", "row", shape.V, storeOutput("o", "u.H + h", shape.V))}
    let logsumexp = most + log(all);
    ${lines(
      4,
      (r) => /* wgsl */ `
      if (live && tx == 0u && row + ${r}u < u.T) {
        let at = 2u * ((b * u.H + h) * u.T + row + ${r}u);
        stats[at] = logsumexp.${PART[r]};
        stats[at + 1u] = f32(firsts.${PART[r]});
      }
    `,
    )}
  }
`;

/** Reads q, keys, values, dy, o, stats; writes dq and delta = dy·o, which the keys' gradient needs. */
export const queryGradient = (shape: HeadShape): string => /* wgsl */ `
  ${MEMORY}
  ${entries(shape)}
  ${gradientEntry(shape)}
  fn alongOutput(b: u32, h: u32, token: u32, d: u32) -> f32 {
    let at = ((b * u.T + min(token, u.T - 1u)) * u.H + h) * ${shape.V}u + d;
    return dy[at] * o[at];
  }
  fn main(group: u32, thread: u32) {
    ${place("H")}
    let h = item / tiles % u.H;
    let g = h / (u.H / u.G);
    let stat = (b * u.H + h) * u.T;
    let logsumexp = ${vector4((i) => `stats[2u * (stat + min(row + ${i}u, u.T - 1u))]`)};
    let firsts = ${vector4((i) => `u32(stats[2u * (stat + min(row + ${i}u, u.T - 1u)) + 1u])`)};
    var part = vec4<f32>();
    for (var d = tx; d < ${shape.V}u; d += 16u) { part += ${vector4((i) => `alongOutput(b, h, row + ${i}u, d)`)}; }
    ${overRow("along", "part", (a, other) => `${a} + ${other}`)}
    ${lines(4, (r) => `if (live && tx == 0u && row + ${r}u < u.T) { delta[stat + row + ${r}u] = along.${PART[r]}; }`)}
    ${accumulators("a", shape.K + shape.P)}
    for (var base = u32(stats[2u * (stat + own) + 1u]) / ${TILE}u * ${TILE}u; base <= own; base += ${TILE}u) {
      ${pairwise("s", query("own"), key("base"), shape.K + shape.P)}
      ${pairwise("slope", outputGradient("own"), value("base"), shape.V)}
      ${lines(
        2,
        (c) => /* wgsl */ `
        let token${c} = vec4(base + 2u * tx + ${c}u);
        let seen${c} = (tokens >= token${c}) & (token${c} >= firsts);
        let p${c} = select(vec4<f32>(), exp(min(u.scale * s${c} - logsumexp, vec4(80.0))), seen${c});
        slope${c} = u.scale * p${c} * (slope${c} - along);
      `,
      )}
      ${keepTile("slope")}
      ${weighted("a", key("base"), shape.K + shape.P)}
    }
    ${storeRows("a", "row", shape.K + shape.P, storeOutput("dq", "u.H + h", shape.K + shape.P))}
  }
`;

/**
 * Reads q, keys, values, dy, stats, delta; writes dk and dv, or dkv and each head's share of the rotary part's gradient,
 * drotary [B, T, G, P]. Rows are keys, columns queries.
 */
export const keyGradient = (shape: HeadShape): string => /* wgsl */ `
  ${MEMORY}
  ${entries(shape)}
  ${gradientEntry(shape)}
  fn main(group: u32, thread: u32) {
    ${place("G")}
    let g = item / tiles % u.G;
    ${accumulators("a", shape.K + shape.P)}
    ${accumulators("c", shape.V)}
    for (var h = g * (u.H / u.G); h < (g + 1u) * (u.H / u.G); h++) {
      let stat = (b * u.H + h) * u.T;
      for (var base = own; base < u.T; base += ${TILE}u) {
        if (u32(stats[2u * (stat + base) + 1u]) >= own + ${TILE}u) { break; } // Later tokens start no earlier.
        ${pairwise("s", key("own"), query("base"), shape.K + shape.P)}
        ${pairwise("slope", value("own"), outputGradient("base"), shape.V)}
        ${lines(
          2,
          (c) => /* wgsl */ `
          let token${c} = base + 2u * tx + ${c}u;
          let at${c} = stat + min(token${c}, u.T - 1u);
          let first${c} = u32(stats[2u * at${c} + 1u]);
          let seen${c} = (tokens <= vec4(token${c})) & (tokens >= vec4(first${c})) & vec4(token${c} < u.T);
          let p${c} = select(vec4<f32>(), exp(min(u.scale * s${c} - stats[2u * at${c}], vec4(80.0))), seen${c});
          slope${c} = u.scale * p${c} * (slope${c} - delta[at${c}]);
        `,
        )}
        ${keepTile("p")}
        ${weighted("c", outputGradient("base"), shape.V)}
        ${keepTile("slope")}
        ${weighted("a", query("base"), shape.K + shape.P)}
      }
    }
    ${storeRows("a", "row", shape.K + shape.P, (token, d, value) => {
      const { K, P, V, joined } = shape;
      const at = `(b * u.T + ${token}) * u.G + g`;
      const own = `${joined ? "dkv" : "dk"}[(${at}) * ${joined ? K + V : K}u + ${d}] = ${value};`;
      return P > 0 ? `if (${d} < ${K}u) { ${own} } else { drotary[(${at}) * ${P}u + ${d} - ${K}u] = ${value}; }` : own;
    })}
    ${storeRows("c", "row", shape.V, (token, d, value) => {
      const { K, V, joined } = shape;
      const at = `(b * u.T + ${token}) * u.G + g`;
      return joined ? `dkv[(${at}) * ${K + V}u + ${K}u + ${d}] = ${value};` : `dv[(${at}) * ${V}u + ${d}] = ${value};`;
    })}
  }
`;
