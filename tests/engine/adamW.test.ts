import { describe, expect, it } from "vitest";
import { adamW, adamWRates, adamWReference, adamWState, disposeAdamWState } from "../../src/engine/ops/adamW.ts";
import * as tf from "../../src/engine/tf.ts";
import { expectClose, floats, normal, type Plain, toTensor, useBackend } from "./harness.ts";

const SETTINGS = { beta1: 0.9, beta2: 0.99, eps: 1e-8, weightDecay: 0.1, clipNorm: 0 };
const SHAPES = [[5, 3], [1], [130], [64], [71, 33]]; // Below, at and past the blocks in which they lie on WebGPU.

describe.each(["cpu", "wasm", "webgpu"] as const)("adamW on %s", (backend) => {
  useBackend(backend);

  it.each([
    ["clipped", 0.5, [true, true, true, true, true]],
    ["not clipped, for the norm is below", 1e6, [true, true, true, true, true]],
    ["without a limit", 0, [true, true, true, true, true]],
    ["two of five", 0.5, [false, true, false, false, true]],
  ])("moves all parameters as its definition does: %s", async (_, clipNorm, active) => {
    const settings = { ...SETTINGS, clipNorm };
    const plain = SHAPES.map((shape, i) => normal(shape, i).values as Float32Array);
    const [m, v] = [0, 1].map(() => SHAPES.map((shape) => new Float32Array(tf.util.sizeFromShape(shape))));
    const parameters = SHAPES.map((shape, i) => toTensor(normal(shape, i)));
    const decays = SHAPES.map((shape) => shape.length > 1);
    const state = adamWState(parameters, decays);
    for (let step = 1; step <= 3; step++) {
      const gradients = SHAPES.map((shape, i) => (active[i] ? normal(shape, 10 * step + i) : null));
      const rates = adamWRates(0.01, step, settings);
      const values = gradients.map((gradient) => (gradient?.values as Float32Array | undefined) ?? null);
      adamWReference(plain, values, m, v, decays, rates, settings);
      tf.tidy(() => {
        const tensors = gradients.map((gradient) => gradient && toTensor(gradient));
        adamW(state, tensors, tf.tensor1d(rates), settings);
      });
    }
    const read = async (tensor: tf.Tensor): Promise<Plain> => floats(tensor.shape, [...(await tensor.data())]);
    for (const [i, shape] of SHAPES.entries()) {
      expectClose(`parameter ${i}`, await read(parameters[i]), floats(shape, [...plain[i]]), 1e-6);
      expectClose(`m ${i}`, await read(state.m[i]), floats(shape, [...m[i]]), 1e-6);
      expectClose(`v ${i}`, await read(state.v[i]), floats(shape, [...v[i]]), 1e-6);
    }
    // The parameters stay the caller's, and work in other operations.
    disposeAdamWState(state);
    const [sum] = await tf.tidy(() => parameters[2].sum()).data();
    expect(sum).toBeCloseTo(
      plain[2].reduce((a, b) => a + b),
      3,
    );
    tf.dispose(parameters);
  });

  it("says which gradient does not fit", () => {
    const state = adamWState([tf.ones([2, 3])], [true]);
    expect(() => adamW(state, [tf.ones([3, 2])], tf.ones([3]), SETTINGS)).toThrow(
      "adamW: parameter 0 is [2,3], its gradient [3,2]",
    );
  });
});
