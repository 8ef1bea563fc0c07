// Experts and their router as one operation: its kernels, forward and backward, against the definition and autograd.

import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { gpuErrors } from "../../src/engine/device.ts";
import { useForm } from "../../src/engine/ops/gatedMlpKernels.ts";
import { mixture, mixtureReference, type MixtureWeights } from "../../src/engine/ops/mixture.ts";
import type { RouteOptions } from "../../src/engine/ops/route.ts";
import type { Matrix, PackedFormat } from "../../src/engine/packed.ts";
import { pack } from "../../src/engine/packing.ts";
import * as tf from "../../src/engine/tf.ts";
import {
  activate,
  type Comparison,
  expectAgreement,
  floats,
  normal,
  type Plain,
  run,
  type Tensors,
  toTensor,
} from "./harness.ts";
import { expectKernel, type KernelBackend, poison } from "./poison.ts";

const OPTIONS: RouteOptions = { topK: 2, scoring: "sigmoid", normalize: true, scale: 1, groups: 1, groupsKept: 1 };

/** Sizes: N tokens of width D, experts of these widths, F channels of the shared MLP (0: none). */
interface Case {
  N: number;
  D: number;
  widths: number[];
  F?: number;
  residual?: boolean;
  options?: Partial<RouteOptions>;
  /** Weights that are stored small. */
  stored?: Record<string, PackedFormat>;
}

function inputsOf({ N, D, widths, F = 0, residual = true }: Case): Record<string, Plain> {
  const [E, S] = [widths.length, widths.reduce((sum, width) => sum + width, 0)];
  return {
    x: normal([N, D], 1),
    router: normal([E, D], 2, 2 / Math.sqrt(D)),
    bias: normal([E], 3, 0.2),
    gate: normal([S, D], 4),
    up: normal([S, D], 5),
    down: normal([D, S], 6),
    ...(F > 0 && { sharedGate: normal([F, D], 7), sharedUp: normal([F, D], 8), sharedDown: normal([D, F], 9) }),
    ...(residual && { residual: normal([N, D], 10) }),
  };
}

function weightsOf(t: Tensors, widths: number[], small: Record<string, Matrix> = {}): MixtureWeights {
  const offsets = [0];
  for (const width of widths) offsets.push(offsets.at(-1)! + width);
  const { router, bias } = t;
  const { gate, up, down, sharedGate, sharedUp, sharedDown } = { ...t, ...small };
  const shared = sharedGate ? { gate: sharedGate, up: sharedUp, down: sharedDown } : null;
  return { router, bias, experts: { gate, up, down, offsets }, shared };
}

const EXPERTS = ["gate", "up", "down"];
const WEIGHTS = ["router", ...EXPERTS];
const SHARED = ["sharedGate", "sharedUp", "sharedDown"];

/** The weights that are stored small. */
function packedOf({ stored = {} }: Case, inputs: Record<string, Plain>): Record<string, Matrix> {
  const packed = Object.entries(stored).map(([name, format]) => {
    const { values, shape } = inputs[name];
    return [name, pack(values as Float32Array, shape as [number, number], format)];
  });
  return Object.fromEntries(packed);
}

/** The same format for all of these. */
function all(names: string[], format: PackedFormat): Record<string, PackedFormat> {
  return Object.fromEntries(names.map((name) => [name, format]));
}

function comparisonOf(one: Case, trained?: string[]): Comparison {
  const inputs = inputsOf(one);
  const frozen = [EXPERTS, SHARED].flatMap((names) => (names.some((name) => one.stored?.[name]) ? names : []));
  const others = Object.keys(inputs).filter((name) => name !== "bias" && !frozen.includes(name));
  const options = { ...OPTIONS, ...one.options };
  const computed = (compute: typeof mixture) => (t: Tensors) => {
    const weights = weightsOf(t, one.widths, packedOf(one, inputs));
    const { y, chosen } = compute(t.x, weights, options, t.residual ?? null);
    return [y, chosen];
  };
  return { inputs, trained: trained ?? others, op: computed(mixture), reference: computed(mixtureReference) };
}

const COMPILING_MS = 300_000; // Software GPUs take many seconds to compile texts with barriers.

const FORMS: [string, KernelBackend, "registers" | "tiles" | null][] = [
  ["wasm", "wasm", null],
  ["webgpu in registers", "webgpu", "registers"],
  ["webgpu in tiles", "webgpu", "tiles"],
];

describe.each(FORMS)("mixture on %s", (_, backend, form) => {
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

  const cases: [string, Case][] = [
    ["two of four, alike", { N: 11, D: 6, widths: [8, 8, 8, 8], residual: false }],
    ["two of four and a wider shared one", { N: 11, D: 6, widths: [8, 8, 8, 8], F: 13 }],
    ["ragged, one of width 0, a narrower shared one", { N: 13, D: 5, widths: [3, 0, 9, 1, 6], F: 2, residual: false }],
    ["one of two, more rows than a block", { N: 300, D: 4, widths: [5, 3], options: { topK: 1, normalize: false } }],
    ["all three, several blocks", { N: 150, D: 3, widths: [2, 4, 5], F: 4, options: { topK: 3 } }],
    [
      "one past the tile in every size",
      { N: 65, D: 65, widths: [65, 17], F: 66, options: { topK: 1, normalize: false } },
    ],
    ["multiples of 4, one of width 0", { N: 43, D: 12, widths: [8, 0, 4, 12], F: 20 }],
    ["many experts", { N: 37, D: 9, widths: new Array<number>(33).fill(2), F: 3, options: { topK: 5 } }],
    ["scores as they are, scaled", { N: 9, D: 7, widths: [2, 3, 1], options: { normalize: false, scale: 2.5 } }],
    ["softmax", { N: 9, D: 7, widths: [2, 3, 1, 4], options: { scoring: "softmax", normalize: false, topK: 3 } }],
    ["softmax, normalized", { N: 9, D: 7, widths: [2, 3, 1, 4], F: 3, options: { scoring: "softmax", scale: 1.5 } }],
    ["groups", { N: 13, D: 5, widths: new Array<number>(12).fill(2), options: { groups: 4, groupsKept: 2, topK: 3 } }],
    ["groups of one", { N: 13, D: 5, widths: new Array<number>(6).fill(2), options: { groups: 6, groupsKept: 3 } }],
  ];
  // In tiles, for the time that compiling takes, what the sizes and options of the others come down to.
  const few = [
    "ragged, one of width 0, a narrower shared one",
    "one past the tile in every size",
    "softmax, normalized",
  ];
  const wanted = form === "tiles" ? cases.filter(([name]) => few.includes(name)) : cases;
  it.each(wanted)(
    "agrees with its definition: %s",
    async (_name, one) => {
      await expectKernel(backend, comparisonOf(one));
    },
    COMPILING_MS,
  );

  const whole = { N: 13, D: 64, widths: [32, 0, 64, 96], F: 32 };
  const ragged = { N: 7, D: 32, widths: [8, 1, 0, 6], F: 5 };
  const stored: [string, Case][] = [
    ["int8 experts, the shared one in float32", { ...whole, stored: all(EXPERTS, "int8") }],
    ["int4, the shared one too", { ...whole, N: 43, stored: all([...EXPERTS, ...SHARED], "int4") }],
    ["f16, no shared one", { ...whole, F: 0, stored: all(EXPERTS, "f16") }],
    [
      "f16 of any even widths",
      { N: 11, D: 6, widths: [8, 2, 0, 4], F: 10, stored: all([...EXPERTS, ...SHARED], "f16") },
    ],
    ["int8 with down in f16", { ...whole, widths: [8, 0, 16, 36], stored: { ...all(EXPERTS, "int8"), down: "f16" } }],
    ["int4 with down in float32", { ...ragged, stored: all(["gate", "up", "sharedGate", "sharedUp"], "int4") }],
    ["int8, one token", { ...whole, N: 1, stored: all([...EXPERTS, ...SHARED], "int8") }],
    ["int8, only the shared one", { ...whole, stored: all(SHARED, "int8") }],
    [
      "int4, more rows than a block",
      { N: 300, D: 32, widths: [32, 32], options: { topK: 1, normalize: false }, stored: all(EXPERTS, "int4") },
    ],
  ];
  it.each(form === "tiles" ? stored.slice(0, 3) : stored)(
    "agrees with its definition where weights are stored small: %s",
    async (_name, one) => {
      await expectKernel(backend, comparisonOf(one));
    },
    COMPILING_MS,
  );

  if (form === "tiles") return;

  it("refuses the gradient of weights that are stored small", async () => {
    await activate(backend);
    const one: Case = { ...ragged, stored: all(["gate", "sharedUp"], "int8") };
    const gradientBy = (name: string) => {
      const { inputs, op } = comparisonOf(one);
      return run(inputs, [name], op);
    };
    const sentence = "stored as int8 and frozen: train adapters on this model, or load it as f32 to change its weights";
    await expect(gradientBy("down")).rejects.toThrow(`The weights of these experts are ${sentence}`);
    await expect(gradientBy("sharedDown")).rejects.toThrow(`The weights of this shared expert are ${sentence}`);
  });

  it("gives gradients to computed weights beside some that are stored small", async () => {
    const { op, reference, ...rest } = comparisonOf({ ...ragged, stored: all(["gate"], "int8") }, SHARED);
    const doubled = (t: Tensors) => ({ ...t, ...Object.fromEntries(SHARED.map((name) => [name, t[name].mul(2)])) });
    await expectKernel(backend, { ...rest, op: (t) => op(doubled(t)), reference: (t) => reference(doubled(t)) });
  });

  const frozen: [string, string[]][] = [
    ["everything", ["x", "residual"]],
    ["the experts", ["x", "router", ...SHARED]],
    ["the shared one and the router", ["x", "gate", "up", "down"]],
    ["all but one matrix", ["sharedDown"]],
  ];
  it.each(frozen)("agrees with its definition where frozen is: %s", async (_name, trained) => {
    await expectKernel(backend, comparisonOf({ N: 13, D: 5, widths: [3, 0, 9, 1, 6], F: 4 }, trained));
  });

  it("gives gradients to weights that are computed from what is differentiated by", async () => {
    const one = { N: 7, D: 3, widths: [2, 3], F: 2, options: { topK: 1, normalize: false } };
    const { op, reference, ...rest } = comparisonOf(one, [...WEIGHTS, ...SHARED]);
    const doubled = (t: Tensors): Tensors =>
      Object.fromEntries(Object.entries(t).map(([name, tensor]) => [name, name === "bias" ? tensor : tensor.mul(2)]));
    await expectKernel(backend, { ...rest, op: (t) => op(doubled(t)), reference: (t) => reference(doubled(t)) });
  });

  it("takes the first of equals", async () => {
    const comparison = comparisonOf({ N: 5, D: 4, widths: [2, 2, 2, 2, 2] });
    comparison.inputs.router = floats([5, 4], [0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0]);
    comparison.inputs.bias = floats([5], [0, 0, 0, 0, 0]);
    await expectKernel(backend, comparison);
  });

  it("gives the only expert the whole weight", async () => {
    await activate(backend); // The definition needs two: tf.oneHot does.
    poison(backend);
    const t = Object.fromEntries(
      Object.entries(inputsOf({ N: 3, D: 2, widths: [3] })).map(([name, plain]) => [name, toTensor(plain)]),
    );
    const alone = weightsOf(t, [3]);
    const { y, chosen } = mixture(t.x, alone, { ...OPTIONS, topK: 1 }, null);
    const { y: twice } = mixture(t.x, alone, { ...OPTIONS, topK: 1, scale: 2 }, null);
    expect([...(await chosen.data())]).toEqual([0, 0, 0]);
    expect([...(await y.mul(2).data())]).toEqual([...(await twice.data())]);
  });

  it("lets a value that is not a number reach the result", async () => {
    await activate(backend);
    const plain = inputsOf({ N: 3, D: 2, widths: [3, 2], F: 2 });
    plain.x.values[2] = Number.NaN;
    const t = Object.fromEntries(Object.entries(plain).map(([name, one]) => [name, toTensor(one)]));
    const y = await mixture(t.x, weightsOf(t, [3, 2]), OPTIONS, null).y.data();
    expect([...y].map(Number.isNaN)).toEqual([false, false, true, true, false, false]);
  });

  it("refuses shapes that do not fit", async () => {
    await activate(backend);
    const t = Object.fromEntries(
      Object.entries(inputsOf({ N: 3, D: 2, widths: [3, 2] })).map(([name, plain]) => [name, toTensor(plain)]),
    );
    const p = weightsOf(t, [3, 2]);
    expect(() => mixture(t.x, { ...p, router: tf.ones([3, 2]) }, OPTIONS, null)).toThrow(/router \[3,2\]/);
    expect(() => mixture(t.x, p, { ...OPTIONS, topK: 3 }, null)).toThrow(/top 3/);
    expect(() => mixture(t.x, { ...p, experts: { ...p.experts, offsets: [0, 3, 4] } }, OPTIONS, null)).toThrow(
      /4 chan/,
    );
  });
});

it("agrees with its definition for more tokens than a grid axis holds workgroups", async () => {
  await expectAgreement("webgpu", {
    ...comparisonOf({ N: 70_000, D: 1, widths: [1, 1], F: 1, options: { topK: 1, normalize: false } }),
    tolerance: 1e-4, // Weights' gradients are sums over 70,000 tokens.
  });
});
