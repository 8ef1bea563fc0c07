// Each operation's WebAssembly kernels against its definition in stock TensorFlow.js operations on the same backend, at the
// sizes of the 1M model.

import { valueAndGradients } from "../../src/engine/gradients.ts";
import { adamW, adamWRates, adamWState, disposeAdamWState } from "../../src/engine/ops/adamW.ts";
import { gatedMlp, gatedMlpReference } from "../../src/engine/ops/gatedMlp.ts";
import { headLoss, headLossReference } from "../../src/engine/ops/headLoss.ts";
import { latentAttention, latentAttentionReference } from "../../src/engine/ops/latentAttention.ts";
import { latentDecode, latentDecodeReference } from "../../src/engine/ops/latentDecode.ts";
import { matmul, matmulReference } from "../../src/engine/ops/matmul.ts";
import { mixture, mixtureReference, type MixtureWeights } from "../../src/engine/ops/mixture.ts";
import { rmsNorm, rmsNormReference } from "../../src/engine/ops/rmsNorm.ts";
import { rotate, rotateReference, type RopeTable } from "../../src/engine/ops/rotate.ts";
import type { RouteOptions } from "../../src/engine/ops/route.ts";
import { swiGlu, swiGluReference } from "../../src/engine/ops/swiGlu.ts";
import { takeRows } from "../../src/engine/ops/takeRows.ts";
import * as tf from "../../src/engine/tf.ts";
import { integers, normal, toTensor } from "../engine/harness.ts";
import { activate, placeOf, type Row } from "./bench.ts";
import { interleave, spreadOf } from "./measure.ts";
import { compared } from "./results.ts";

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

/** The same for every row, by token: int32 [B, T]. */
function perRow(value: (t: number) => number): tf.Tensor {
  const row = Array.from({ length: T }, (_, t) => value(t));
  return tf.tensor2d(new Array<number[]>(B).fill(row), [B, T], "int32");
}

const angles = (): Inputs => ({ positions: perRow((t) => t), cos: random([T, P / 2], 7), sin: random([T, P / 2], 8) });

const tableOf = ({ cos, sin }: Inputs): RopeTable => ({ cos, sin, layout: "interleaved" });

const latentInputs = (): Inputs => ({
  q: random([B, T, H, K + P], 1),
  kv: random([B, T, H, K + V], 2),
  rotary: random([B, T, P], 4),
  ...angles(),
});

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

function mixtureOf({ router, bias, gate, up, down, sharedGate, sharedUp, sharedDown }: Inputs): MixtureWeights {
  const shared = { gate: sharedGate, up: sharedUp, down: sharedDown };
  return { router, bias, experts: { gate, up, down, offsets: OFFSETS }, shared };
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
    inputs: () => ({ q: random([B, T, H, K + P], 1), k: random([B, T, 1, K + P], 4), ...angles() }),
    trained: ["q", "k"],
    ours: (t) => tf.concat(rotate(t.q, t.k, t.positions, tableOf(t)), 2),
    stock: (t) =>
      tf.concat(
        [t.q, t.k].map((x) => rotateReference(x, t.positions, tableOf(t))),
        2,
      ),
  },
  {
    name: `latentAttention ${B}x${T}, ${H} heads of ${K}+${P}, ${V}`,
    inputs: latentInputs,
    trained: ["q", "kv", "rotary"],
    ours: (t) => latentAttention(t.q, t.kv, t.rotary, t.positions, tableOf(t), null, 0.14),
    stock: (t) => latentAttentionReference(t.q, t.kv, t.rotary, t.positions, tableOf(t), null, 0.14),
    flops: B * H * T * T * (K + P + V), // Of the half that is seen.
  },
  {
    name: "latentAttention, four sequences in a row",
    inputs: () => ({ ...latentInputs(), starts: perRow((t) => t - (t % (T / 4))) }),
    trained: ["q", "kv", "rotary"],
    ours: (t) => latentAttention(t.q, t.kv, t.rotary, t.positions, tableOf(t), t.starts, 0.14),
    stock: (t) => latentAttentionReference(t.q, t.kv, t.rotary, t.positions, tableOf(t), t.starts, 0.14),
    flops: (B * H * T * T * (K + P + V)) / 4,
  },
  {
    name: `latentDecode ${B}, ${H} heads, latent of 32+${P}, ${T} slots`,
    inputs: () => ({
      ...angles(),
      q: random([B, 1, H, K + P], 1),
      cache: random([B, T, 32 + P], 2),
      weight: random([H * (K + V), 32], 3),
      positions: tf.fill([B, 1], T / 2, "int32"),
    }),
    trained: [],
    ours: (t) => latentDecode(t.q, t.cache, t.weight, t.positions, tableOf(t), 0.14),
    stock: (t) => latentDecodeReference(t.q, t.cache, t.weight, t.positions, tableOf(t), 0.14),
  },
  {
    name: `gatedMlp ${N}x${D}, ${F}`,
    inputs: () => ({ x: random([N, D], 1), gate: random([F, D], 2), up: random([F, D], 3), down: random([D, F], 4) }),
    trained: ["x", "gate", "up", "down"],
    ours: ({ x, gate, up, down }) => gatedMlp(x, { gate, up, down }, x),
    stock: ({ x, gate, up, down }) => gatedMlpReference(x, { gate, up, down }, x),
    flops: 2 * N * 3 * D * F,
  },
  {
    name: `mixture ${N}x${D}, ${E} of ${C}, top 2, and one for all`,
    inputs: () => ({
      x: random([N, D], 1),
      router: random([E, D], 2),
      bias: random([E], 3),
      gate: random([E * C, D], 4),
      up: random([E * C, D], 5),
      down: random([D, E * C], 6),
      sharedGate: random([C, D], 7),
      sharedUp: random([C, D], 8),
      sharedDown: random([D, C], 9),
    }),
    trained: ["x", "router", "gate", "up", "down", "sharedGate", "sharedUp", "sharedDown"],
    ours: (t) => mixture(t.x, mixtureOf(t), ROUTE, t.x).y,
    stock: (t) => mixtureReference(t.x, mixtureOf(t), ROUTE, t.x).y,
    flops: 2 * N * (2 + 1) * 3 * D * C, // Of the experts that are chosen, and the shared one.
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

/** What both have in the end: a name, and two ways to do it. */
interface Race {
  name: string;
  ours: () => unknown;
  stock: () => unknown;
  dispose: () => void;
}

function* racesOf({ name, inputs, trained, ours, stock, flops }: Contest): Generator<Race & { flops?: number }> {
  const t = tf.tidy(inputs);
  const dispose = () => {};
  yield { name: `${name}, forward`, ours: () => ours(t), stock: () => stock(t), dispose, flops };
  if (trained.length > 0) {
    const leaves = trained.map((key) => t[key]);
    const [own, other] = [ours, stock].map(
      (compute) => () => valueAndGradients(() => compute(t).sum() as tf.Scalar, leaves),
    );
    yield { name: `${name}, with gradients`, ours: own, stock: other, dispose, flops: flops && 3 * flops };
  }
  tf.dispose(t);
}

/** The embedding's gradient, for which stock operations on this backend have only the product with a one-hot matrix. */
function takeRowsGradient(): Race {
  const [table, rows] = [random([W, D], 1), toTensor(integers([N], W, 2))];
  const oneHotProduct = () => tf.matMul(tf.oneHot(rows, W).cast("float32"), table as tf.Tensor2D);
  return {
    name: `takeRows ${N} of ${W}x${D}, with gradients`,
    ours: () => valueAndGradients(() => takeRows(table, rows).sum() as tf.Scalar, [table]),
    stock: () => valueAndGradients(() => oneHotProduct().sum() as tf.Scalar, [table]),
    dispose: () => tf.dispose([table, rows]),
  };
}

/** One update of a model of a million parameters against tf.train.adam, which neither decays nor clips. */
function optimizer(): Race {
  const shapes = Array.from({ length: 10 }, () => [1024, 96]);
  const parameters = shapes.map((shape, i) => random(shape, i));
  const variables = shapes.map((shape, i) => tf.variable(random(shape, i)));
  const gradients = shapes.map((shape, i) => random(shape, 100 + i));
  const settings = { beta1: 0.9, beta2: 0.95, eps: 1e-8, weightDecay: 0.1, clipNorm: 1 };
  const state = adamWState(
    parameters,
    parameters.map(() => true),
  );
  const rates = tf.tensor1d(adamWRates(1e-3, 5, settings));
  const adam = tf.train.adam(1e-3);
  const named = variables.map(({ name }, i) => ({ name, tensor: gradients[i] }));
  adam.applyGradients(named); // Makes its moments outside of the scope that is tidied up.
  return {
    name: "adamW, 983,040 parameters in 10 tensors",
    ours: () => adamW(state, gradients, rates, settings),
    stock: () => adam.applyGradients(named),
    dispose: () => {
      disposeAdamWState(state);
      adam.dispose();
      tf.dispose([...parameters, ...variables, ...gradients, rates]);
    },
  };
}

function* allRaces(): Generator<Race & { flops?: number }> {
  for (const contest of contests) yield* racesOf(contest);
  yield takeRowsGradient();
  yield optimizer();
}

export const operations: Row = {
  name: "operations",
  says: "each operation's CPU kernels against stock operations",
  async *run(bench) {
    if (!bench.backends.includes("wasm")) return;
    await activate("wasm");
    const patience = bench.quick ? { ...bench.patience, seconds: 1 } : { ...bench.patience, seconds: 4 };
    for (const { name, ours, stock, dispose, flops } of allRaces()) {
      const [own, other] = [ours, stock].map((compute) => async () => tf.tidy(() => void compute()));
      await own();
      await other();
      const [ourMs, stockMs] = await interleave([own, other], patience);
      dispose();
      const best = Math.min(...ourMs);
      const note = flops ? `${(flops / best / 1e6).toFixed(0)} GFLOP/s at best` : undefined;
      const common = { row: "operations", what: name, ...placeOf("wasm", bench), note };
      yield compared(common, "ms", spreadOf(ourMs), { name: "stock", spread: spreadOf(stockMs) }, null);
    }
  },
};
