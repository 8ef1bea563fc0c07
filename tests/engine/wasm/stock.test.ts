// What we put in place of TensorFlow.js's own kernels: the same results, fewer copies.

import { describe, expect, it } from "vitest";
import * as tf from "../../../src/engine/tf.ts";
import { at } from "../../../src/engine/wasm/heap.ts";
import { activate, expectAgreement, integers, normal, useBackend } from "../harness.ts";
import { poison } from "./poison.ts";

describe("split and concat on wasm", () => {
  it.each([
    ["first", 0, [2, 3]],
    ["middle", 1, [1, 2, 1]],
    ["last", 2, [3, 0, 4]],
    ["last, counted from the end", -1, [6, 1]],
  ])("agree with the cpu backend along the %s axis", async (_, axis, sizes) => {
    const compute = ({ x }: Record<string, tf.Tensor>) => {
      const parts = tf.split(x, sizes, axis);
      return [...parts, tf.concat(parts.toReversed(), axis)];
    };
    await expectAgreement("wasm", {
      inputs: { x: normal([5, 4, 7], 1) },
      trained: ["x"],
      op: compute,
      reference: compute,
      tolerance: 0,
      poison,
    });
    const whole = { inputs: { x: integers([5, 4, 7], 9, 1) }, trained: [], op: compute, reference: compute };
    await expectAgreement("wasm", whole);
  });

  it("leave booleans to TensorFlow.js", async () => {
    await activate("wasm");
    const x = tf.tensor2d([1, 0, 1, 0, 0, 1], [2, 3], "bool");
    const [left, right] = tf.split(x, [1, 2], 1);
    expect([...(await tf.concat([right, left], 1).data())]).toEqual([0, 1, 1, 0, 1, 0]);
  });
});

describe("a clone on wasm", () => {
  useBackend("wasm");

  it("shares its tensor's memory and outlives it", async () => {
    const x = tf.tensor1d([1, 2, 3]);
    const copy = x.clone();
    expect(at(copy)).toBe(at(x));
    x.dispose();
    poison();
    expect([...(await copy.data())]).toEqual([1, 2, 3]);
  });
});
