// A recorded step does what the step itself does, bit for bit, whatever else is computed in between.

import { beforeAll, describe, expect, it } from "vitest";
import { gpuBackend } from "../../src/engine/device.ts";
import { valueAndGradients } from "../../src/engine/gradients.ts";
import { adamW, adamWRates, type AdamWState, adamWState, disposeAdamWState } from "../../src/engine/ops/adamW.ts";
import { headLoss } from "../../src/engine/ops/headLoss.ts";
import { matmul } from "../../src/engine/ops/matmul.ts";
import { rmsNorm } from "../../src/engine/ops/rmsNorm.ts";
import { swiGlu } from "../../src/engine/ops/swiGlu.ts";
import { overwrite, record } from "../../src/engine/record.ts";
import * as tf from "../../src/engine/tf.ts";
import { integers, normal, toTensor, useBackend } from "./harness.ts";

const SETTINGS = { beta1: 0.9, beta2: 0.95, eps: 1e-8, weightDecay: 0.1, clipNorm: 0.5 };
const [N, D, F, V] = [7, 12, 10, 33];

interface Net {
  weights: tf.Tensor[];
  x: tf.Tensor;
  targets: tf.Tensor;
  share: tf.Tensor;
  rates: tf.Tensor;
  state: AdamWState;
}

function net(): Net {
  const shapes = [[D], [F, D], [F, D], [D, F], [V, D]];
  const weights = shapes.map((shape, i) => toTensor(normal(shape, i + 1, 0.5)));
  const decays = weights.map(({ rank }) => rank > 1);
  return {
    weights,
    x: toTensor(normal([N, D], 20)),
    targets: toTensor(integers([N], V, 21)),
    share: tf.fill([N], 1 / N),
    rates: tf.zeros([3]),
    state: adamWState(weights, decays),
  };
}

/** A step in which a tensor is used twice, a constant is made, and one weight has no part. */
function step({ weights, x, targets, share, rates, state }: Net, active: boolean[]): tf.Scalar {
  const [scale, gate, up, down, head] = weights;
  const { value, gradients } = valueAndGradients(
    () => {
      const normed = rmsNorm(x, scale, 1e-6);
      const act = swiGlu(matmul(normed, gate, false, true), matmul(normed, up, false, true));
      return headLoss(rmsNorm(matmul(act, down, false, true), scale, 1e-6), head, targets, share);
    },
    weights.filter((_, i) => active[i]),
  );
  let next = 0;
  adamW(
    state,
    active.map((on) => (on ? gradients[next++] : null)),
    rates,
    SETTINGS,
  );
  return value;
}

async function contents(tensors: tf.Tensor[]): Promise<Buffer> {
  const parts = [];
  for (const tensor of tensors) parts.push(Buffer.from((await tensor.data()).slice().buffer));
  return Buffer.concat(parts);
}

function feed(own: Net, round: number): void {
  overwrite(own.x, normal([N, D], 100 + round).values);
  overwrite(own.targets, integers([N], V, 200 + round).values);
  overwrite(own.rates, adamWRates(0.01, round + 1, SETTINGS));
}

function dispose(own: Net): void {
  disposeAdamWState(own.state);
  tf.dispose([own.weights, own.x, own.targets, own.share, own.rates]);
}

describe.each([
  ["cpu", "one by one"],
  ["wasm", "one by one"],
  ["webgpu", "one by one"],
  ["webgpu", "sharing dispatches"],
] as const)("a recorded step on %s, launches %s", (backend, sharing) => {
  useBackend(backend);
  beforeAll(() => {
    if (backend === "webgpu") gpuBackend().merging = sharing === "sharing dispatches";
  });

  it.each([
    ["all weights", [true, true, true, true, true]],
    ["some weights", [true, false, true, false, true]],
  ])("gives the bits of the step done directly, with %s", async (_, active) => {
    const before = tf.memory().numTensors;
    const [direct, replayed, untouched] = [net(), net(), net()];
    const recording = await record(() => step(replayed, active));
    for (let round = 0; round < 4; round++) {
      feed(direct, round);
      feed(replayed, round);
      const value = tf.tidy(() => step(direct, active));
      const expected = await contents([value]);
      value.dispose();
      // Others use the memory in between.
      tf.tidy(() => matmul(toTensor(normal([40, 50], round)), toTensor(normal([50, 60], round)))).dispose();
      expect((await contents([recording.replay()])).equals(expected)).toBe(true);
    }
    const all = ({ weights, state }: Net) => contents([...weights, ...state.m, ...state.v]);
    expect((await all(replayed)).equals(await all(direct))).toBe(true);
    expect((await all(replayed)).equals(await all(untouched))).toBe(false);
    recording.dispose();
    [direct, replayed, untouched].forEach(dispose);
    expect(tf.memory().numTensors).toBe(before);
  });

  it("leaves everything as it is where the gradient is no number", async () => {
    const before = tf.memory().numTensors;
    const own = net();
    const recording = await record(() =>
      step(
        own,
        own.weights.map(() => true),
      ),
    );
    feed(own, 0);
    overwrite(own.x, new Float32Array(N * D).fill(Number.NaN));
    const all = () => contents([...own.weights, ...own.state.m, ...own.state.v]);
    const untouched = await all();
    const [loss] = await recording.replay().data();
    expect(loss).toBeNaN();
    expect((await all()).equals(untouched)).toBe(true);
    recording.dispose();
    dispose(own);
    expect(tf.memory().numTensors).toBe(before);
  });
});

describe.each(["wasm", "webgpu"] as const)("recording on %s", (backend) => {
  useBackend(backend);

  it("refuses operations that would compute at once", async () => {
    const x = tf.ones([3]);
    await expect(record(() => x.exp())).rejects.toThrow("record: Exp is an operation of TensorFlow.js");
    expect([...(await tf.tidy(() => x.exp()).data())]).toHaveLength(3); // Outside of it they are welcome again.
    x.dispose();
  });
});
