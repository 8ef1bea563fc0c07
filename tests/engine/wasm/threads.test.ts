// Several threads over one heap: as many as were asked for, and the same bits as one gives.

import { readFileSync } from "node:fs";
import { beforeAll, describe, expect, it } from "vitest";
import { nodeThreads } from "../../../src/cli/threads.ts";
import { startBackend } from "../../../src/engine/backend.ts";
import { matmul } from "../../../src/engine/ops/matmul.ts";
import type { PackedFormat } from "../../../src/engine/packed.ts";
import { pack } from "../../../src/engine/packing.ts";
import * as tf from "../../../src/engine/tf.ts";
import { at, cpu, make, view } from "../../../src/engine/wasm/heap.ts";
import { threadsFor } from "../../../src/engine/wasm/threads.ts";
import { normal, toTensor } from "../harness.ts";
import { type Instance, instantiate } from "./instances.ts";

const WASM_FILE = "node_modules/@tensorflow/tfjs-backend-wasm/dist/tfjs-backend-wasm-simd.wasm";
const THREADS = 3;

describe("a backend with three threads", () => {
  let device = "";
  beforeAll(async () => {
    const wasmUrl = `data:application/wasm;base64,${readFileSync(WASM_FILE).toString("base64")}`;
    ({ device } = await startBackend({ prefer: "wasm", wasmUrl, threads: nodeThreads(THREADS) }));
  });

  it("says so", () => {
    expect(device).toBe("CPU (SIMD, 3 threads)");
  });

  /** One thread, in the build that the backend uses. */
  const alone = () => instantiate("relaxed", 100);

  it.each([
    ["x·Wᵀ by rows", 700, 130, 97, false, true],
    ["x·W by columns", 130, 705, 99, false, false],
    ["dYᵀ·x", 257, 300, 140, true, false],
    ["both transposed", 131, 515, 77, true, true],
    ["one row by columns of W", 1, 1030, 515, false, false],
    ["one row by rows of W", 1, 1037, 515, false, true],
    ["four rows", 4, 517, 259, false, true],
    ["too little to share", 5, 7, 9, false, false],
  ])("computes %s to the bits of one thread", (_, m, n, k, transposeA, transposeB) => {
    const [a, b] = [normal(transposeA ? [k, m] : [m, k], 1), normal(transposeB ? [n, k] : [k, n], 2)];
    const { kernels, put, floats } = alone();
    const c = put(new Float32Array(m * n));
    const [lda, ldb] = [a.shape[1], b.shape[1]];
    kernels.gemm(transposeA, transposeB, m, n, k, put(a.values), lda, put(b.values), ldb, c, n, false);
    const wanted = floats(c, m * n);
    for (let repeat = 0; repeat < 20; repeat++) {
      const product = tf.tidy(() => matmul(toTensor(a), toTensor(b), transposeA, transposeB));
      expect(Buffer.from(product.dataSync().buffer).equals(Buffer.from(wanted.buffer))).toBe(true);
      product.dispose();
    }
  });

  it.each(["f16", "int8", "int4"] as PackedFormat[])("multiplies by %s to the bits of one thread", (format) => {
    const code = ["f16", "int8", "int4"].indexOf(format);
    const [rows, columns] = [770, 704];
    const packed = pack(normal([rows, columns], 3).values as Float32Array, [rows, columns], format);
    for (const m of [1, 3, 40]) {
      for (const transposeB of [true, false]) {
        const [n, k] = transposeB ? [rows, columns] : [columns, rows];
        const a = normal([m, k], 1);
        const { kernels, put, floats } = alone();
        const c = put(new Float32Array(m * n));
        const words = put(packed.words.dataSync() as Int32Array);
        kernels.gemmPacked(code, transposeB, m, n, k, put(a.values), k, words, rows, columns, c, n, false);
        const [x, y] = [toTensor(a), make([m, n])];
        cpu().gemmPacked(code, transposeB, m, n, k, at(x), k, at(packed.words), rows, columns, at(y), n, false);
        expect(view(y)).toEqual(floats(c, m * n));
        x.dispose();
      }
    }
  });

  /** The backend's own kernels, as `instantiate` has others. */
  const together = (): Instance => ({
    kernels: cpu(),
    put(values) {
      const tensor = make([values.length], values instanceof Int32Array ? "int32" : "float32");
      view(tensor).set(values);
      return at(tensor);
    },
    floats: (address, count) => new Float32Array(heap(), address, count).slice(),
  });

  const heap = () => view(make([1])).buffer;

  const drawn = new Map<string, Float32Array>();
  const random = (size: number, seed: number) => {
    const values = drawn.get(`${size} ${seed}`) ?? (normal([size], seed).values as Float32Array);
    drawn.set(`${size} ${seed}`, values);
    return values;
  };
  const zeros = (size: number) => new Float32Array(size);
  const bytes = (count: number) => new Float32Array(count / 4);
  const bytesOf = (outputs: Float32Array[]) =>
    Buffer.concat(outputs.map(({ buffer, byteOffset, byteLength }) => Buffer.from(buffer, byteOffset, byteLength)));

  /** Each is large enough to be shared, in pieces that do not come out even. */
  const kernels: Record<string, (on: Instance) => Float32Array[]> = {
    add: ({ kernels: k, put, floats }) => {
      const [n, y] = [300_007, put(zeros(300_007))];
      k.add(put(random(n, 1)), put(random(n, 2)), y, n);
      return [floats(y, n)];
    },
    "scale in place": ({ kernels: k, put, floats }) => {
      const [n, x] = [300_007, put(random(300_007, 1))];
      k.scale(x, 1.7, x, n);
      return [floats(x, n)];
    },
    addRow: ({ kernels: k, put, floats }) => {
      const y = put(random(1501 * 203, 1));
      k.addRow(y, put(random(203, 2)), 1501, 203);
      return [floats(y, 1501 * 203)];
    },
    columnSums: ({ kernels: k, put, floats }) => {
      const sums = put(zeros(203));
      k.columnSums(put(random(1501 * 203, 1)), sums, 1501, 203);
      return [floats(sums, 203)];
    },
    copyRows: ({ kernels: k, put, floats }) => {
      const to = put(zeros(1501 * 204));
      k.copyRows(put(random(1501 * 205, 1)), 205, to, 204, 1501, 203);
      return [floats(to, 1501 * 204)];
    },
    swiGlu: ({ kernels: k, put, floats }) => {
      const [n, y] = [90_007, put(zeros(90_007))];
      k.swiGlu(put(random(n, 1)), put(random(n, 2)), y, n);
      return [floats(y, n)];
    },
    "swiGluGradient in place": ({ kernels: k, put, floats }) => {
      const [n, dy, dup] = [90_007, put(random(90_007, 3)), put(zeros(90_007))];
      k.swiGluGradient(dy, put(random(n, 1)), put(random(n, 2)), dy, dup, n);
      return [floats(dy, n), floats(dup, n)];
    },
    rotate: ({ kernels: k, put, floats }) => {
      const [tokens, heads, width, half, known] = [701, 9, 50, 11, 64];
      const [y, tables] = [put(zeros(tokens * heads * width)), [4, 5].map((seed) => put(random(known * half, seed)))];
      const positions = put(Int32Array.from({ length: tokens }, (_, i) => (i * 7) % known));
      const x = put(random(tokens * heads * width, 1));
      k.rotate(x, positions, tables[0], tables[1], y, tokens, heads, width, half, known, true, false);
      return [floats(y, tokens * heads * width)];
    },
    rmsNorm: ({ kernels: k, put, floats }) => {
      const [rows, width, y] = [1501, 203, put(zeros(1501 * 203))];
      k.rmsNorm(put(random(rows * 210, 1)), 210, 0, put(random(width, 2)), y, rows, width, 1e-6);
      return [floats(y, rows * width)];
    },
    "rmsNormGradient, the weight's too": ({ kernels: k, put, floats }) => {
      const [rows, width] = [1501, 203];
      const [dy, x, weight, passed] = [rows * width, rows * width, width, rows * width].map((n, i) =>
        put(random(n, i)),
      );
      const [dx, dweight, work] = [
        put(zeros(rows * width)),
        put(zeros(width)),
        put(bytes(k.rmsNormGradientBytes(rows, width))),
      ];
      k.rmsNormGradient(dy, 0, rows, x, width, weight, passed, dx, dweight, rows, width, 1e-6, work);
      return [floats(dx, rows * width), floats(dweight, width)];
    },
    "squaredSum and adamW": ({ kernels: k, put, floats }) => {
      const n = 400_003;
      const [parameter, gradient, m, v] = [1, 2, 3, 4].map((seed) => put(random(n, seed).map(Math.abs)));
      const [square, work] = [put(zeros(1)), put(bytes(k.squaredSumBytes(n)))];
      k.squaredSum(gradient, square, n, work);
      const rates = put(Float32Array.of(0.01, 1.1, 0.99));
      k.adamW(parameter, gradient, m, v, square, rates, n, 1, 0.9, 0.99, 0.1, 0.01, 1e-8, true);
      return [floats(square, 1), floats(parameter, n), floats(m, n), floats(v, n)];
    },
    "causalAttention, grouped, packed rows": (on) => attention(on, { heads: 6, groups: 3, p: 0, packed: true }),
    "causalAttention with a shared part of the key": (on) =>
      attention(on, { heads: 5, groups: 5, p: 6, packed: false }),
    decodeAttention: ({ kernels: k, put, floats }) => {
      const [b, slots, heads, groups, d, half] = [3, 260, 10, 5, 36, 18];
      const [q, keys, values] = [heads, slots * groups, slots * groups].map((n, i) => put(random(b * n * d, i)));
      const [cos, sin] = [4, 5].map((seed) => put(random(slots * half, seed)));
      const [o, work] = [put(zeros(b * heads * d)), put(bytes(k.decodeAttentionBytes(slots, d)))];
      const positions = put(Int32Array.of(259, 200, 220));
      k.decodeAttention(q, keys, values, positions, cos, sin, o, b, slots, heads, groups, d, half, false, 0.3, work);
      return [floats(o, b * heads * d)];
    },
    latentDecode: ({ kernels: k, put, floats }) => {
      const [b, slots, heads, n, v, r, half] = [3, 160, 10, 20, 24, 40, 5];
      const [q, cache, weight] = [b * heads * 30, b * slots * 50, heads * 44 * r].map((size, i) =>
        put(random(size, i)),
      );
      const [cos, sin] = [4, 5].map((seed) => put(random(slots * half, seed)));
      const [o, work] = [put(zeros(b * heads * v)), put(bytes(k.latentDecodeBytes(slots, 50)))];
      const positions = put(Int32Array.of(159, 100, 120));
      k.latentDecode(q, cache, weight, positions, cos, sin, o, b, slots, heads, n, v, r, half, true, 0.3, work);
      return [floats(o, b * heads * v)];
    },
    "headLoss, cross-entropy": (on) => headLoss(on, 0),
    "headLoss, distillation": (on) => headLoss(on, 5),
    topLogProbabilities: ({ kernels: k, put, floats }) => {
      const [m, d, v, count] = [130, 24, 517, 5];
      const head = put(Int32Array.of(-1, put(random(v * d, 1)), v));
      const [ids, values] = [put(new Int32Array(m * count)), put(zeros(m * count))];
      const work = put(bytes(k.topLogProbabilitiesBytes(v)));
      k.topLogProbabilities(put(random(m * d, 2)), head, 1, ids, values, m, d, v, count, 1.5, work);
      return [floats(values, m * count), floats(ids, m * count)];
    },
  };

  interface AttentionCase {
    heads: number;
    groups: number;
    /** Width of the part of the key that heads share. */
    p: number;
    /** Several sequences in a row. */
    packed: boolean;
  }

  function attention(
    { kernels: k, put, floats }: Instance,
    { heads, groups, p, packed }: AttentionCase,
  ): Float32Array[] {
    const [b, t, own, v, scale] = [3, 70, 12, 20, 0.2];
    const sizes = {
      q: b * t * heads * (own + p),
      key: b * t * groups * own,
      value: b * t * groups * v,
      shared: b * t * p,
    };
    const [q, key, value, shared, dy] = [...Object.values(sizes), b * t * heads * v].map((n, i) =>
      put(random(n, i + 1)),
    );
    const starts = packed ? put(Int32Array.from({ length: b * t }, (_, i) => (i % t < 37 ? 0 : 37))) : 0;
    const [o, stats] = [put(zeros(b * t * heads * v)), put(zeros(b * heads * t * 2))];
    const work = put(bytes(k.causalAttentionBytes(t, own, p)));
    k.causalAttention(q, key, value, shared, starts, o, stats, b, t, heads, groups, own, p, v, own, v, scale, work);
    const gradients = Object.values(sizes).map((n) => [put(zeros(n)), n] as const);
    const [dq, dkey, dvalue, dshared] = gradients.map(([address]) => address);
    const scratch = put(bytes(k.causalAttentionGradientBytes(b, t, groups, own, p)));
    const addresses = [dy, q, key, value, shared, o, stats, dq, dkey, dvalue, dshared] as const;
    k.causalAttentionGradient(...addresses, b, t, heads, groups, own, p, v, own, v, scale, scratch);
    const outputs = [[o, b * t * heads * v], [stats, b * heads * t * 2], ...gradients] as const;
    return outputs.map(([address, n]) => floats(address, n));
  }

  /** `known`: words of which a teacher tells the probability; 0: cross-entropy. */
  function headLoss({ kernels: k, put, floats }: Instance, known: number): Float32Array[] {
    const [m, d, v] = [530, 24, 517];
    const head = put(Int32Array.of(-1, put(random(v * d, 1)), v));
    const targets = put(Int32Array.from({ length: m * Math.max(1, known) }, (_, i) => (i * 31) % v));
    const teacher = known ? put(random(m * known, 3).map((x) => -2 - Math.abs(x))) : 0;
    const weights = put(Float32Array.from({ length: m }, (_, i) => (i % 5 === 3 ? 0 : 1 / (i + 1))));
    const [loss, dh, dhead] = [put(zeros(1)), put(zeros(m * d)), put(zeros(v * d))];
    const work = put(bytes(k.headLossBytes(v, known)));
    const h = put(random(m * d, 2));
    k.headLoss(h, head, 1, targets, teacher, weights, loss, dh, dhead, m, d, v, known, 1.5, work);
    return [floats(loss, 1), floats(dh, m * d), floats(dhead, v * d)];
  }

  it.each(Object.entries(kernels))("computes %s to the bits of one thread", (_, compute) => {
    const wanted = bytesOf(compute(instantiate("relaxed", 400)));
    expect(wanted.some((byte) => byte !== 0)).toBe(true);
    for (let repeat = 0; repeat < 3; repeat++) {
      const found = tf.tidy(() => compute(together()));
      expect(bytesOf(found).equals(wanted)).toBe(true);
    }
  });

  it("goes on after the heap has grown", () => {
    const large = tf.zeros([48 * 1024 * 1024]); // 192 MB
    const [a, b] = [tf.ones([300, 200]), tf.ones([200, 300])];
    const product = matmul(a, b);
    expect([product.max().dataSync()[0], product.min().dataSync()[0]]).toEqual([200, 200]);
    tf.dispose([large, a, b, product]);
  });
});

it("takes a thread for each processor, up to eight", () => {
  expect([0, 1, 2, 8, 64].map(threadsFor)).toEqual([1, 1, 2, 8, 8]);
});
