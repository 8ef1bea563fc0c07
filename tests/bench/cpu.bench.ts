// Each operation's WebAssembly kernels against the same in stock TensorFlow.js operations on the same backend, at the
// sizes of the 1M model: `npx vitest bench --run tests/bench/cpu`. Interleaved, because other work on the machine comes
// and goes; the median and the best of each are printed.

import { bench } from "vitest";
import { valueAndGradients } from "../../src/engine/gradients.ts";
import { adamW, squaredNorm } from "../../src/engine/ops/adamW.ts";
import {
  causalAttention,
  causalAttentionReference,
  decodeAttention,
  decodeAttentionReference,
} from "../../src/engine/ops/attention.ts";
import { experts, expertsReference } from "../../src/engine/ops/experts.ts";
import { headLoss, headLossReference } from "../../src/engine/ops/headLoss.ts";
import { matmul, matmulReference } from "../../src/engine/ops/matmul.ts";
import { rmsNorm, rmsNormReference } from "../../src/engine/ops/rmsNorm.ts";
import { rotate, rotateReference } from "../../src/engine/ops/rotate.ts";
import { route, routeReference, type RouteOptions } from "../../src/engine/ops/route.ts";
import { storeRows } from "../../src/engine/ops/storeRows.ts";
import { swiGlu, swiGluReference } from "../../src/engine/ops/swiGlu.ts";
import { takeRows } from "../../src/engine/ops/takeRows.ts";
import * as tf from "../../src/engine/tf.ts";
import { activate, integers, normal, toTensor } from "../engine/harness.ts";

const ROUNDS = 15;

// The 1M model: B batch, T tokens, N = B * T, D hidden size, H heads, K plain and P rotary entries of a key, V of a value,
// F channels of the dense layer, E experts of C channels, W words.
const [B, T, D, H, K, P, V, F, E, C, W] = [16, 192, 96, 3, 32, 16, 32, 256, 8, 64, 2048];
const N = B * T;
const OFFSETS = Array.from({ length: E + 1 }, (_, e) => e * C);
const ROUTE: RouteOptions = { topK: 2, scoring: "sigmoid", normalize: true, scale: 1, groups: 1, groupsKept: 1 };

type Inputs = Record<string, tf.Tensor>;

interface Contest {
  name: string;
  inputs: () => Inputs;
  /** Inputs that are trained; none where there is no gradient to measure. */
  trained: string[];
  ours: (t: Inputs) => tf.Tensor;
  stock: (t: Inputs) => tf.Tensor;
  /** Floating-point operations forward, where that says something. */
  flops?: number;
}

const random = (shape: number[], seed: number) => toTensor(normal(shape, seed));

function product(name: string, m: number, k: number, n: number, tA: boolean, tB: boolean): Contest {
  return {
    name: `matmul ${name} ${m}x${k}x${n}`,
    inputs: () => ({ a: random(tA ? [k, m] : [m, k], 1), b: random(tB ? [n, k] : [k, n], 2) }),
    trained: ["a", "b"],
    ours: ({ a, b }) => matmul(a, b, tA, tB),
    stock: ({ a, b }) => matmulReference(a, b, tA, tB),
    flops: 2 * m * k * n,
  };
}

const contests: Contest[] = [
  product("x·W", N, D, F, false, false),
  product("x·Wᵀ", N, D, F, false, true),
  product("dYᵀ·x", F, N, D, true, false),
  {
    name: `rmsNorm ${N}x${D}`,
    inputs: () => ({ x: random([N, D], 1), weight: random([D], 2) }),
    trained: ["x", "weight"],
    ours: ({ x, weight }) => rmsNorm(x, weight, 1e-6),
    stock: ({ x, weight }) => rmsNormReference(x, weight, 1e-6),
  },
  {
    name: `swiGlu ${N}x${F}`,
    inputs: () => ({ gate: random([N, F], 1), up: random([N, F], 2) }),
    trained: ["gate", "up"],
    ours: ({ gate, up }) => swiGlu(gate, up),
    stock: ({ gate, up }) => swiGluReference(gate, up),
  },
  {
    name: `rotate ${B}x${T}x${H}x${K + P}, last ${P}`,
    inputs: () => ({
      x: random([B, T, H, K + P], 1),
      positions: tf.tile(tf.range(0, T, 1, "int32").reshape([1, T]), [B, 1]),
      cos: random([T, P / 2], 2),
      sin: random([T, P / 2], 3),
    }),
    trained: ["x"],
    ours: ({ x, positions, cos, sin }) => rotate(x, positions, { cos, sin, layout: "interleaved" }),
    stock: ({ x, positions, cos, sin }) => rotateReference(x, positions, { cos, sin, layout: "interleaved" }),
  },
  {
    name: `causalAttention ${B}x${T}, ${H} heads of ${K}+${P}, ${V}`,
    inputs: () => ({
      q: random([B, T, H, K + P], 1),
      k: random([B, T, H, K], 2),
      v: random([B, T, H, V], 3),
      shared: random([B, T, P], 4),
    }),
    trained: ["q", "k", "v", "shared"],
    ours: ({ q, k, v, shared }) => causalAttention(q, k, v, shared, 0.14),
    stock: ({ q, k, v, shared }) => causalAttentionReference(q, k, v, shared, 0.14),
    flops: B * H * T * T * (K + P + V), // Of the half that is seen.
  },
  {
    name: `decodeAttention ${B}, ${H} heads, latent of 48, ${T} slots`,
    inputs: () => ({
      q: random([B, H, 48], 1),
      k: random([B, T, 1, 48], 2),
      lengths: tf.fill([B], T / 2, "int32"),
    }),
    trained: [],
    ours: ({ q, k, lengths }) => decodeAttention(q, k, null, 32, lengths, 0.14),
    stock: ({ q, k, lengths }) => decodeAttentionReference(q, k, null, 32, lengths, 0.14),
  },
  {
    name: `route ${N}x${E}, top 2`,
    inputs: () => ({ logits: random([N, E], 1), bias: random([E], 2) }),
    trained: ["logits"],
    ours: ({ logits, bias }) => route(logits, bias, ROUTE).weights,
    stock: ({ logits, bias }) => routeReference(logits, bias, ROUTE).weights,
  },
  {
    name: `experts ${N}x${D}, ${E} of ${C}, top 2`,
    inputs: () => {
      const first = integers([N, 1], E, 1);
      return {
        x: random([N, D], 2),
        chosen: tf.concat([toTensor(first), toTensor(first).add(tf.scalar(3, "int32")).mod(tf.scalar(E, "int32"))], 1),
        weights: random([N, 2], 3),
        gate: random([E * C, D], 4),
        up: random([E * C, D], 5),
        down: random([D, E * C], 6),
      };
    },
    trained: ["x", "weights", "gate", "up", "down"],
    ours: ({ x, chosen, weights, gate, up, down }) => experts(x, chosen, weights, { gate, up, down, offsets: OFFSETS }),
    stock: ({ x, chosen, weights, gate, up, down }) =>
      expertsReference(x, chosen, weights, { gate, up, down, offsets: OFFSETS }),
    flops: 2 * N * 2 * 3 * D * C, // Of the experts that are chosen.
  },
  {
    name: `takeRows ${N} of ${W}x${D}`,
    inputs: () => ({ table: random([W, D], 1), rows: toTensor(integers([N], W, 2)) }),
    trained: [], // Stock operations have no gradient of it on this backend.
    ours: ({ table, rows }) => takeRows(table, rows),
    stock: ({ table, rows }) => tf.gather(table, rows),
  },
  {
    name: `headLoss ${N}x${D}, ${W} words`,
    inputs: () => ({
      h: random([N, D], 1),
      weight: random([W, D], 2),
      targets: toTensor(integers([N], W, 3)),
      weights: tf.fill([N], 1 / N),
    }),
    trained: ["h", "weight"],
    ours: ({ h, weight, targets, weights }) => headLoss(h, weight, targets, weights),
    stock: ({ h, weight, targets, weights }) => headLossReference(h, weight, targets, weights),
    flops: 2 * N * D * W,
  },
];

interface Times {
  ours: number[];
  stock: number[];
}

/** Run both in turn; each result is dropped at once. */
function measure(ours: () => unknown, stock: () => unknown): Times {
  const times: Times = { ours: [], stock: [] };
  const timed = (run: () => unknown) => {
    const startedMs = performance.now();
    tf.tidy(() => void run());
    return performance.now() - startedMs;
  };
  const slow = Math.max(timed(ours), timed(stock)) > 200;
  for (let round = 0; round < (slow ? 3 : ROUNDS); round++) {
    times.ours.push(timed(ours));
    times.stock.push(timed(stock));
  }
  return times;
}

const median = (values: number[]) => values.toSorted((a, b) => a - b)[values.length >> 1];

function report(name: string, { ours, stock }: Times, flops?: number): void {
  const speed = flops ? `${(flops / Math.min(...ours) / 1e6).toFixed(1)} GFLOP/s` : "";
  const cells = [median(ours), Math.min(...ours), median(stock), Math.min(...stock)].map((ms) =>
    ms.toFixed(3).padStart(9),
  );
  const ratio = `${(median(stock) / median(ours)).toFixed(1)}x`.padStart(8);
  console.log(`${name.padEnd(58)} ${cells.join(" ")} ${ratio}  ${speed}`);
}

function contend({ name, inputs, trained, ours, stock, flops }: Contest): void {
  const t = tf.tidy(inputs);
  report(
    `${name}, forward`,
    measure(
      () => ours(t),
      () => stock(t),
    ),
    flops,
  );
  if (trained.length > 0) {
    const leaves = trained.map((key) => t[key]);
    const both = [ours, stock].map((compute) => () => valueAndGradients(() => compute(t).sum() as tf.Scalar, leaves));
    report(`${name}, with gradients`, measure(both[0], both[1]), flops && 3 * flops);
  }
  tf.dispose(t);
}

/** One update of a model of a million parameters against tf.train.adam, which neither decays nor clips. */
function contendOptimizer(): void {
  const shapes = Array.from({ length: 10 }, () => [1024, 96]);
  const parameters = shapes.map((shape, i) => tf.variable(random(shape, i)));
  const gradients = shapes.map((shape, i) => random(shape, 100 + i));
  const moments = shapes.map((shape) => ({ m: tf.zeros(shape), v: tf.zeros(shape) }));
  const adam = tf.train.adam(1e-3);
  const named = parameters.map(({ name }, i) => ({ name, tensor: gradients[i] }));
  const settings = { learningRate: 1e-3, beta1: 0.9, beta2: 0.95, eps: 1e-8, weightDecay: 0.1, step: 5, clipNorm: 1 };
  const ours = () => {
    const norm = squaredNorm(gradients);
    for (const [i, p] of parameters.entries()) adamW(p, gradients[i], moments[i], norm, settings);
  };
  adam.applyGradients(named); // Makes its moments outside of the tidy scope that follows.
  report(
    "adamW, 983,040 parameters in 10 tensors",
    measure(ours, () => adam.applyGradients(named)),
  );
}

/** What stock operations need to change rows in place: a new table. */
function contendStore(): void {
  const [target, rows, slots] = [random([B * T, 48], 1), random([B, 48], 2), tf.range(0, B * T, T, "int32")];
  const stock = () => tf.tensorScatterUpdate(target, slots.expandDims(1), rows);
  report(
    `storeRows ${B} of ${B * T}x48`,
    measure(() => storeRows(target, rows, slots), stock),
  );
}

/** The embedding's gradient, for which stock operations on this backend have only the product with a one-hot matrix. */
function contendTakeRowsGradient(): void {
  const [table, rows] = [random([W, D], 1), toTensor(integers([N], W, 2))];
  const ours = () => valueAndGradients(() => takeRows(table, rows).sum() as tf.Scalar, [table]);
  const stock = () =>
    valueAndGradients(
      () => tf.matMul(tf.oneHot(rows, W).cast("float32"), table as tf.Tensor2D).sum() as tf.Scalar,
      [table],
    );
  report(`takeRows ${N} of ${W}x${D}, with gradients`, measure(ours, stock));
}

bench(
  "the operations against stock TensorFlow.js",
  async () => {
    await activate("wasm");
    console.log(
      `${"milliseconds:".padEnd(58)} ${["ours", "best", "stock", "best"].map((c) => c.padStart(9)).join(" ")}   ratio`,
    );
    for (const contest of contests) contend(contest);
    contendTakeRowsGradient();
    contendStore();
    contendOptimizer();
  },
  { iterations: 1, time: 0, warmupIterations: 0, warmupTime: 0, throws: true },
);
