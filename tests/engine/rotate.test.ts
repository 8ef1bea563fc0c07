// Rotary position embedding: kernels against the definition, and positions that the table lacks.

import { describe, expect, it } from "vitest";
import { rotate, rotateReference, type RopeTable, type RotaryLayout } from "../../src/engine/ops/rotate.ts";
import * as tf from "../../src/engine/tf.ts";
import { activate, integers, normal, type Tensors, useBackend } from "./harness.ts";
import { expectKernel, KERNEL_BACKENDS } from "./poison.ts";

describe.each(KERNEL_BACKENDS)("rotate on %s", (backend) => {
  useBackend(backend);

  const cases: [RotaryLayout, number, number, number][] = [
    ["interleaved", 2, 5, 1],
    ["interleaved", 8, 8, 2],
    ["interleaved", 14, 17, 3],
    ["half", 2, 5, 1],
    ["half", 8, 8, 2],
    ["half", 14, 17, 3],
  ];
  it.each(cases)("agrees with its reference, %s, the last %i of %i entries, %i key heads", async (layout, P, D, G) => {
    const table = ({ cos, sin }: Tensors): RopeTable => ({ cos, sin, layout });
    await expectKernel(backend, {
      inputs: {
        q: normal([2, 3, 5, D], 1),
        k: normal([2, 3, G, D], 5),
        positions: integers([2, 3], 7, 2),
        cos: normal([7, P / 2], 3),
        sin: normal([7, P / 2], 4),
      },
      trained: ["q", "k"],
      op: (t) => rotate(t.q, t.k, t.positions, table(t)),
      reference: (t) => [rotateReference(t.q, t.positions, table(t)), rotateReference(t.k, t.positions, table(t))],
    });
  });

  it("refuses heads of different widths", () => {
    const table = { cos: tf.ones([4, 1]), sin: tf.zeros([4, 1]), layout: "half" } as const;
    const at = tf.zeros([1, 2], "int32");
    expect(() => rotate(tf.ones([1, 2, 1, 4]), tf.ones([1, 2, 1, 2]), at, table)).toThrow(/k is \[1,2,1,2\]/);
  });
});

describe("a position that the table lacks", () => {
  const rotated = (positions: number[]) => {
    const table = { cos: tf.ones([4, 1]), sin: tf.zeros([4, 1]), layout: "half" } as const;
    const x = tf.ones([1, positions.length, 1, 2]);
    return rotate(x, x, tf.tensor2d([positions], undefined, "int32"), table);
  };

  it("is refused on wasm", async () => {
    await activate("wasm");
    expect(() => rotated([3, 4])).toThrow(/position 4/);
  });

  it("gives NaN on webgpu", async () => {
    await activate("webgpu");
    for (const y of rotated([3, 4, -1])) expect([...(await y.data())]).toEqual([1, 1, NaN, NaN, NaN, NaN]);
  });
});
