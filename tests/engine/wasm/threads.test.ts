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
import { instantiate } from "./instances.ts";

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
