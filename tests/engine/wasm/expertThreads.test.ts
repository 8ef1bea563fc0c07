// Experts shared among threads give the bits that one thread gives, forward and backward.

import { readFileSync } from "node:fs";
import { beforeAll, describe, expect, it } from "vitest";
import { nodeThreads } from "../../../src/cli/threads.ts";
import { startBackend } from "../../../src/engine/backend.ts";
import { type PackedFormat, valueWords } from "../../../src/engine/packed.ts";
import { pack } from "../../../src/engine/packing.ts";
import { at, cpu, make, view } from "../../../src/engine/wasm/heap.ts";
import { integers, normal } from "../harness.ts";
import { type Instance, instantiate } from "./instances.ts";

const WASM_FILE = "node_modules/@tensorflow/tfjs-backend-wasm/dist/tfjs-backend-wasm-simd.wasm";
const THREADS = 3;

interface Case {
  n: number;
  widths: number[];
  format: PackedFormat | null;
  /** Whether the gradients of the weights are computed. */
  trained: boolean;
}

const [d, topK] = [96, 2];

/** What the kernels give: y, hidden, dx, dweights, and the gradients of the weights if they are wanted. */
function experts({ kernels: k, put, floats }: Instance, { n, widths, format, trained }: Case): Float32Array[] {
  const e = widths.length;
  const offsets = [0];
  for (const width of widths) offsets.push(offsets.at(-1)! + width);
  const [s, widest, slots] = [offsets[e], Math.max(...widths), n * topK];
  const random = (size: number, seed: number) => put(normal([size], seed).values);
  const zeros = (size: number) => put(new Float32Array(size));
  const words = [[s, d] as const, [s, d] as const, [d, s] as const].flatMap(([rows, columns], i) => {
    const { values } = normal([rows, columns], 10 + i, 0.3);
    if (!format) return [-1, put(values), 0];
    const packed = pack(values as Float32Array, [rows, columns], format);
    const address = put(packed.words.dataSync<"int32">().slice());
    packed.words.dispose();
    return [["f16", "int8", "int4"].indexOf(format), address, address + 4 * valueWords(format, [rows, columns])];
  });
  const [matrices, at] = [put(Int32Array.from(words)), put(Int32Array.from(offsets))];
  const chosen = put(integers([slots], e, 5).values);
  const [x, dy, weights] = [random(n * d, 1), random(n * d, 2), random(slots, 3)];
  const sizes = [n * d, slots * 2 * widest, n * d, slots, s * d, s * d, d * s];
  const [y, hidden, dx, dweights, dgate, dup, ddown] = sizes.map(zeros);
  const order = put(new Int32Array(2 * slots + e + 1));
  const shape = [n, d, topK, e, s, widest] as const;
  const work = zeros(k.expertsBytes(slots, d, widest) / 4);
  k.experts(x, chosen, weights, matrices, at, y, hidden, order, ...shape, false, work);
  const more = zeros(k.expertsGradientBytes(slots, d, widest) / 4);
  const gradients = trained ? ([dgate, dup, ddown] as const) : ([0, 0, 0] as const);
  k.expertsGradient(dy, x, weights, matrices, at, hidden, order, dx, dweights, ...gradients, ...shape, more);
  return [y, hidden, dx, dweights, dgate, dup, ddown].map((address, i) => floats(address, sizes[i]));
}

describe("experts on three threads", () => {
  beforeAll(async () => {
    const wasmUrl = `data:application/wasm;base64,${readFileSync(WASM_FILE).toString("base64")}`;
    await startBackend({ prefer: "wasm", wasmUrl, threads: nodeThreads(THREADS) });
  });

  /** The backend's own kernels, as `instantiate` has others. */
  const together = (): Instance => ({
    kernels: cpu(),
    put(values) {
      const tensor = make([values.length], values instanceof Int32Array ? "int32" : "float32");
      view(tensor).set(values);
      return at(tensor);
    },
    floats: (address, count) => new Float32Array(view(make([1])).buffer, address, count).slice(),
  });

  it.each<[string, Case]>([
    ["some rows each", { n: 401, widths: [64, 32, 0, 96, 64], format: null, trained: true }],
    ["more rows than a unit has", { n: 701, widths: [64, 33, 0, 7], format: null, trained: false }],
    ["int8", { n: 401, widths: [64, 32, 0, 96, 64], format: "int8", trained: false }],
    ["int4, fewer than threads", { n: 67, widths: [512, 1024], format: "int4", trained: false }],
    ["f16, one token", { n: 1, widths: [512, 1024, 512, 1024], format: "f16", trained: false }],
    ["more than pieces", { n: 307, widths: new Array<number>(71).fill(32), format: "int8", trained: false }],
    ["more than pieces, trained", { n: 307, widths: new Array<number>(71).fill(9), format: null, trained: true }],
  ])("compute the bits of one thread: %s", (_, one) => {
    const wanted = experts(instantiate("relaxed", 1000), one);
    for (let repeat = 0; repeat < 5; repeat++) {
      experts(together(), one).forEach((values, i) => expect(bits(values).equals(bits(wanted[i])), `${i}`).toBe(true));
    }
  });
});

function bits({ buffer, byteOffset, byteLength }: Float32Array): Buffer {
  return Buffer.from(buffer, byteOffset, byteLength);
}
