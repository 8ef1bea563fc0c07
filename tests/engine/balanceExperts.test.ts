// Counting the experts' loads and moving the router's bias, on every backend.

import { describe, expect, it } from "vitest";
import { balanceExperts, balanceReference, expertLoads } from "../../src/engine/ops/balanceExperts.ts";
import * as tf from "../../src/engine/tf.ts";
import { integers, normal, toTensor, useBackend } from "./harness.ts";
import { KERNEL_BACKENDS, poison } from "./poison.ts";

function counted(chosen: ArrayLike<number>, experts: number): number[] {
  const loads = new Array<number>(experts).fill(0);
  for (let i = 0; i < chosen.length; i++) loads[chosen[i]] += 1;
  return loads;
}

describe.each(["cpu", ...KERNEL_BACKENDS] as const)("balancing on %s", (backend) => {
  useBackend(backend);
  const spoil = () => backend !== "cpu" && poison(backend);

  it.each([
    [1, 1, 1],
    [13, 2, 5],
    [301, 3, 300], // more experts and more assignments than threads
    [35_000, 2, 3], // more assignments than a grid axis holds
  ])("counts and moves for [%i, %i] assignments to %i experts, over two batches", async (N, topK, E) => {
    const [first, second, start] = [integers([N, topK], E, 1), integers([N, topK], E, 2), normal([E], 3)];
    spoil();
    const bias = toTensor(start);
    const before = expertLoads(toTensor(first), E, null);
    const worst = balanceExperts(bias, toTensor(second), before, tf.tensor1d([0.125]));
    const loads = counted([...first.values, ...second.values], E);
    const wanted = balanceReference([...start.values], loads, 0.125);
    expect([...(await before.data())]).toEqual(counted(first.values, E));
    expect([...(await bias.data())]).toEqual(wanted.moved.map(Math.fround));
    expect((await worst.data())[0]).toBeCloseTo(wanted.worst, 5);
  });

  it("leaves the bias of an expert with the mean load, and every bias at speed 0", async () => {
    const bias = tf.tensor1d([1, 2, 3]);
    const chosen = tf.tensor2d([[0], [0], [0], [1], [1], [2]], [6, 1], "int32");
    spoil();
    balanceExperts(bias, chosen, null, tf.tensor1d([0]));
    expect([...(await bias.data())]).toEqual([1, 2, 3]);
    expect([...(await balanceExperts(bias, chosen, null, tf.tensor1d([0.5])).data())]).toEqual([1.5]);
    expect([...(await bias.data())]).toEqual([0.5, 2, 3.5]);
  });
});
