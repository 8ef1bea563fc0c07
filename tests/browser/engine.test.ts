// The kernels in a real Chromium: its WebGPU, not that of Node's Dawn, against the definitions on the cpu backend.

import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { adapterFacts, findAdapter, gpuBackend, gpuErrors, stopGpu } from "../../src/engine/device.ts";
import { causalAttention, causalAttentionReference } from "../../src/engine/ops/attention.ts";
import { experts, expertsReference } from "../../src/engine/ops/experts.ts";
import { headLoss, headLossReference } from "../../src/engine/ops/headLoss.ts";
import { matmul, matmulReference } from "../../src/engine/ops/matmul.ts";
import { rmsNorm, rmsNormReference } from "../../src/engine/ops/rmsNorm.ts";
import { activate, expectAgreement, integers, normal } from "../engine/harness.ts";

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
    await expectAgreement("webgpu", {
      inputs: {
        q: normal([2, 13, 3, 9], 1),
        k: normal([2, 13, 3, 6], 2),
        v: normal([2, 13, 3, 5], 3),
        shared: normal([2, 13, 3], 4),
      },
      trained: ["q", "k", "v", "shared"],
      op: ({ q, k, v, shared }) => causalAttention(q, k, v, shared, 0.7),
      reference: ({ q, k, v, shared }) => causalAttentionReference(q, k, v, shared, 0.7),
    });
  });

  it("sends tokens through experts of different widths", async () => {
    const offsets = [0, 3, 12, 13];
    await expectAgreement("webgpu", {
      inputs: {
        x: normal([21, 5], 1),
        chosen: integers([21, 1], 3, 2),
        weights: normal([21, 1], 3),
        gate: normal([13, 5], 4),
        up: normal([13, 5], 5),
        down: normal([5, 13], 6),
      },
      trained: ["x", "weights", "gate", "up", "down"],
      op: ({ x, chosen, weights, ...p }) =>
        experts(x, chosen, weights, { gate: p.gate, up: p.up, down: p.down, offsets }),
      reference: ({ x, chosen, weights, ...p }) =>
        expertsReference(x, chosen, weights, { gate: p.gate, up: p.up, down: p.down, offsets }),
    });
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
