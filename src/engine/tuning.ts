// Which variant of the matrix product runs for which shapes: what was measured on this adapter, or else a choice by its kind.

import { gpuBackend } from "./device.ts";
import type { GpuBackend } from "./gpuBackend.ts";
import type { Variant } from "./ops/matmulText.ts";

export interface Shape {
  M: number;
  N: number;
  transposeA: boolean;
  transposeB: boolean;
}

/** row: a result of at most 8 rows, as decoding has it. small: of few elements, a gradient over many tokens. */
const SIZES = ["row", "small", "middle", "large"] as const;
/** "x·Wᵀ", "dY·W" and "dYᵀ·x" by what is transposed. */
const LAYOUTS = ["second", "none", "first"] as const;

export type ShapeClass = `${(typeof SIZES)[number]} ${(typeof LAYOUTS)[number]}`;

export const SHAPE_CLASSES = SIZES.flatMap((size) => LAYOUTS.map((layout): ShapeClass => `${size} ${layout}`));

/** The choices for one adapter, plain data that callers may store. */
export interface Tuning {
  /** Of the variants: what was measured with others is of no use. */
  version: number;
  adapter: string;
  variants: Partial<Record<ShapeClass, Variant>>;
}

const VERSION = 1;

const tunings = new WeakMap<GpuBackend, Tuning>();

/** What is in use on the active device. */
export function tuningOf(): Tuning {
  const backend = gpuBackend();
  return tunings.get(backend) ?? { version: VERSION, adapter: adapterName(backend), variants: {} };
}

/** Use what was measured before. False, and nothing is changed, if it was on another adapter or for other variants. */
export function useTuning(tuning: Tuning): boolean {
  const backend = gpuBackend();
  if (tuning.version !== VERSION || tuning.adapter !== adapterName(backend)) return false;
  tunings.set(backend, tuning);
  return true;
}

function adapterName({ info }: GpuBackend): string {
  return [info.vendor, info.architecture, info.device, info.description].filter(Boolean).join(" ");
}

export function classOf({ M, N, transposeA, transposeB }: Shape): ShapeClass {
  const size = M <= 8 ? "row" : M * N <= 1 << 14 ? "small" : M * N < 1 << 19 ? "middle" : "large";
  return `${size} ${transposeA ? "first" : transposeB ? "second" : "none"}`;
}

/** The variant for a launch whose largest product is of this shape, with `loops` products in all. */
export function variantFor(shape: Shape, loops: number): Variant {
  const backend = gpuBackend();
  const shapeClass = classOf(shape);
  const measured = tunings.get(backend)?.variants[shapeClass];
  if (measured) return withRows(measured, shape.M);
  return backend.software ? softwareVariant(backend, shape, loops) : withRows(USUAL[shapeClass], shape.M);
}

/** No more rows than there are, where any number is possible. */
function withRows(variant: Variant, M: number): Variant {
  if (variant.kind === "shared" || variant.kind === "quads" || M >= variant.rows) return variant;
  return { ...variant, rows: M > 4 ? 8 : M > 2 ? 4 : M };
}

const shared = (threads: number, rows: number, columns: number, depth: number): Variant => ({
  kind: "shared",
  down: threads,
  across: threads,
  rows,
  columns,
  depth,
});

/** What a measurement chooses from. The first stands where nothing was measured. */
export function candidates(shapeClass: ShapeClass): Variant[] {
  const [size, layout] = shapeClass.split(" ");
  const split: Variant[] = [
    { kind: "split", lanes: 8, rows: 8 },
    { kind: "split", lanes: 64, rows: 8 },
  ];
  if (size === "row") return layout === "second" ? split.toReversed() : split;
  if (size === "small") return [split[0], shared(8, 4, 4, 16)];
  if (size === "middle") return [shared(8, 4, 4, 16), shared(16, 4, 4, 16), split[0]];
  return [shared(16, 8, 8, 8), shared(16, 8, 4, 16), shared(16, 4, 4, 16)];
}

const USUAL = Object.fromEntries(SHAPE_CLASSES.map((name) => [name, candidates(name)[0]])) as Record<
  ShapeClass,
  Variant
>;

/** Much work for each load; less of it where the text is long, because software GPUs take long to compile. */
function softwareVariant(backend: GpuBackend, { M, N }: Shape, loops: number): Variant {
  if (M <= 4) return { kind: "registers", rows: M > 2 ? 4 : M, columns: 4 };
  if (hasQuads(backend)) return { kind: "quads", rows: 4, columns: 4 };
  return { kind: "registers", rows: M >= 32 ? 8 : 4, columns: loops === 1 && M >= 64 && N >= 64 ? 8 : 4 };
}

/** Whether subgroups are of four threads and kernels can use them. */
function hasQuads({ device, info }: GpuBackend): boolean {
  return device.features.has("subgroups") && info.subgroupMinSize === 4 && info.subgroupMaxSize === 4;
}
