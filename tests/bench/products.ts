// Matrix products in the three layouts of training, and with a right-hand side that is stored small, against tf.matMul of
// the same layout in float32.

import { linear } from "../../src/engine/ops/linear.ts";
import { matmul } from "../../src/engine/ops/matmul.ts";
import { pack } from "../../src/engine/packing.ts";
import * as tf from "../../src/engine/tf.ts";
import { normalValues } from "../../src/engine/random.ts";
import { activate, type Backend, type Bench, isSlow, placeOf, type Row } from "./bench.ts";
import { interleave, type Patience, spreadOf } from "./measure.ts";
import { compared, type Result } from "./results.ts";

interface Contest {
  name: string;
  transposeA: boolean;
  transposeB: boolean;
  storage: "f32" | "f16" | "int8" | "int4";
}

const contests: Contest[] = [
  { name: "x·Wᵀ", transposeA: false, transposeB: true, storage: "f32" },
  { name: "dY·W", transposeA: false, transposeB: false, storage: "f32" },
  { name: "dYᵀ·x", transposeA: true, transposeB: false, storage: "f32" },
  ...(["f16", "int8", "int4"] as const).map((storage) => ({
    name: `x·Wᵀ, W ${storage}`,
    transposeA: false,
    transposeB: true,
    storage,
  })),
];

export const products: Row = {
  name: "products",
  says: "matrix products, every layout and storage type, against tf.matMul",
  async *run(bench) {
    for (const backend of bench.backends) {
      await activate(backend);
      for (const size of sizesOf(backend, bench)) {
        for (const one of contests) yield await contest(one, size, backend, bench);
      }
    }
  },
};

/** On the processor a stock product of 2048 takes up to a minute; larger ones say nothing new. */
function sizesOf(backend: Backend, bench: Bench): number[] {
  if (bench.quick) return [256];
  if (isSlow(backend, bench)) return [512];
  return backend === "wasm" ? [512, 1024] : [512, 1024, 2048, 4096];
}

async function contest(one: Contest, size: number, backend: Backend, bench: Bench): Promise<Result> {
  const { name, transposeA, transposeB, storage } = one;
  const values = normalValues(size * size, 1, 1, 2);
  const a = tf.tensor2d(normalValues(size * size, 1, 1, 1), [size, size]);
  const b = tf.tensor2d(values, [size, size]);
  const packed = storage === "f32" ? null : pack(values, [size, size], storage);
  const ours = () => (packed ? linear(a, packed) : matmul(a, b, transposeA, transposeB));
  const stock = () => tf.matMul(a, b, transposeA, transposeB);
  const flops = 2 * size ** 3;
  // A GPU is waited for once for several products: the wait would be most of the time.
  const together = bench.adapter.device === "gpu" && backend === "webgpu" ? Math.ceil(2e12 / flops) : 1;
  const [own, other] = [ours, stock].map((multiply) => () => repeated(multiply, together));
  await own();
  await other();
  const patience: Patience = { ...bench.patience, seconds: bench.patience.seconds / 5 };
  const [ourMs, stockMs] = await interleave([own, other], patience);
  tf.dispose([a, b, ...(packed ? [packed.words] : [])]);
  const speeds = (times: number[]) => spreadOf(times.map((ms) => (together * flops) / ms / 1e6));
  const common = { row: "products", what: `${name}, ${size}³`, ...placeOf(backend, bench) };
  return compared(common, "GFLOP/s", speeds(ourMs), { name: "tf.matMul", spread: speeds(stockMs) }, 1);
}

/** Multiply so often and wait until the last is done, without reading all of it back. */
async function repeated(multiply: () => tf.Tensor, times: number): Promise<void> {
  const corner = tf.tidy(() => {
    let last = multiply();
    for (let i = 1; i < times; i++) {
      last.dispose();
      last = multiply();
    }
    return last.slice([0, 0], [1, 1]);
  });
  await corner.data();
  corner.dispose();
}
