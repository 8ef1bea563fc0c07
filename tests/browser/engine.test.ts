// The kernels in a real Chromium: its WebGPU, not that of Node's Dawn, against the definitions on the cpu backend.

import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { adapterFacts, findAdapter, gpuBackend, gpuErrors, stopGpu } from "../../src/engine/device.ts";
import { mixture, mixtureReference } from "../../src/engine/ops/mixture.ts";
import { headLoss, headLossReference } from "../../src/engine/ops/headLoss.ts";
import { latentAttention, latentAttentionReference } from "../../src/engine/ops/latentAttention.ts";
import { matmul, matmulReference } from "../../src/engine/ops/matmul.ts";
import { rmsNorm, rmsNormReference } from "../../src/engine/ops/rmsNorm.ts";
import { activate, expectAgreement, integers, normal, type Tensors } from "../engine/harness.ts";

describe("WebGPU in the browser", () => {
  beforeAll(() => activate("webgpu"));
  afterAll(() => {
    expect(gpuErrors()).toEqual({ count: 0, latest: null });
    stopGpu();
  });

  it("has the buffers that every kernel is made for", async () => {
    const adapter = await findAdapter();
    expect(adapterFacts(adapter!).description).not.toBe("");
    expect(gpuBackend().device.limits.maxStorageBuffersPerShaderStage).toBeGreaterThanOrEqual(8);
  });

  it("multiplies in every layout", async () => {
    for (const [transposeA, transposeB] of [
      [false, true],
      [true, false],
    ]) {
      await expectAgreement("webgpu", {
        inputs: { a: normal(transposeA ? [31, 65] : [65, 31], 1), b: normal(transposeB ? [35, 31] : [31, 35], 2) },
        trained: ["a", "b"],
        op: ({ a, b }) => matmul(a, b, transposeA, transposeB),
        reference: ({ a, b }) => matmulReference(a, b, transposeA, transposeB),
      });
    }
  });

  it.each([65, 300])("normalizes rows of %i", async (width) => {
    await expectAgreement("webgpu", {
      inputs: { x: normal([2, 3, width], 1, 3), weight: normal([width], 2) },
      trained: ["x", "weight"],
      op: ({ x, weight }) => rmsNorm(x, weight, 1e-6),
      reference: ({ x, weight }) => rmsNormReference(x, weight, 1e-6),
    });
  });

  it("attends, as MLA does", async () => {
    const compute = (attend: typeof latentAttention) => (t: Tensors) =>
      attend(t.q, t.kv, t.rotary, t.positions, { cos: t.cos, sin: t.sin, layout: "interleaved" }, null, 0.7);
    await expectAgreement("webgpu", {
      inputs: {
        q: normal([2, 13, 3, 10], 1),
        kv: normal([2, 13, 3, 11], 2),
        rotary: normal([2, 13, 4], 3),
        positions: integers([2, 13], 20, 4),
        cos: normal([20, 2], 5),
        sin: normal([20, 2], 6),
      },
      trained: ["q", "kv", "rotary"],
      op: compute(latentAttention),
      reference: compute(latentAttentionReference),
    });
  });

  it("sends tokens through experts of different widths", async () => {
    const options = { topK: 2, scoring: "sigmoid", normalize: true, scale: 1, groups: 1, groupsKept: 1 } as const;
    const run = (compute: typeof mixture) => (t: Tensors) => {
      const experts = { gate: t.gate, up: t.up, down: t.down, offsets: [0, 3, 12, 13] };
      const shared = { gate: t.sharedGate, up: t.sharedUp, down: t.sharedDown };
      return compute(t.x, { router: t.router, bias: t.bias, experts, shared }, options, t.x).y;
    };
    const inputs = {
      x: normal([21, 5], 1),
      router: normal([3, 5], 2),
      bias: normal([3], 3, 0.1),
      gate: normal([13, 5], 4),
      up: normal([13, 5], 5),
      down: normal([5, 13], 6),
      sharedGate: normal([7, 5], 7),
      sharedUp: normal([7, 5], 8),
      sharedDown: normal([5, 7], 9),
    };
    const trained = Object.keys(inputs).filter((name) => name !== "bias");
    await expectAgreement("webgpu", { inputs, trained, op: run(mixture), reference: run(mixtureReference) });
  });

  it("takes the loss of a head", async () => {
    await expectAgreement("webgpu", {
      inputs: {
        h: normal([9, 5], 1),
        weight: normal([67, 5], 2),
        targets: integers([9], 67, 3),
        weights: normal([9], 4),
      },
      trained: ["h", "weight"],
      op: (t) => headLoss(t.h, t.weight, t.targets, t.weights),
      reference: (t) => headLossReference(t.h, t.weight, t.targets, t.weights),
    });
  });
});
