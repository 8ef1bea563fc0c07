// Linear maps on each backend against their definition and autograd.

import { describe, expect, it } from "vitest";
import type { BackendName } from "../../src/engine/backend.ts";
import { gpuErrors } from "../../src/engine/device.ts";
import { linear, type LinearMap, linearReference, linears } from "../../src/engine/ops/linear.ts";
import { unpackedMatrix, unpackedReference } from "../../src/engine/ops/unpack.ts";
import type { PackedFormat } from "../../src/engine/packed.ts";
import { pack } from "../../src/engine/packing.ts";
import type * as tf from "../../src/engine/tf.ts";
import { activate, expectAgreement, expectSameBits, normal, type Plain, run, type Tensors } from "./harness.ts";
import { poison as poisonWasm } from "./wasm/poison.ts";
import { poison as poisonWebGpu } from "./webgpu/poison.ts";

const FORMATS: PackedFormat[] = ["f16", "int8", "int4"];
const poisons: Partial<Record<BackendName, () => void>> = { wasm: poisonWasm, webgpu: poisonWebGpu };

/** One map of a test. */
interface Kind {
  out: number;
  format?: PackedFormat;
  bias?: boolean;
  rank?: number;
}

/** The tensors of some maps of rows of `width`, by name. */
function contents(rows: number, width: number, kinds: Kind[], residual = false): Record<string, Plain> {
  const inputs: Record<string, Plain> = { x: normal([rows, width], 1) };
  if (residual) inputs.residual = normal([rows, kinds[0].out], 2);
  kinds.forEach(({ out, bias, rank }, i) => {
    inputs[`weight${i}`] = normal([out, width], 10 * i + 3);
    if (bias) inputs[`bias${i}`] = normal([out], 10 * i + 4);
    if (!rank) return;
    inputs[`a${i}`] = normal([rank, width], 10 * i + 5);
    inputs[`b${i}`] = normal([out, rank], 10 * i + 6);
  });
  return inputs;
}

function mapOf(t: Tensors, { out, format, bias, rank }: Kind, i: number, plain: Record<string, Plain>): LinearMap {
  const { values, shape } = plain[`weight${i}`];
  return {
    weight: format ? pack(values as Float32Array, [out, shape[1]], format) : t[`weight${i}`],
    bias: bias ? t[`bias${i}`] : undefined,
    lora: rank ? { a: t[`a${i}`], b: t[`b${i}`], scale: 0.7 } : undefined,
  };
}

interface Case {
  rows: number;
  width: number;
  kinds: Kind[];
  residual?: boolean;
  /** Names of what is not trained. */
  frozen?: string[];
}

async function expectLinear(backend: BackendName, { rows, width, kinds, residual, frozen = [] }: Case): Promise<void> {
  const inputs = contents(rows, width, kinds, residual);
  const packed = kinds.flatMap(({ format }, i) => (format ? [`weight${i}`] : []));
  const trained = Object.keys(inputs).filter((name) => !packed.includes(name) && !frozen.includes(name));
  const withMaps = (use: (t: Tensors, maps: LinearMap[]) => tf.Tensor[]) => (t: Tensors) => {
    const maps = kinds.map((kind, i) => mapOf(t, kind, i, inputs));
    return use(t, maps);
  };
  const op = withMaps((t, maps) =>
    maps.length === 1 ? [linear(t.x, maps[0].weight, { ...maps[0], residual: t.residual })] : linears(t.x, maps),
  );
  const reference = withMaps((t, maps) => maps.map((map) => linearReference(t.x, map, t.residual)));
  const errors = gpuErrors().count;
  await expectAgreement(backend, { inputs, trained, op, reference, poison: poisons[backend] });
  const [first, second] = [await run(inputs, trained, op), await run(inputs, trained, op)];
  expectSameBits(second, first);
  expect(gpuErrors().count - errors, String(gpuErrors().latest)).toBe(0);
}

describe.each(["webgpu", "wasm"] as const)("linear on %s", (backend) => {
  it.each([
    [1, 1, 1],
    [3, 5, 7],
    [33, 64, 36],
    [65, 33, 67],
  ])("agrees with its definition for [%i, %i] by [%i] outputs", async (rows, width, out) => {
    await expectLinear(backend, { rows, width, kinds: [{ out }] });
    await expectLinear(backend, { rows, width, kinds: [{ out, bias: true }], residual: true });
    await expectLinear(backend, { rows, width, kinds: [{ out, bias: true, rank: 3 }], residual: true });
  });

  it("trains an adapter alone, or the input alone", async () => {
    const shape = { rows: 9, width: 12, kinds: [{ out: 8, rank: 4 }] };
    await expectLinear(backend, { ...shape, frozen: ["x", "weight0"] });
    await expectLinear(backend, { ...shape, frozen: ["weight0", "a0", "b0"] });
  });

  it.each(FORMATS)("multiplies by a weight stored as %s, both ways", async (format) => {
    await expectLinear(backend, { rows: 5, width: 64, kinds: [{ out: 7, format }] });
    const kinds = [{ out: 36, format, bias: true, rank: 4 }];
    await expectLinear(backend, { rows: 67, width: 32, kinds, residual: true });
  });

  it("computes several maps of one input", async () => {
    await expectLinear(backend, { rows: 9, width: 12, kinds: [{ out: 8 }, { out: 20 }] });
    await expectLinear(backend, { rows: 9, width: 13, kinds: [{ out: 7 }, { out: 20 }, { out: 3 }] });
    const biased = [3, 8, 5].map((out) => ({ out, bias: true }));
    await expectLinear(backend, { rows: 9, width: 12, kinds: biased });
  });

  it("computes several maps with adapters, packed or not", async () => {
    const kinds: Kind[] = [{ out: 8, rank: 4 }, { out: 20, rank: 2, bias: true }, { out: 3 }];
    await expectLinear(backend, { rows: 9, width: 12, kinds });
    await expectLinear(backend, { rows: 9, width: 12, kinds, frozen: ["weight0", "weight1", "weight2"] });
    const stored = FORMATS.map((format): Kind => ({ out: 8, rank: 4, format }));
    await expectLinear(backend, { rows: 9, width: 32, kinds: stored });
  });

  it("gives a trained tensor that is computed from others its gradient", async () => {
    const inputs = contents(5, 6, [{ out: 4, rank: 2 }]);
    const twice = (weight: tf.Tensor) => weight.mul(2);
    await expectAgreement(backend, {
      inputs,
      trained: Object.keys(inputs),
      op: (t) => linear(t.x, twice(t.weight0), { lora: { a: twice(t.a0), b: twice(t.b0), scale: 1 } }),
      reference: (t) =>
        linearReference(t.x, { weight: twice(t.weight0), lora: { a: twice(t.a0), b: twice(t.b0), scale: 1 } }),
    });
  });

  it("takes more rows than a grid axis holds", async () => {
    await expectLinear(backend, { rows: 70_000, width: 2, kinds: [{ out: 1, bias: true }] });
  });

  it.each(FORMATS)("unpacks %s", async (format) => {
    const { values } = normal([3, 64], 1);
    const matrix = () => pack(values as Float32Array, [3, 64], format);
    await expectAgreement(backend, {
      inputs: {},
      trained: [],
      op: () => unpackedMatrix(matrix()),
      reference: () => unpackedReference(matrix()),
      poison: poisons[backend],
    });
  });

  it("refuses shapes that do not fit", async () => {
    await activate(backend);
    const wrong = run(contents(3, 4, [{ out: 2 }]), [], ({ x, weight0 }) => linear(weight0, x.transpose()));
    await expect(wrong).rejects.toThrow("linear: x is [2,4], weight is [4,3]");
  });
});
