// Every variant of the matrix product on the GPU, also those that no shape of the tests would choose, against sums in
// float64.

import { afterEach, beforeAll, beforeEach, describe, expect, it } from "vitest";
import { gpuErrors } from "../../../src/engine/device.ts";
import { multiply, multiplyAll, type Product } from "../../../src/engine/ops/matmul.ts";
import type { Variant } from "../../../src/engine/ops/matmulText.ts";
import type { PackedFormat } from "../../../src/engine/packed.ts";
import { pack } from "../../../src/engine/packing.ts";
import { unpackWords } from "../../../src/engine/packWords.ts";
import * as tf from "../../../src/engine/tf.ts";
import { activate, expectClose, expectSameBits, normal, toTensor, type Plain, type Results } from "../harness.ts";
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

// The variants that are chosen somewhere. Every layout, shape and addend is a text of its own, and software GPUs take long to
// compile the long ones: those are tried on fewer.
const short: Variant[] = [
  { kind: "registers", rows: 1, columns: 4 },
  { kind: "quads", rows: 4, columns: 4 },
  { kind: "shared", down: 8, across: 8, rows: 4, columns: 4, depth: 16 },
  { kind: "split", lanes: 64, rows: 1 },
];
const long: Variant[] = [
  { kind: "registers", rows: 8, columns: 8 },
  { kind: "shared", down: 16, across: 16, rows: 4, columns: 4, depth: 16 },
  { kind: "shared", down: 16, across: 16, rows: 8, columns: 4, depth: 16 },
  { kind: "shared", down: 16, across: 16, rows: 8, columns: 8, depth: 8 },
  { kind: "split", lanes: 8, rows: 8 },
];

const layouts: [boolean, boolean][] = [
  [false, false],
  [false, true],
  [true, false],
  [true, true],
];

type Content = Pick<Plain, "values">;

/** A product of plain contents: what is multiplied, added and skipped. */
interface Case {
  M: number;
  N: number;
  K: number;
  tA: boolean;
  tB: boolean;
  format?: PackedFormat;
  seed?: number;
  scale?: number;
  bias?: boolean;
  residual?: boolean;
  accumulate?: boolean;
  /** Further terms, with K of their own. */
  plus?: number[];
  aStart?: number;
  bStart?: number;
  cStart?: number;
  cStride?: number;
}

/** The tensors of a case, and what c must hold afterwards. */
function prepare(options: Case): { product: Product; want: Plain } {
  const { M, N, K, tA, tB, format, seed = 1, scale, accumulate } = options;
  const { aStart = 0, bStart = 0, cStart = 0, cStride = N } = options;
  const term = (inner: number, at: number, starts: [number, number]) => {
    const a = normal([starts[0] + M * inner], seed + at);
    const shape: [number, number] = tB ? [N, inner] : [inner, N];
    const plainB = normal([starts[1] + N * inner], seed + at + 1);
    if (!format) return { a, b: plainB, tensorB: toTensor(plainB), inner, starts };
    const { words } = pack(plainB.values as Float32Array, shape, format);
    const values = unpackWords(words.dataSync() as Int32Array, shape, format);
    return { a, b: { values }, tensorB: words, inner, starts };
  };
  const terms = [
    term(K, 0, [aStart, bStart]),
    ...(options.plus ?? []).map((inner, i) => term(inner, 10 * (i + 1), [0, 0])),
  ];
  const bias = options.bias ? normal([N], seed + 100) : null;
  const residual = options.residual ? normal([M, N], seed + 101) : null;
  const old = normal([cStart + M * cStride], seed + 102);
  const want = old.values.slice() as Float32Array;
  for (let i = 0; i < M; i++) {
    for (let j = 0; j < N; j++) {
      let sum = 0;
      for (const { a, b, inner, starts } of terms) sum += dot(a, b, i, j, inner, starts);
      const place = cStart + i * cStride + j;
      want[place] =
        sum * (scale ?? 1) +
        (bias ? bias.values[j] : 0) +
        (residual ? residual.values[i * N + j] : 0) +
        (accumulate ? old.values[place] : 0);
    }
  }
  function dot(a: Content, b: Content, i: number, j: number, inner: number, [aAt, bAt]: [number, number]): number {
    let sum = 0;
    for (let k = 0; k < inner; k++) {
      sum += a.values[aAt + (tA ? k * M + i : i * inner + k)] * b.values[bAt + (tB ? j * inner + k : k * N + j)];
    }
    return sum;
  }
  const [first, ...more] = terms.map(({ a, tensorB, inner }) => ({ a: toTensor(a), b: tensorB, K: inner, format }));
  const product: Product = {
    ...first,
    c: toTensor(old),
    M,
    N,
    transposeA: tA,
    transposeB: tB,
    plus: more,
    scale,
    accumulate,
    bias: bias ? toTensor(bias) : undefined,
    residual: residual ? toTensor(residual) : undefined,
    aStart,
    bStart,
    cStart,
    cStride,
  };
  return { product, want: { ...old, values: want } };
}

async function contentOf(product: Product): Promise<Plain> {
  const { shape } = product.c;
  return { shape, dtype: "float32", values: (await (product.c as tf.Tensor).data()) as Float32Array };
}

function dispose({ a, b, c, plus = [], bias, residual }: Product): void {
  tf.dispose([a, b, c, bias, residual, ...plus.flatMap((term) => [term.a, term.b])] as tf.Tensor[]);
}

/** Runs the case twice, in spoiled memory, and compares. */
async function expectProduct(options: Case, variant?: Variant): Promise<void> {
  const bits: Results[] = [];
  for (let round = 0; round < 2; round++) {
    const { product, want } = prepare(options);
    poison();
    multiply(product, variant);
    const found = await contentOf(product);
    expectClose(`${JSON.stringify(options)} ${JSON.stringify(variant)}`, found, want, 1e-5);
    bits.push({ c: found });
    dispose(product);
  }
  expectSameBits(bits[1], bits[0]);
}

describe.each(short.map((variant) => [Object.values(variant).join(" "), variant] as const))(
  "the variant %s",
  (_, variant) => {
    it.each([
      [1, 1, 1],
      [2, 4, 3],
      [17, 33, 5],
      [65, 67, 70],
      [64, 64, 32],
      [132, 68, 36],
    ])("computes [%i, %i] over %i, in every layout", async (M, N, K) => {
      for (const [tA, tB] of layouts) await expectProduct({ M, N, K, tA, tB }, variant);
    });

    it.each(["f16", "int8", "int4"] as const)("decodes %s in both layouts", async (format) => {
      await expectProduct({ M: 5, N: 33, K: 64, tA: false, tB: true, format }, variant);
      await expectProduct({ M: 35, N: 64, K: 33, tA: false, tB: false, format }, variant);
      await expectProduct({ M: 3, N: 32, K: 37, tA: true, tB: false, format }, variant);
    });

    it("adds up products, bias, residual and what is there, scaled, in parts of larger tensors", async () => {
      for (const [tA, tB] of layouts) {
        await expectProduct({ M: 9, N: 36, K: 20, tA, tB, bias: true, residual: true, plus: [8] }, variant);
        await expectProduct(
          { M: 9, N: 35, K: 20, tA, tB, bias: true, residual: true, plus: [7, 4], scale: 3 },
          variant,
        );
        await expectProduct({ M: 6, N: 12, K: 5, tA, tB, accumulate: true, plus: [3, 8, 2, 1, 6] }, variant);
        const part = { aStart: 3, bStart: 5, cStart: 7, cStride: 19 };
        await expectProduct({ M: 9, N: 12, K: 20, tA, tB, ...part, accumulate: true }, variant);
        const wholes = { aStart: 4, bStart: 8, cStart: 12, cStride: 20 };
        await expectProduct({ M: 9, N: 12, K: 20, tA, tB, ...wholes }, variant);
      }
    });

    it("computes several products in one launch", async () => {
      const cases: Case[] = [
        { M: 9, N: 36, K: 20, tA: false, tB: true, seed: 1, bias: true },
        { M: 70, N: 5, K: 3, tA: true, tB: false, seed: 200 },
      ];
      const prepared = cases.map(prepare);
      poison();
      multiplyAll(
        prepared.map(({ product }) => product),
        variant,
      );
      for (const { product, want } of prepared) {
        expectClose(JSON.stringify(variant), await contentOf(product), want, 1e-5);
        dispose(product);
      }
    });
  },
);

describe.each(long.map((variant) => [Object.values(variant).join(" "), variant] as const))(
  "the variant %s, whose text is long,",
  (_, variant) => {
    it.each([
      [false, true, 65, 67, 70],
      [false, false, 132, 68, 36],
      [true, false, 17, 33, 5],
    ])("computes with a transposed: %s, b transposed: %s, [%i, %i] over %i", async (tA, tB, M, N, K) => {
      await expectProduct({ M, N, K, tA, tB }, variant);
    });

    it("adds up products of a matrix stored small, bias and residual", async () => {
      await expectProduct({ M: 5, N: 33, K: 64, tA: false, tB: true, format: "int4", bias: true }, variant);
      await expectProduct({ M: 70, N: 36, K: 20, tA: false, tB: false, residual: true, plus: [8] }, variant);
    });
  },
);

it("reads f16 whose rows are no multiple of 4", async () => {
  for (const variant of short) {
    await expectProduct({ M: 5, N: 7, K: 6, tA: false, tB: true, format: "f16" }, variant);
    await expectProduct({ M: 5, N: 6, K: 7, tA: false, tB: false, format: "f16" }, variant);
  }
});

it.each<[Variant, number]>([
  [{ kind: "split", lanes: 64, rows: 1 }, 70_000],
  [{ kind: "registers", rows: 1, columns: 4 }, 8 * 70_000],
])("takes more tiles than a grid axis holds: %j", async (variant, M) => {
  await expectProduct({ M, N: 1, K: 1, tA: false, tB: false }, variant);
});
