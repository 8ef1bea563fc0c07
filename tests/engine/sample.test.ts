// The choice of the next token: against its definition, with ties, at the ends of the draw, and where logits are broken.

import { describe, expect, it } from "vitest";
import { advance, sampleReference, type SampleSettings, sampleTokens } from "../../src/engine/ops/sample.ts";
import * as tf from "../../src/engine/tf.ts";
import { floats, normal, type Plain, toTensor, uniform, useBackend } from "./harness.ts";
import { poison } from "./poison.ts";

const GREEDY: SampleSettings = { temperature: 0, topK: 0, topP: 1 };

describe.each(["cpu", "wasm", "webgpu"] as const)("sampleTokens on %s", (backend) => {
  useBackend(backend);

  async function sample(logits: Plain, settings: SampleSettings, draws: number[]): Promise<number[]> {
    if (backend !== "cpu") poison(backend);
    const tensors = [toTensor(logits), toTensor(floats([draws.length], draws))];
    const tokens = sampleTokens(tensors[0], settings, tensors[1]);
    const found = [...(await tokens.data())];
    tf.dispose([tokens, ...tensors]);
    return found;
  }

  function wanted({ shape: [, V], values }: Plain, settings: SampleSettings, draws: number[]): number[] {
    return draws.map((draw, b) => sampleReference(values.slice(b * V, (b + 1) * V), settings, draw));
  }

  const cases: [string, SampleSettings][] = [
    ["greedily", GREEDY],
    ["by temperature", { temperature: 0.7, topK: 0, topP: 1 }],
    ["by top-k", { temperature: 1.5, topK: 5, topP: 1 }],
    ["by top-p", { temperature: 1, topK: 0, topP: 0.9 }],
    ["by both", { temperature: 2, topK: 40, topP: 0.5 }],
    ["from one", { temperature: 1, topK: 1, topP: 1 }],
    ["by a top-k past the vocabulary", { temperature: 1, topK: 1_000_000, topP: 0.3 }],
  ];
  it.each(cases)("chooses as its definition does, %s", async (_, settings) => {
    const next = uniform(5);
    for (const V of [1, 7, 65, 1500]) {
      const logits = normal([9, V], V, 3);
      const draws = Array.from({ length: 9 }, next);
      expect(await sample(logits, settings, draws)).toEqual(wanted(logits, settings, draws));
    }
  });

  it("draws each token as often as it is probable", async () => {
    const [B, scores] = [2000, [0, 1, -1, 2]];
    const next = uniform(3);
    const logits = floats([B, 4], new Array<number[]>(B).fill(scores).flat());
    const settings = { temperature: 2, topK: 3, topP: 1 };
    const tokens = await sample(logits, settings, Array.from({ length: B }, next));
    const weights = [1, Math.exp(0.5), 0, Math.exp(1)];
    const all = weights.reduce((a, b) => a + b);
    for (const [v, weight] of weights.entries()) {
      const share = tokens.filter((token) => token === v).length / B;
      expect(Math.abs(share - weight / all)).toBeLessThan(0.035); // Three standard deviations of 0.011.
    }
  });

  it("keeps equals together, and takes -0 for 0", async () => {
    const logits = floats([5, 5], new Array<number[]>(5).fill([-0, 3, 0, 3, -0]).flat());
    const draws = [0, 0.3, 0.5, 0.6, 0.99];
    expect(await sample(logits, { temperature: 1, topK: 1, topP: 1 }, draws)).toEqual([1, 1, 3, 3, 3]);
    expect(await sample(logits, { temperature: 100, topK: 3, topP: 1 }, draws)).toEqual([0, 1, 2, 3, 4]);
    expect(await sample(logits, { temperature: 1, topK: 0, topP: 0.4 }, draws)).toEqual([1, 1, 3, 3, 3]);
    expect(await sample(logits, GREEDY, draws)).toEqual([1, 1, 1, 1, 1]);
  });

  it("chooses at both ends of the draw, and where one token has it all", async () => {
    const logits = floats([3, 4], [0, 0, 0, 0, 0, 0, 0, 0, -1e30, 1e30, 0, -Infinity]);
    const settings = { temperature: 1, topK: 0, topP: 1 };
    expect(await sample(logits, settings, [0, 1, 0.5])).toEqual([0, 3, 1]);
    expect(await sample(logits, { ...settings, topP: 0.999 }, [0, 1, 0.5])).toEqual([0, 3, 1]);
  });

  it("does not draw a token of -Infinity", async () => {
    const logits = floats([2, 3], [-Infinity, 1, -Infinity, -Infinity, -Infinity, 1]);
    expect(await sample(logits, { temperature: 1, topK: 2, topP: 1 }, [0, 1])).toEqual([1, 2]);
  });

  it("gives -1 for logits that are not numbers, infinite, or all impossible", async () => {
    const negativeNaN = floats([1], [0]);
    new Uint32Array(negativeNaN.values.buffer)[0] = 0xffc00000;
    const rows = [0, NaN, 1, negativeNaN.values[0], 2, 3, 0, Infinity, 1, -Infinity, -Infinity, -Infinity, 0, 1, 2];
    const logits = floats([5, 3], rows);
    new Uint32Array(logits.values.buffer)[3] = 0xffc00000;
    expect(await sample(logits, GREEDY, [0, 0, 0, 0, 0])).toEqual([-1, -1, -1, -1, 2]);
    const settings = { temperature: 1, topK: 2, topP: 0.9 };
    expect(await sample(logits, settings, [0, 0, 0, 0, 0])).toEqual([-1, -1, -1, -1, 1]);
  });

  it("has a token for each of more rows than a grid axis holds", async () => {
    const B = 65_537;
    const logits = floats(
      [B, 2],
      Array.from({ length: 2 * B }, (_, i) => (i % 2 === 1 ? (i >> 1) % 3 : 1)),
    );
    const tokens = await sample(logits, GREEDY, new Array<number>(B).fill(0));
    expect(tokens.findIndex((token, b) => token !== (b % 3 === 2 ? 1 : 0))).toBe(-1);
  });

  it("refuses settings that make no sense", () => {
    const [logits, uniforms] = [tf.ones([2, 3]), tf.ones([2])];
    expect(() => sampleTokens(logits, { ...GREEDY, topP: 0 }, uniforms)).toThrow(/topP 0 \(above 0, at most 1\)/);
    expect(() => sampleTokens(logits, GREEDY, tf.ones([3]))).toThrow("logits are [2,3], uniforms [3]");
  });
});

describe.each(["cpu", "wasm", "webgpu"] as const)("advance on %s", (backend) => {
  useBackend(backend);

  it("takes the tokens over and goes one further, up to the last position", async () => {
    const [ids, positions] = [tf.zeros([3, 1], "int32").clone(), tf.tensor2d([[4], [8], [9]], [3, 1], "int32")];
    const tokens = tf.tensor1d([7, -1, 5], "int32");
    advance(ids, positions, tokens, 9);
    expect([[...(await ids.data())], [...(await positions.data())]]).toEqual([
      [7, 0, 5],
      [5, 9, 9],
    ]);
    expect(() => advance(ids, positions, tf.zeros([2], "int32"), 9)).toThrow("tokens [2]");
  });
});
