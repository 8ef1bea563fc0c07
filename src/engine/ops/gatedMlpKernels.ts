// WebGPU kernels of gated MLPs: of every token ("shared" below: a dense layer, or the shared expert of a mixture) and of
// the tokens sent to one of several experts ("routed"), in the same launches.

// N tokens, D hidden size, F channels of the shared MLP; A = N * topK assignments of tokens to E experts, S their channels
// altogether, `widest` of the widest. Rows 0..A-1 are the assignments sorted by expert, rows A..A+N-1 every token.

import { gpuBackend, softwareGpu } from "../device.ts";
import { constant, groupsFor, launch, THREADS } from "../launch.ts";
import type { PackedFormat } from "../packed.ts";
import type * as tf from "../tf.ts";
import { SIGMOID } from "../wgsl.ts";
import {
  type BlockProduct,
  blockProduct,
  factorsOf,
  type Reading,
  QUAD_SHAPE,
  type Form,
  type Shape,
  TILE_SHAPE,
  TILE_THREADS,
} from "./blockProduct.ts";
import { scalesAt } from "./matmulText.ts";

/** Of the weights that are stored small, by their names in the texts. */
export type Formats = Record<string, PackedFormat>;

export interface Plan {
  form: Form;
  reading: Reading;
  routed: boolean;
  shared: boolean;
  offsets: number[];
  formats: Formats;
  sizes: {
    N: number;
    D: number;
    F: number;
    topK: number;
    E: number;
    A: number;
    S: number;
    widest: number;
    /** Blocks of rows of the shared MLP, and of the routed ones at most. */
    sharedBlocks: number;
    routedBlocks: number;
    /** Vectors of COLUMNS channels of the widest expert. */
    overlapWidth: number;
  };
}

const COLUMNS = 4;
const ROW_SHAPE: Shape = { rows: 8, columns: COLUMNS };
const NARROW_SHAPE: Shape = { rows: 8, columns: 2 }; // With two sums.
const WEIGHT_SHAPE: Shape = { rows: 4, columns: COLUMNS };

let given: Form | null = null;

/** Use this form whatever the adapter is; null: the one that suits it. */
export function useForm(form: Form | null): void {
  given = form;
}

function formOfAdapter(): Form {
  return given ?? (softwareGpu() ? "registers" : "tiles");
}

/** Whether subgroups are of four threads, and kernels can use them. */
function hasQuads(): boolean {
  const { features, adapterInfo } = gpuBackend().device;
  return features.has("subgroups") && adapterInfo?.subgroupMinSize === 4 && adapterInfo.subgroupMaxSize === 4;
}

/** Rows of a block. */
export function rowsOf(plan: Plan): number {
  return shapeOf(plan, ROW_SHAPE).rows;
}

/** Of a block: `thread` where each thread is on its own. */
function shapeOf({ form, reading }: Pick<Plan, "form" | "reading">, thread: Shape): Shape {
  if (form === "tiles") return TILE_SHAPE;
  return reading === "quads" ? QUAD_SHAPE : thread;
}

/** Tokens, and what there is besides: a shared MLP of `channels`, experts with these offsets of which each token takes topK. */
export function planOf(
  [N, D]: number[],
  shared: { channels: number } | null,
  routed: { offsets: number[]; topK: number } | null,
  formats: Formats,
): Plan {
  const form = formOfAdapter();
  const { offsets, topK } = routed ?? { offsets: [0], topK: 0 };
  const A = N * topK;
  const E = offsets.length - 1;
  const widest = widestOf(offsets);
  const inFours = [D, shared?.channels ?? 0, ...offsets].every((size) => size % 4 === 0);
  const reading = form === "registers" && inFours && hasQuads() ? "quads" : "elements";
  const { rows } = shapeOf({ form, reading }, ROW_SHAPE);
  const sizes = {
    N,
    D,
    F: shared?.channels ?? 0,
    topK,
    E,
    A,
    S: offsets[E],
    widest,
    sharedBlocks: shared ? Math.ceil(N / rows) : 0,
    routedBlocks: routed ? Math.floor(A / rows) + E : 0,
    overlapWidth: Math.ceil(widest / COLUMNS),
  };
  return { form, reading, routed: routed !== null, shared: shared !== null, offsets, formats, sizes };
}

export function widestOf(offsets: number[]): number {
  return Math.max(0, ...offsets.slice(1).map((end, e) => end - offsets[e]));
}

/** Elements of a buffer with `parts` vectors of channels for each row. */
export function channelsOf({ sizes: { N, F, A, widest } }: Plan, parts: number): number {
  return Math.max(1, parts * (A * widest + N * F));
}

/** Elements of the table of rows that `sortByExpert` fills. */
export function orderSize({ sizes: { A, E, routedBlocks } }: Plan): number {
  return E + 1 + 2 * A + 1 + 4 * routedBlocks;
}

/**
 * Where the parts of `order` begin: each expert's first row, and A behind the last [E+1]; the assignment of each row [A];
 * the row of each assignment [A]; the number of blocks; and for each block of rows of one expert its first row, the row
 * behind its last, its expert's first channel and width.
 */
export const ORDER = /* wgsl */ `
  fn startOf(e: u32) -> u32 { return e; }
  fn assignmentOf(row: u32) -> u32 { return u.E + 1u + row; }
  fn rowOf(assignment: u32) -> u32 { return u.E + 1u + u.A + assignment; }
  fn blockCount() -> u32 { return u.E + 1u + 2u * u.A; }
  fn blockAt(block: u32) -> u32 { return u.E + 2u + 2u * u.A + 4u * block; }
`;

type Tensors = Record<string, tf.TensorInfo>;

/** Text for the shared MLP, for the routed ones, or for each where it applies. */
function either({ shared, routed }: Plan, isShared: string, ofShared: string, ofRouted: string): string {
  if (!routed) return ofShared;
  if (!shared) return ofRouted;
  return `if (${isShared}) { ${ofShared} } else { ${ofRouted} }`;
}

/** `tokenOf` a row, and `partAt`: where part p of the row's channels begins. */
const rowFunctions = (plan: Plan): string => /* wgsl */ `
  ${plan.routed ? ORDER : ""}
  fn tokenOf(row: u32) -> u32 {
    ${either(plan, "row >= u.A", "return row - u.A;", "return u32(order[assignmentOf(row)]) / u.topK;")}
  }
  fn partAt(row: u32, parts: u32, p: u32) -> u32 {
    ${either(
      plan,
      "row >= u.A",
      "return u.A * parts * u.widest + ((row - u.A) * parts + p) * u.F;",
      "return (row * parts + p) * u.widest;",
    )}
  }
`;

/** Blocks of rows of one MLP, with `columns` of its width or of D. */
const rowBlocks = (plan: Plan, columns: "width" | "u.D"): string => /* wgsl */ `
  struct Block { first: u32, rows: u32, channel: u32, width: u32, stride: u32, columns: u32, isShared: bool }
  ${rowFunctions(plan)}
  fn find(block: u32) -> Block {
    ${either(
      plan,
      "block < u.sharedBlocks",
      /* wgsl */ `
        if (block >= u.sharedBlocks) { return Block(); }
        let first = block * ${rowsOf(plan)}u;
        let width = u.F;
        return Block(u.A + first, min(${rowsOf(plan)}u, u.N - first), 0u, width, u.F, ${columns}, true);
      `,
      /* wgsl */ `
        let own = block - u.sharedBlocks;
        if (own >= u32(order[blockCount()])) { return Block(); }
        let at = blockAt(own);
        let first = u32(order[at]);
        let width = u32(order[at + 3u]);
        return Block(first, u32(order[at + 1u]) - first, u32(order[at + 2u]), width, u.widest, ${columns}, false);
      `,
    )}
  }
`;

/** One pass for each kind of MLP there is; `of` gets the names' beginnings. */
function passes(
  plan: Plan,
  isShared: string,
  of: (name: (weight: string) => string, stride: string) => BlockProduct["passes"],
): BlockProduct["passes"] {
  const routed = plan.routed
    ? stored(
        of((weight) => weight, "u.S"),
        plan,
      )
    : [];
  const shared = plan.shared
    ? stored(
        of((weight) => `shared_${weight}`, "u.F"),
        plan,
      )
    : [];
  if (!plan.shared || !plan.routed) return [...routed, ...shared];
  return [
    ...routed.map((pass) => ({ ...pass, when: `!${isShared}` })),
    ...shared.map((pass) => ({ ...pass, when: isShared })),
  ];
}

/** Weights, which are the right factors, are read as they are stored. */
function stored(passes: BlockProduct["passes"], { formats }: Plan): BlockProduct["passes"] {
  return passes.map((pass) => ({
    ...pass,
    right: pass.right.map(([tensor, index]) => [tensor, index, formats[tensor]]),
  }));
}

/** Under the names of the texts. */
export function named<T>(experts: Record<string, T> | null, shared: Record<string, T> | null): Record<string, T> {
  const ofShared = Object.entries(shared ?? {}).map(([name, one]) => [`shared_${name}`, one]);
  return { ...experts, ...(Object.fromEntries(ofShared) as Record<string, T>) };
}

interface Launched {
  name: string;
  reads: Tensors;
  writes: Tensors;
}

/** A thread or a workgroup for each block; `across` columns, `blocks` from top to bottom. */
function launchBlocks(
  plan: Plan,
  product: BlockProduct,
  thread: Shape,
  launched: Launched,
  columns: number,
  blocks: number,
) {
  const { form, reading } = plan;
  const shape = shapeOf(plan, thread);
  const tiled = form === "tiles";
  const factors = factorsOf(product);
  const plain = factors.flatMap(([tensor, , format]) => (format ? [] : [tensor]));
  const scales = Object.fromEntries(
    factors.flatMap(([tensor, , format]) =>
      format ? [[`${tensor}Scales`, scalesAt(format, launched.reads[tensor])]] : [],
    ),
  );
  const quads = reading === "quads";
  const least = Math.ceil(columns / shape.columns);
  const across = quads ? Math.ceil(least / 4) * 4 : least;
  launch({
    ...launched,
    source: blockProduct(form, product, shape, reading),
    vectors: quads ? plain : [],
    enable: quads ? ["subgroups"] : [],
    sizes: { ...plan.sizes, ...scales, across },
    workgroups: tiled ? across * blocks : groupsFor(across * blocks),
    threads: tiled ? TILE_THREADS : THREADS,
  });
}

function launchRows(plan: Plan, product: BlockProduct, thread: Shape, launched: Launched, columns: number): void {
  const { sharedBlocks, routedBlocks } = plan.sizes;
  launchBlocks(plan, product, thread, launched, columns, sharedBlocks + routedBlocks);
}

const widths = ({ sizes: { F, widest } }: Plan): number => Math.max(F, widest);

/** gate·x and up·x -> hidden [rows, 2, width] and act [rows, width] = silu(gate·x) * (up·x). */
export function launchInner(plan: Plan, reads: Tensors, writes: Tensors): void {
  const product: BlockProduct = {
    blocks: rowBlocks(plan, "width"),
    rowHandle: "tokenOf(b.first + m) * u.D",
    columnHandle: "(b.channel + n) * u.D",
    passes: passes(plan, "b.isShared", (name) => [
      {
        depth: "u.D",
        left: [["x", "h + k"]],
        right: [
          [name("gate"), "h + k"],
          [name("up"), "h + k"],
        ],
      },
    ]),
    leftAlongK: true,
    rightAlongK: true,
    store: /* wgsl */ `
      ${SIGMOID}
      fn store(b: Block, m: u32, n: u32, g: VECTOR, v: VECTOR) {
        let row = b.first + m;
        let gates = partAt(row, 2u, 0u) + n;
        let acts = partAt(row, 1u, 0u) + n;
        for (var j = 0u; j < min(${Math.min(COLUMNS, shapeOf(plan, NARROW_SHAPE).columns)}u, b.width - n); j++) {
          hidden[gates + j] = g[j];
          hidden[gates + b.stride + j] = v[j];
          act[acts + j] = g[j] * sigmoid(g[j]) * v[j];
        }
      }
    `,
  };
  launchRows(plan, product, NARROW_SHAPE, { name: "mlpInner", reads, writes }, widths(plan));
}

/** down·act -> y: [rows, D], plus `residual` where it is read (of one MLP only: rows are tokens). */
export function launchOuter(plan: Plan, reads: Tensors, writes: Tensors): void {
  const product: BlockProduct = {
    blocks: rowBlocks(plan, "u.D"),
    rowHandle: "partAt(b.first + m, 1u, 0u)",
    columnHandle:
      plan.routed && plan.shared
        ? "n * select(u.S, u.F, b.isShared) + b.channel"
        : `n * ${plan.shared ? "u.F" : "u.S"} + b.channel`,
    passes: passes(plan, "b.isShared", (name) => [
      { depth: "b.width", left: [["act", "h + k"]], right: [[name("down"), "h + k"]] },
    ]),
    leftAlongK: true,
    rightAlongK: true,
    store: storeRow("y", "residual" in reads ? "residual" : null),
  };
  launchRows(plan, product, ROW_SHAPE, { name: "mlpOuter", reads, writes }, plan.sizes.D);
}

const storeRow = (to: string, residual: string | null): string => /* wgsl */ `
  fn store(b: Block, m: u32, n: u32, values: VECTOR) {
    let start = (b.first + m) * u.D + n;
    for (var j = 0u; j < min(${COLUMNS}u, u.D - n); j++) {
      ${to}[start + j] = values[j]${residual ? ` + ${residual}[start + j]` : ""};
    }
  }
`;

/**
 * dy·down, and with it dhidden: [rows, 3, width], the gradients by the products with gate and with up and the (weighted)
 * activation; of routed rows also overlaps: [A, overlapWidth], which add up to the gradient by the router's weight.
 */
export function launchHiddenGradient(plan: Plan, reads: Tensors, writes: Tensors): void {
  const product: BlockProduct = {
    blocks: rowBlocks(plan, "width"),
    rowHandle: "tokenOf(b.first + m) * u.D",
    columnHandle: "b.channel + n",
    passes: passes(plan, "b.isShared", (name, stride) => [
      { depth: "u.D", left: [["dy", "h + k"]], right: [[name("down"), `k * ${stride} + h`]] },
    ]),
    leftAlongK: true,
    rightAlongK: false,
    store: /* wgsl */ `
      ${SIGMOID}
      fn store(b: Block, m: u32, n: u32, dacts: VECTOR) {
        let row = b.first + m;
        var weight = 1.0;
        ${either(plan, "b.isShared", "", "weight = weights[u32(order[assignmentOf(row)])];")}
        let gates = partAt(row, 2u, 0u) + n;
        let at = partAt(row, 3u, 0u) + n;
        var overlap = 0.0;
        for (var j = 0u; j < min(${COLUMNS}u, b.width - n); j++) {
          let g = hidden[gates + j];
          let v = hidden[gates + b.stride + j];
          let s = sigmoid(g);
          let act = g * s * v;
          let dact = weight * dacts[j];
          dhidden[at + j] = dact * v * (s + g * s * (1.0 - s));
          dhidden[at + b.stride + j] = dact * g * s;
          dhidden[at + 2u * b.stride + j] = weight * act;
          overlap += dacts[j] * act;
        }
        ${either(plan, "b.isShared", "", `overlaps[row * u.overlapWidth + n / ${COLUMNS}u] = overlap;`)}
      }
    `,
  };
  launchRows(plan, product, ROW_SHAPE, { name: "mlpHiddenGradient", reads, writes }, widths(plan));
}

/** dgate·gate + dup·up -> dx: [rows, D] */
export function launchTokenGradient(plan: Plan, reads: Tensors, writes: Tensors): void {
  const each = "let at = (b.channel + k) * u.D;";
  const product: BlockProduct = {
    blocks: rowBlocks(plan, "u.D"),
    rowHandle: "partAt(b.first + m, 3u, 0u)",
    columnHandle: "n",
    passes: passes(plan, "b.isShared", (name) => [
      { depth: "b.width", each, left: [["dhidden", "h + k"]], right: [[name("gate"), "at + h"]] },
      { depth: "b.width", each, left: [["dhidden", "h + b.stride + k"]], right: [[name("up"), "at + h"]] },
    ]),
    leftAlongK: true,
    rightAlongK: false,
    store: storeRow("dx", null),
  };
  launchRows(plan, product, ROW_SHAPE, { name: "mlpTokenGradient", reads, writes }, plan.sizes.D);
}

/** Blocks of `size` of an MLP's channels (or of D), with as many columns as the other has; k goes over the MLP's rows. */
const weightBlocks = (plan: Plan, size: number, alongChannels: boolean): string => /* wgsl */ `
  struct Block {
    first: u32, rows: u32, columns: u32, channel: u32, width: u32, stride: u32, start: u32, count: u32, isShared: bool
  }
  ${rowFunctions(plan)}
  fn part(first: u32, channel: u32, width: u32, stride: u32, start: u32, count: u32, isShared: bool) -> Block {
    let limit = ${alongChannels ? "width" : "u.D"};
    if (first >= limit) { return Block(); }
    let columns = ${alongChannels ? "u.D" : "width"};
    return Block(first, min(${size}u, limit - first), columns, channel, width, stride, start, count, isShared);
  }
  fn find(block: u32) -> Block {
    let first = block % u.blocks * ${size}u;
    let e = block / u.blocks;
    ${either(
      plan,
      "e == 0u",
      "if (e > 0u) { return Block(); } return part(first, 0u, u.F, u.F, u.A, u.N, true);",
      /* wgsl */ `
        let own = e - ${plan.shared ? 1 : 0}u;
        if (own >= u.E) { return Block(); }
        let channel = u32(offsets[own]);
        let start = u32(order[startOf(own)]);
        let count = u32(order[startOf(own + 1u)]) - start;
        return part(first, channel, u32(offsets[own + 1u]) - channel, u.widest, start, count, false);
      `,
    )}
  }
`;

function launchWeights(
  plan: Plan,
  alongChannels: boolean,
  make: (blocks: string) => BlockProduct,
  launched: Launched,
): void {
  const size = shapeOf(plan, WEIGHT_SHAPE).rows;
  const { D, E } = plan.sizes;
  const [down, columns] = alongChannels ? [widths(plan), D] : [D, widths(plan)];
  const blocks = Math.ceil(down / size);
  const mlps = (plan.routed ? E : 0) + (plan.shared ? 1 : 0);
  const reads = plan.routed ? { ...launched.reads, offsets: constant(plan.offsets) } : launched.reads;
  const sized = { ...plan, sizes: { ...plan.sizes, blocks } };
  launchBlocks(
    sized,
    make(weightBlocks(plan, size, alongChannels)),
    WEIGHT_SHAPE,
    { ...launched, reads },
    columns,
    mlps * blocks,
  );
}

/** dgate, dup: the sums over an MLP's rows of the gradients by its products times the token. */
export function launchInnerGradient(plan: Plan, reads: Tensors, writes: Tensors): void {
  const put = (gate: string, up: string): string => `${gate}[at + j] = g[j]; ${up}[at + j] = v[j];`;
  const make = (blocks: string): BlockProduct => ({
    blocks,
    rowHandle: "b.first + m",
    columnHandle: "n",
    passes: [
      {
        depth: "b.count",
        each: "let row = b.start + k; let own = partAt(row, 3u, 0u); let token = tokenOf(row) * u.D;",
        left: [
          ["dhidden", "own + h"],
          ["dhidden", "own + b.stride + h"],
        ],
        right: [["x", "token + h"]],
      },
    ],
    leftAlongK: false,
    rightAlongK: false,
    store: /* wgsl */ `
      fn store(b: Block, m: u32, n: u32, g: VECTOR, v: VECTOR) {
        let at = (b.channel + b.first + m) * u.D + n;
        for (var j = 0u; j < min(${COLUMNS}u, u.D - n); j++) {
          ${either(plan, "b.isShared", put("shared_dgate", "shared_dup"), put("dgate", "dup"))}
        }
      }
    `,
  });
  launchWeights(plan, true, make, { name: "mlpInnerGradient", reads, writes });
}

/** ddown: the sum over an MLP's rows of the output's gradient times the (weighted) activation. */
export function launchOuterGradient(plan: Plan, reads: Tensors, writes: Tensors): void {
  const make = (blocks: string): BlockProduct => ({
    blocks,
    rowHandle: "b.first + m",
    columnHandle: "n",
    passes: [
      {
        depth: "b.count",
        each: "let row = b.start + k; let own = partAt(row, 3u, 2u); let token = tokenOf(row) * u.D;",
        left: [["dy", "token + h"]],
        right: [["dhidden", "own + h"]],
      },
    ],
    leftAlongK: false,
    rightAlongK: false,
    store: /* wgsl */ `
      fn store(b: Block, m: u32, n: u32, values: VECTOR) {
        let d = b.first + m;
        for (var j = 0u; j < min(${COLUMNS}u, b.width - n); j++) {
          ${either(
            plan,
            "b.isShared",
            "shared_ddown[d * u.F + n + j] = values[j];",
            "ddown[d * u.S + b.channel + n + j] = values[j];",
          )}
        }
      }
    `,
  });
  launchWeights(plan, false, make, { name: "mlpOuterGradient", reads, writes });
}
