// The gated MLP as one operation: its kernels, forward and backward, against the definition and autograd.

import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { gpuErrors } from "../../src/engine/device.ts";
import { gatedMlp, gatedMlpReference } from "../../src/engine/ops/gatedMlp.ts";
import { useForm } from "../../src/engine/ops/gatedMlpKernels.ts";
import { pack } from "../../src/engine/packing.ts";
import * as tf from "../../src/engine/tf.ts";
import { activate, type Comparison, expectAgreement, normal, type Plain, type Tensors } from "./harness.ts";
import { expectKernel, type KernelBackend } from "./poison.ts";

const ALL = ["x", "gate", "up", "down", "residual"];

function comparisonOf(N: number, D: number, F: number, trained: string[] = ALL, residual = true): Comparison {
  const inputs = {
    x: normal([N, D], 1),
    gate: normal([F, D], 2),
    up: normal([F, D], 3),
    down: normal([D, F], 4),
    ...(residual && { residual: normal([N, D], 5) }),
  };
  const run = (compute: typeof gatedMlp) => (t: Tensors) =>
    compute(t.x, { gate: t.gate, up: t.up, down: t.down }, t.residual ?? null);
  return {
    inputs,
    trained: trained.filter((name) => name in inputs),
    op: run(gatedMlp),
    reference: run(gatedMlpReference),
  };
}

function sizesOf({ shape }: Plain): [number, number] {
  return [shape[0], shape[1]];
}

const COMPILING_MS = 300_000; // Software GPUs take many seconds to compile texts with barriers.

const FORMS: [string, KernelBackend, "registers" | "tiles" | null][] = [
  ["wasm", "wasm", null],
  ["webgpu in registers", "webgpu", "registers"],
  ["webgpu in tiles", "webgpu", "tiles"],
];

describe.each(FORMS)("gatedMlp on %s", (_, backend, form) => {
  let errorsBefore = 0;
  beforeAll(async () => {
    useForm(form);
    await activate(backend);
    errorsBefore = gpuErrors().count;
  });
  afterAll(() => {
    useForm(null);
    expect(gpuErrors().count - errorsBefore, String(gpuErrors().latest)).toBe(0);
  });

  it.each([
    [1, 1, 1],
    [9, 5, 3], // one past the rows of a thread
    [11, 12, 20], // multiples of 4
    [64, 64, 16], // whole tiles
    [65, 67, 66], // one past the tiles
    [257, 3, 10], // one past the rows that the CPU takes at a time
  ])(
    "agrees with its definition for %i tokens of width %i, %i channels",
    async (N, D, F) => {
      await expectKernel(backend, comparisonOf(N, D, F));
      await expectKernel(backend, comparisonOf(N, D, F, ["x"], false)); // Frozen weights, no residual.
    },
    COMPILING_MS,
  );

  it.each([
    [1, 64, 32, "int8"],
    [9, 32, 96, "int4"],
    [67, 64, 64, "int4"],
    [5, 6, 10, "f16"],
  ] as const)(
    "agrees with its definition for %i tokens of width %i, %i channels, the weights stored as %s",
    async (N, D, F, format) => {
      const { inputs, trained } = comparisonOf(N, D, F, ["x", "residual"]);
      const stored = (name: string) => pack(inputs[name].values as Float32Array, sizesOf(inputs[name]), format);
      const run = (compute: typeof gatedMlp) => (t: Tensors) =>
        compute(t.x, { gate: stored("gate"), up: stored("up"), down: stored("down") }, t.residual);
      await expectKernel(backend, { inputs, trained, op: run(gatedMlp), reference: run(gatedMlpReference) });
    },
    COMPILING_MS,
  );

  it("gives gradients to weights that are computed from what is differentiated by", async () => {
    const { op, reference, ...rest } = comparisonOf(5, 3, 4, ["gate", "up", "down"]);
    const doubled = ({ gate, up, down, ...others }: Tensors): Tensors => ({
      ...others,
      gate: gate.mul(2),
      up: up.mul(2),
      down: down.mul(2),
    });
    await expectKernel(backend, { ...rest, op: (t) => op(doubled(t)), reference: (t) => reference(doubled(t)) });
  });

  it("refuses shapes that do not fit", async () => {
    await activate(backend);
    const w = tf.ones([2, 3]);
    expect(() => gatedMlp(tf.ones([4, 3]), { gate: w, up: w, down: w }, null)).toThrow(/down \[2,3\]/);
    expect(() => gatedMlp(tf.ones([4, 3]), { gate: w, up: w, down: tf.ones([3, 2]) }, tf.ones([4, 2]))).toThrow(
      /residual/,
    );
  });
});

it("agrees with its definition for more tokens than a grid axis holds workgroups", async () => {
  const comparison = comparisonOf(70_000, 1, 2);
  await expectAgreement("webgpu", { ...comparison, tolerance: 1e-4 }); // Sums over 70,000 tokens.
});
