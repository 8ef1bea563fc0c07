// Measure which variant of the matrix product is the fastest for each class of shapes on this adapter.

import { gpuBackend } from "./device.ts";
import { allocate, release } from "./launch.ts";
import { multiply } from "./ops/matmul.ts";
import type { Variant } from "./ops/matmulText.ts";
import { candidates, SHAPE_CLASSES, type Shape, type ShapeClass, type Tuning, tuningOf, useTuning } from "./tuning.ts";

const ROUNDS = 3;
const DISPATCHES = 4; // In one go, so that the time is the GPU's and not that of asking.

/**
 * Measure, and use the result from here on. Software GPUs are left as they are unless `software`: they would take seconds,
 * and what is best on them is known.
 */
export async function measureTuning({ software = false, sizes = SIZES } = {}): Promise<Tuning> {
  const tuning: Tuning = { ...tuningOf(), variants: {} };
  if (gpuBackend().software && !software) return tuning;
  for (const shapeClass of SHAPE_CLASSES) {
    tuning.variants[shapeClass] = await fastest(candidates(shapeClass), shapeOf(shapeClass, sizes));
  }
  useTuning(tuning);
  return tuning;
}

type Size = "row" | "small" | "middle" | "large";

/** [M, N, K] that stand for their class. */
const SIZES: Record<Size, [number, number, number]> = {
  row: [1, 1536, 1536],
  small: [16, 1024, 1024],
  middle: [512, 256, 512],
  large: [1024, 1024, 1024],
};

function shapeOf(shapeClass: ShapeClass, sizes: typeof SIZES): Shape & { K: number } {
  const [size, layout] = shapeClass.split(" ");
  const [M, N, K] = sizes[size as Size];
  return { M, N, K, transposeA: layout === "first", transposeB: layout === "second" };
}

async function fastest(variants: Variant[], shape: Shape & { K: number }): Promise<Variant> {
  const { M, N, K } = shape;
  const [a, b, c] = [allocate([M, K]), allocate([K, N]), allocate([M, N])];
  const timesMs: number[][] = variants.map(() => []);
  for (let round = 0; round <= ROUNDS; round++) {
    for (const [i, variant] of variants.entries()) {
      const elapsedMs = await timed(() => multiply({ ...shape, a, b, c }, variant));
      if (round > 0) timesMs[i].push(elapsedMs); // The first compiles.
    }
  }
  release(a, b, c);
  const medians = timesMs.map(median);
  return variants[medians.indexOf(Math.min(...medians))];
}

async function timed(dispatch: () => void): Promise<number> {
  const backend = gpuBackend();
  backend.flush();
  await backend.queue.onSubmittedWorkDone();
  const startedMs = performance.now();
  for (let i = 0; i < DISPATCHES; i++) dispatch();
  backend.flush();
  await backend.queue.onSubmittedWorkDone();
  return performance.now() - startedMs;
}

function median(values: number[]): number {
  return values.toSorted((a, b) => a - b)[Math.floor(values.length / 2)];
}
