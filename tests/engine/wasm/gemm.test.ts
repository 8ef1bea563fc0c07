// The matrix product's kernels, in both builds, against sums in float64: every layout, stored small or not, few rows and many.

import { describe, expect, it } from "vitest";
import { type PackedFormat, wordCount } from "../../../src/engine/packed.ts";
import { packRows, unpackWords } from "../../../src/engine/packWords.ts";
import { uniform } from "../harness.ts";
import { builds, instantiate } from "./instances.ts";

type Build = keyof typeof builds;
const everyBuild = Object.keys(builds) as Build[];

function numbers(count: number, seed: number): Float32Array {
  const next = uniform(seed);
  return Float32Array.from({ length: count }, () => next() * 2 - 1);
}

/** op(A)·op(B) + before, in float64. */
function productOf(
  [m, n, k]: readonly [number, number, number],
  a: Float32Array,
  transposeA: boolean,
  b: Float32Array,
  transposeB: boolean,
  before?: Float32Array,
): Float64Array {
  return Float64Array.from({ length: m * n }, (_, at) => {
    const [i, j] = [Math.floor(at / n), at % n];
    let sum = before?.[at] ?? 0;
    for (let p = 0; p < k; p++) sum += a[transposeA ? p * m + i : i * k + p] * b[transposeB ? j * k + p : p * n + j];
    return sum;
  });
}

function expectNear(actual: ArrayLike<number>, wanted: Float64Array, k: number): void {
  const tolerance = 2e-7 * (k + 1);
  wanted.forEach((value, i) => {
    if (!(Math.abs(actual[i] - value) <= tolerance)) throw new Error(`element ${i} is ${actual[i]}, wanted ${value}`);
  });
}

const SIZES = [
  [1, 1, 1],
  [1, 5, 7],
  [1, 259, 1031],
  [2, 1027, 130],
  [3, 6, 70],
  [4, 9, 257],
  [5, 33, 3],
  [7, 8, 256],
  [16, 9, 70],
  [17, 21, 70],
  [130, 513, 9],
  [129, 17, 515],
] as const;

const LAYOUTS = [
  [false, false],
  [false, true],
  [true, false],
  [true, true],
] as const;

describe.each(everyBuild)("gemm, built %s", (build) => {
  it.each(SIZES)("computes [%i, %i] over %i in every layout", (...size) => {
    const [m, n, k] = size;
    const [a, b, before] = [numbers(m * k, 1), numbers(k * n, 2), numbers(m * n, 3)];
    for (const [transposeA, transposeB] of LAYOUTS) {
      for (const accumulate of [false, true]) {
        const { kernels, put, floats } = instantiate(build);
        const c = put(accumulate ? before : new Float32Array(m * n).fill(Number.NaN));
        const [lda, ldb] = [transposeA ? m : k, transposeB ? k : n];
        kernels.gemm(transposeA, transposeB, m, n, k, put(a), lda, put(b), ldb, c, n, accumulate);
        const wanted = productOf(size, a, transposeA, b, transposeB, accumulate ? before : undefined);
        expectNear(floats(c, m * n), wanted, k);
      }
    }
  });

  it.each([1, 4, 6, 18])("leaves what lies between the rows of C alone, with %i rows", (m) => {
    const [n, k, ld] = [11, 5, 14];
    for (const [transposeA, transposeB] of LAYOUTS) {
      const { kernels, put, floats } = instantiate(build);
      const c = put(new Float32Array(m * ld).fill(7));
      const [a, b] = [put(numbers(m * k, 1)), put(numbers(n * k, 2))];
      kernels.gemm(transposeA, transposeB, m, n, k, a, transposeA ? m : k, b, transposeB ? k : n, c, ld, false);
      const between = floats(c, m * ld).filter((_, i) => i % ld >= n);
      expect(new Set(between)).toEqual(new Set([7]));
    }
  });
});

describe("a fused multiplication and addition", () => {
  it("is what tells the builds apart, by less than the tolerance", () => {
    const [m, n, k] = [8, 8, 64];
    const [one, other] = everyBuild.map((build) => {
      const { kernels, put, floats } = instantiate(build);
      const c = put(new Float32Array(m * n));
      kernels.gemm(false, false, m, n, k, put(numbers(m * k, 1)), k, put(numbers(k * n, 2)), n, c, n, false);
      return floats(c, m * n);
    });
    expectNear(one, Float64Array.from(other), k);
  });
});

const FORMATS: PackedFormat[] = ["f16", "int8", "int4"]; // In the order of their codes.

/** The words of a random matrix, and what they stand for. */
function storedSmall(shape: [number, number], format: PackedFormat): { words: Int32Array; values: Float32Array } {
  const words = new Int32Array(wordCount(format, shape));
  packRows(numbers(shape[0] * shape[1], 5), 0, words, shape, format);
  return { words, values: unpackWords(words, shape, format) };
}

const PACKED_SIZES = [
  [1, 3, 32],
  [1, 6, 2112],
  [3, 5, 96],
  [4, 33, 64],
  [5, 9, 32],
  [9, 530, 288],
  [16, 6, 2112],
  [18, 530, 288],
  [131, 12, 544],
] as const;

describe.each(everyBuild)("a matrix stored small, built %s", (build) => {
  describe.each(FORMATS)("as %s", (format) => {
    const code = FORMATS.indexOf(format);

    it("is unpacked exactly, from any row on", () => {
      const { kernels, put, floats } = instantiate(build);
      const [rows, columns] = [5, 96];
      const { words, values } = storedSmall([rows, columns], format);
      const y = put(new Float32Array(3 * columns));
      kernels.unpackRows(code, put(words), rows, columns, 2, 3, y);
      expect(floats(y, 3 * columns)).toEqual(values.slice(2 * columns));
    });

    it.each(PACKED_SIZES)("gives the products that its values give: %i rows by [%i, %i]", (m, rows, columns) => {
      const { words, values } = storedSmall([rows, columns], format);
      for (const transposeB of [true, false]) {
        for (const accumulate of [false, true]) {
          const [n, k] = transposeB ? [rows, columns] : [columns, rows];
          const { kernels, put, floats } = instantiate(build);
          const [a, before] = [numbers(m * k, 1), numbers(m * n, 3)];
          const c = put(accumulate ? before : new Float32Array(m * n).fill(Number.NaN));
          kernels.gemmPacked(code, transposeB, m, n, k, put(a), k, put(words), rows, columns, c, n, accumulate);
          const wanted = productOf([m, n, k], a, false, values, transposeB, accumulate ? before : undefined);
          expectNear(floats(c, m * n), wanted, k);
        }
      }
    });
  });

  it("may have columns that are no multiple of 32, as f16", () => {
    const [rows, columns] = [7, 38];
    const { words, values } = storedSmall([rows, columns], "f16");
    for (const m of [1, 2, 6, 20]) {
      for (const transposeB of [true, false]) {
        const [n, k] = transposeB ? [rows, columns] : [columns, rows];
        const { kernels, put, floats } = instantiate(build);
        const a = numbers(m * k, 1);
        const c = put(new Float32Array(m * n));
        kernels.gemmPacked(0, transposeB, m, n, k, put(a), k, put(words), rows, columns, c, n, false);
        expectNear(floats(c, m * n), productOf([m, n, k], a, false, values, transposeB), k);
      }
    }
  });

  it("as f16 has every finite number there is, the subnormal ones and both zeros among them", () => {
    const { kernels, put, floats } = instantiate(build);
    const finite = Array.from({ length: 1 << 16 }, (_, bits) => bits).filter((bits) => (bits & 0x7c00) !== 0x7c00);
    const words = Int32Array.from({ length: finite.length / 2 }, (_, i) => finite[2 * i] | (finite[2 * i + 1] << 16));
    const y = put(new Float32Array(finite.length));
    kernels.unpackRows(0, put(words), 1, finite.length, 0, 1, y);
    expect(floats(y, finite.length)).toEqual(unpackWords(words, [1, finite.length], "f16"));
  });
});
