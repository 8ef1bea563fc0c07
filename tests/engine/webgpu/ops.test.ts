// Every operation's WGSL kernels, forward and backward, against its definition and autograd on the cpu backend.

import { afterEach, beforeAll, beforeEach, describe, expect, it } from "vitest";
import { gpuErrors } from "../../../src/engine/device.ts";
import {
  causalAttention,
  causalAttentionReference,
  decodeAttention,
  decodeAttentionReference,
} from "../../../src/engine/ops/attention.ts";
import { experts, expertsReference } from "../../../src/engine/ops/experts.ts";
import { matmul, matmulReference } from "../../../src/engine/ops/matmul.ts";
import { rmsNorm, rmsNormReference } from "../../../src/engine/ops/rmsNorm.ts";
import { rotate, rotateReference, type RotaryLayout } from "../../../src/engine/ops/rotate.ts";
import { route, routeReference, type RouteOptions } from "../../../src/engine/ops/route.ts";
import { swiGlu, swiGluReference } from "../../../src/engine/ops/swiGlu.ts";
import * as tf from "../../../src/engine/tf.ts";
import {
  activate,
  expectAgreement,
  expectClose,
  expectSameBits,
  floats,
  integers,
  ints,
  normal,
  run,
  toTensor,
  type Comparison,
  type Plain,
} from "../harness.ts";
import { poison } from "./poison.ts";

beforeAll(() => activate("webgpu"));

let errorsBefore = 0;
beforeEach(() => {
  errorsBefore = gpuErrors().count;
});
afterEach(() => {
  const { count, latest } = gpuErrors();
  expect(count - errorsBefore, String(latest)).toBe(0);
});

/** Agrees with the reference in recycled buffers that held NaN, and gives the same bits as in fresh ones. */
async function expectKernel(comparison: Comparison): Promise<void> {
  const { inputs, trained, op } = comparison;
  await activate("webgpu");
  const fresh = await run(inputs, trained, op);
  await expectAgreement("webgpu", { ...comparison, poison });
  expectSameBits(await run(inputs, trained, op, poison), fresh);
}

describe("matmul on webgpu", () => {
  it.each([
    [1, 1, 1],
    [2, 4, 3],
    [17, 33, 5], // one past a tile
    [64, 32, 2], // one whole tile
    [65, 35, 70],
    [130, 5, 33],
  ])("agrees with its reference for [%i, %i] over %i, in every layout", async (M, N, K) => {
    for (const [transposeA, transposeB] of [
      [false, false],
      [false, true],
      [true, false],
      [true, true],
    ]) {
      await expectKernel({
        inputs: {
          a: normal(transposeA ? [K, M] : [M, K], 1),
          b: normal(transposeB ? [N, K] : [K, N], 2),
        },
        trained: ["a", "b"],
        op: ({ a, b }) => matmul(a, b, transposeA, transposeB),
        reference: ({ a, b }) => matmulReference(a, b, transposeA, transposeB),
      });
    }
  });
});

describe("rmsNorm on webgpu", () => {
  it.each([
    [1, 2],
    [3, 65],
    [70, 4],
    [5, 96],
    [3, 300], // a workgroup for each row
    [35_000, 2], // more rows than a grid axis holds
  ])("agrees with its reference on [2, %i, %i]", async (rows, width) => {
    await expectKernel({
      inputs: { x: normal([2, rows, width], 1, 3), weight: normal([width], 2) },
      trained: ["x", "weight"],
      op: ({ x, weight }) => rmsNorm(x, weight, 1e-6),
      reference: ({ x, weight }) => rmsNormReference(x, weight, 1e-6),
    });
  });

  it("stays finite on rows of zeros", async () => {
    await expectKernel({
      inputs: { x: { ...normal([2, 5], 1), values: new Float32Array(10) }, weight: normal([5], 2) },
      trained: ["x", "weight"],
      op: ({ x, weight }) => rmsNorm(x, weight, 1e-6),
      reference: ({ x, weight }) => rmsNormReference(x, weight, 1e-6),
    });
  });
});

describe("swiGlu on webgpu", () => {
  it.each([[1], [7], [130]])("agrees with its reference on [3, %i]", async (width) => {
    await expectKernel({
      inputs: { gate: normal([3, width], 1, 4), up: normal([3, width], 2) },
      trained: ["gate", "up"],
      op: ({ gate, up }) => swiGlu(gate, up),
      reference: ({ gate, up }) => swiGluReference(gate, up),
    });
  });

  it("is right where the exponential ends", async () => {
    await expectKernel({
      inputs: { gate: floats([9], [-200, -100, -88, -60, 0, 60, 88, 100, 200]), up: normal([9], 2) },
      trained: ["gate", "up"],
      op: ({ gate, up }) => swiGlu(gate, up),
      reference: ({ gate, up }) => swiGluReference(gate, up),
    });
  });
});

describe("rotate on webgpu", () => {
  const cases: [RotaryLayout, number, number][] = [
    ["interleaved", 2, 5],
    ["interleaved", 8, 8],
    ["interleaved", 14, 17],
    ["half", 2, 5],
    ["half", 8, 8],
    ["half", 14, 17],
  ];
  it.each(cases)("agrees with its reference, %s, the last %i of %i entries", async (layout, P, D) => {
    await expectKernel({
      inputs: {
        x: normal([2, 3, 5, D], 1),
        positions: integers([2, 3], 7, 2),
        cos: normal([7, P / 2], 3),
        sin: normal([7, P / 2], 4),
      },
      trained: ["x"],
      op: ({ x, positions, cos, sin }) => rotate(x, positions, { cos, sin, layout }),
      reference: ({ x, positions, cos, sin }) => rotateReference(x, positions, { cos, sin, layout }),
    });
  });

  it("gives NaN for a position that the table lacks", async () => {
    const table = { cos: tf.ones([4, 1]), sin: tf.zeros([4, 1]), layout: "half" } as const;
    const y = rotate(tf.ones([1, 3, 1, 2]), tf.tensor2d([[3, 4, -1]], [1, 3], "int32"), table);
    expect([...(await y.data())]).toEqual([1, 1, NaN, NaN, NaN, NaN]);
  });
});

describe("causalAttention on webgpu", () => {
  it.each([
    // B, T, H, G, K, P, V
    [1, 1, 1, 1, 1, 0, 1],
    [2, 7, 3, 3, 5, 0, 4], // several heads
    [2, 9, 6, 2, 8, 0, 8], // grouped queries
    [2, 65, 2, 1, 4, 0, 3], // one past a block of queries
    [2, 64, 2, 2, 4, 4, 8], // whole blocks and tiles, MLA
    [3, 13, 3, 3, 6, 3, 5], // MLA, odd
    [1, 130, 4, 2, 3, 2, 6], // MLA with groups, three blocks
  ])("agrees with its reference for B %i, T %i, H %i, G %i, K %i, P %i, V %i", async (B, T, H, G, K, P, V) => {
    const inputs: Record<string, Plain> = {
      q: normal([B, T, H, K + P], 1),
      k: normal([B, T, G, K], 2),
      v: normal([B, T, G, V], 3),
    };
    if (P > 0) inputs.shared = normal([B, T, P], 4);
    await expectKernel({
      inputs,
      trained: Object.keys(inputs),
      op: ({ q, k, v, shared }) => causalAttention(q, k, v, shared ?? null, 0.7),
      reference: ({ q, k, v, shared }) => causalAttentionReference(q, k, v, shared ?? null, 0.7),
    });
  });

  it("stays right with large logits", async () => {
    await expectKernel({
      inputs: { q: normal([1, 9, 2, 4], 1, 30), k: normal([1, 9, 2, 4], 2, 30), v: normal([1, 9, 2, 4], 3) },
      trained: ["v"], // Of q and k nothing is left but rounding: the probabilities are 0 and 1.
      op: ({ q, k, v }) => causalAttention(q, k, v, null, 1),
      reference: ({ q, k, v }) => causalAttentionReference(q, k, v, null, 1),
      tolerance: 1e-4, // Logits of several thousand keep four digits after the point in float32.
    });
  });

  it("does not let a token see a later one", async () => {
    await activate("webgpu");
    const [q, k, v] = [1, 2, 3].map((seed) => normal([1, 70, 2, 4], seed));
    const changed = { ...k, values: k.values.map((x, i) => (i >= 69 * 8 ? x + 5 : x)) };
    const results = [];
    for (const keys of [k, changed]) {
      const inputs = { q, k: keys, v };
      results.push(await run(inputs, [], (t) => causalAttention(t.q, t.k, t.v, null, 1).slice([0, 0], [1, 69])));
    }
    expectSameBits(results[0], results[1]);
  });
});

describe("decodeAttention on webgpu", () => {
  it.each([
    // H, G, D, V, whether the value is part of the key
    [1, 1, 1, 1, false],
    [6, 2, 8, 5, false],
    [3, 1, 11, 7, true],
    [4, 1, 48, 32, true],
  ])("agrees with its reference for H %i, G %i, D %i, V %i, latent %s", async (H, G, D, V, latent) => {
    const inputs: Record<string, Plain> = {
      q: normal([3, H, D], 1),
      k: normal([3, 9, G, D], 2),
      lengths: ints([3], [1, 9, 4]),
    };
    if (!latent) inputs.v = normal([3, 9, G, V], 3);
    await expectKernel({
      inputs,
      trained: [],
      op: ({ q, k, v, lengths }) => decodeAttention(q, k, v ?? null, V, lengths, 0.6),
      reference: ({ q, k, v, lengths }) => decodeAttentionReference(q, k, v ?? null, V, lengths, 0.6),
    });
  });

  it("agrees with causal attention's last token", async () => {
    await activate("webgpu");
    const [q, k, v] = [1, 2, 3].map((seed) => toTensor(normal([2, 11, 4, 6], seed)));
    const whole = causalAttention(q, k, v, null, 0.5).slice([0, 10], [2, 1]).reshape([2, 4, 6]);
    const last = q.slice([0, 10], [2, 1]).reshape([2, 4, 6]);
    const step = decodeAttention(last, k, v, 6, tf.tensor1d([11, 11], "int32"), 0.5);
    const [a, b] = [await step.data(), await whole.data()].map((values) => floats([2, 4, 6], [...values]));
    expectClose("one step", a, b, 1e-5);
  });
});

describe("route on webgpu", () => {
  const options: RouteOptions = { topK: 2, scoring: "sigmoid", normalize: true, scale: 1, groups: 1, groupsKept: 1 };
  const cases: [string, number, Partial<RouteOptions>][] = [
    ["sigmoid, normalized", 8, {}],
    ["sigmoid, as they are, scaled", 7, { normalize: false, scale: 2.5 }],
    ["softmax", 9, { scoring: "softmax", normalize: false, topK: 3 }],
    ["softmax, normalized", 5, { scoring: "softmax", scale: 1.5 }],
    ["groups", 12, { groups: 4, groupsKept: 2, topK: 3, scale: 2 }],
    ["groups of one", 6, { groups: 6, groupsKept: 3 }],
    ["all experts", 3, { topK: 3 }],
  ];
  it.each(cases)("agrees with its reference: %s of %i", async (_, E, change) => {
    await expectKernel({
      inputs: { logits: normal([13, E], 1, 2), bias: normal([E], 2, 0.3) },
      trained: ["logits"],
      op: ({ logits, bias }) => outputsOf(route(logits, bias, { ...options, ...change })),
      reference: ({ logits, bias }) => outputsOf(routeReference(logits, bias, { ...options, ...change })),
    });
  });

  it("gives the only expert the whole weight", async () => {
    await activate("webgpu"); // The definition needs two: tf.oneHot does.
    poison();
    const { weights, experts: chosen } = route(tf.tensor2d([[-3], [2]]), tf.zeros([1]), { ...options, topK: 1 });
    expect([[...(await weights.data())], [...(await chosen.data())]]).toEqual([
      [1, 1],
      [0, 0],
    ]);
  });

  it("takes the first of equals", async () => {
    await expectKernel({
      inputs: { logits: floats([2, 5], [1, 1, 1, 1, 1, 0, 2, 0, 2, 2]), bias: floats([5], [0, 0, 0, 0, 0]) },
      trained: ["logits"],
      op: ({ logits, bias }) => outputsOf(route(logits, bias, options)),
      reference: ({ logits, bias }) => outputsOf(routeReference(logits, bias, options)),
    });
  });
});

describe("experts on webgpu", () => {
  const cases: [string, number, number, number, number[]][] = [
    // N, D, topK, widths
    ["one of one", 1, 1, 1, [1]],
    ["two of four, alike", 11, 6, 2, [8, 8, 8, 8]],
    ["ragged, one of width 0", 13, 5, 2, [3, 0, 9, 1, 6]],
    ["more rows of one expert than are taken at a time", 300, 4, 1, [5, 3]],
    ["all experts, several chunks", 290, 3, 3, [2, 4, 5]],
  ];
  it.each(cases)("agrees with its reference: %s", async (_, N, D, topK, widths) => {
    const offsets = [0];
    for (const width of widths) offsets.push(offsets[offsets.length - 1] + width);
    const S = offsets[offsets.length - 1];
    const inputs = {
      x: normal([N, D], 1),
      chosen: distinct(N, topK, widths.length),
      weights: normal([N, topK], 3),
      gate: normal([S, D], 4),
      up: normal([S, D], 5),
      down: normal([D, S], 6),
    };
    const comparison = {
      inputs,
      op: ({ x, chosen, weights, gate, up, down }: Record<string, tf.Tensor>) =>
        experts(x, chosen, weights, { gate, up, down, offsets }),
      reference: ({ x, chosen, weights, gate, up, down }: Record<string, tf.Tensor>) =>
        expertsReference(x, chosen, weights, { gate, up, down, offsets }),
    };
    await expectKernel({ ...comparison, trained: ["x", "weights", "gate", "up", "down"] });
    await expectKernel({ ...comparison, trained: ["x", "weights"] }); // Frozen experts.
  });

  it("gives zero gradients to experts that no token went to", async () => {
    const weights = { gate: normal([6, 3], 4), up: normal([6, 3], 5), down: normal([3, 6], 6) };
    await expectKernel({
      inputs: { x: normal([4, 3], 1), chosen: ints([4, 1], [2, 2, 0, 2]), weights: normal([4, 1], 3), ...weights },
      trained: ["x", "weights", "gate", "up", "down"],
      op: (t) => experts(t.x, t.chosen, t.weights, { gate: t.gate, up: t.up, down: t.down, offsets: [0, 2, 4, 6] }),
      reference: (t) =>
        expertsReference(t.x, t.chosen, t.weights, { gate: t.gate, up: t.up, down: t.down, offsets: [0, 2, 4, 6] }),
    });
  });

  it("gives gradients to weights that are computed from what is differentiated by", async () => {
    const inputs = {
      x: normal([5, 3], 1),
      chosen: ints([5, 1], [0, 1, 1, 0, 1]),
      weights: normal([5, 1], 3),
      gate: normal([4, 3], 4),
      up: normal([4, 3], 5),
      down: normal([3, 4], 6),
    };
    await expectKernel({
      inputs,
      trained: ["gate", "up", "down"],
      op: (t) => experts(t.x, t.chosen, t.weights, doubled(t)),
      reference: (t) => expertsReference(t.x, t.chosen, t.weights, doubled(t)),
    });
  });

  it("gives NaN for an expert that is not there", async () => {
    const w = tf.ones([2, 2]);
    const p = { gate: w, up: w, down: w, offsets: [0, 1, 2] };
    const y = await experts(tf.ones([2, 2]), tf.tensor2d([[2], [1]], [2, 1], "int32"), tf.ones([2, 1]), p).data();
    expect([...y].map(Number.isNaN)).toEqual([true, true, false, false]);
  });
});

function outputsOf({ weights, experts: chosen }: { weights: tf.Tensor; experts: tf.Tensor }): tf.Tensor[] {
  return [weights, chosen];
}

/** The weights of two experts, each computed from what is differentiated by. */
function doubled(t: Record<string, tf.Tensor>) {
  return { gate: t.gate.mul(2), up: t.up.mul(2), down: t.down.mul(2), offsets: [0, 2, 4] };
}

/** For each of N rows topK different numbers below E. */
function distinct(N: number, topK: number, E: number): Plain {
  const starts = integers([N], E, 2).values;
  return ints(
    [N, topK],
    [...starts].flatMap((start) => Array.from({ length: topK }, (_, k) => (start + k) % E)),
  );
}
