import { beforeEach, expect, it } from "vitest";
import { findAdapter, startGpu } from "../../../src/engine/device.ts";
import { measureTuning } from "../../../src/engine/measureTuning.ts";
import { candidates, classOf, SHAPE_CLASSES, tuningOf, useTuning, variantFor } from "../../../src/engine/tuning.ts";
import { activate } from "../harness.ts";

const SIZES = { row: [1, 32, 32], small: [16, 32, 32], middle: [64, 64, 16], large: [64, 64, 32] } as Record<
  "row" | "small" | "middle" | "large",
  [number, number, number]
>;

beforeEach(async () => {
  await activate("webgpu");
  await startGpu((await findAdapter())!);
});

it("measures a form for every class of shapes, and uses it from there on", async () => {
  const tuning = await measureTuning({ software: true, sizes: SIZES });
  expect(Object.keys(tuning.variants)).toEqual(SHAPE_CLASSES);
  for (const shapeClass of SHAPE_CLASSES) expect(candidates(shapeClass)).toContainEqual(tuning.variants[shapeClass]);
  expect(tuningOf()).toEqual(tuning);
  const shape = { M: 2048, N: 2048, transposeA: false, transposeB: true };
  expect(variantFor(shape, 1)).toEqual(tuning.variants[classOf(shape)]);
});

it("leaves a software GPU as it is unless asked", async () => {
  expect((await measureTuning()).variants).toEqual({});
});

it("takes what was measured on this adapter before, and nothing else", () => {
  const known = { ...tuningOf(), variants: { "row none": { kind: "split", lanes: 8, rows: 1 } as const } };
  expect(useTuning(structuredClone(known))).toBe(true);
  expect(tuningOf()).toEqual(known);
  expect(useTuning({ ...known, adapter: "another" })).toBe(false);
  expect(useTuning({ ...known, version: 0 })).toBe(false);
  expect(tuningOf()).toEqual(known);
});
