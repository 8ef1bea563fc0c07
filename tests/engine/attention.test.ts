// Causal attention of both kinds: kernels, in both forms on WebGPU, against the definitions; rows of several sequences.

import { afterEach, describe, expect, it } from "vitest";
import { causalAttention, causalAttentionReference } from "../../src/engine/ops/attention.ts";
import { attentionForm } from "../../src/engine/ops/attention/launches.ts";
import { latentAttention, latentAttentionReference } from "../../src/engine/ops/latentAttention.ts";
import type { RotaryLayout } from "../../src/engine/ops/rotate.ts";
import * as tf from "../../src/engine/tf.ts";
import {
  expectClose,
  expectSameBits,
  floats,
  integers,
  ints,
  normal,
  type Plain,
  run,
  type Tensors,
  toTensor,
  useBackend,
} from "./harness.ts";
import { expectKernel } from "./poison.ts";

// B batch, T tokens, H query heads, G key-value heads, K (or N + P) width of a key, V of a value.

const FORMS = [
  ["wasm", null],
  ["webgpu", false],
  ["webgpu", true],
] as const;

/** Rows of sequences of these lengths, repeated until T: the first token that each may see. */
function starts(B: number, T: number, lengths: number[]): Plain {
  const values: number[] = [];
  for (let b = 0; b < B; b++) {
    let [first, next] = [0, 0];
    for (let t = 0; t < T; t++) {
      if (t - first === lengths[(b + next) % lengths.length]) [first, next] = [t, next + 1];
      values.push(first);
    }
  }
  return ints([B, T], values);
}

/** Where each token stands in its own sequence. */
function positionsOf({ shape, values }: Plain): Plain {
  return ints(
    shape,
    [...values].map((first, i) => (i % shape[1]) - first),
  );
}

describe.each(FORMS)("on %s, by tile: %s", (backend, byTile) => {
  useBackend(backend);
  afterEach(() => {
    attentionForm.byTile = null;
  });
  const ofForm =
    <T>(compute: (t: Tensors) => T) =>
    (t: Tensors): T => {
      attentionForm.byTile = byTile;
      return compute(t);
    };

  /** Widths of several pieces of a tile. Software compiles a thread with that many registers for half a minute. */
  const WIDE = byTile === false ? [] : ([[33, 65]] as const);

  describe("causalAttention", () => {
    const op = ofForm((t) => causalAttention(t.q, t.k, t.v, t.starts ?? null, 0.7));
    const reference = (t: Tensors) => causalAttentionReference(t.q, t.k, t.v, t.starts ?? null, 0.7);
    type Sizes = [B: number, T: number, H: number, G: number, K: number, V: number];
    const inputsOf = (...[B, T, H, G, K, V]: Sizes) => ({
      q: normal([B, T, H, K], 1),
      k: normal([B, T, G, K], 2),
      v: normal([B, T, G, V], 3),
    });

    it.each([
      // B, T, H, G, K, V
      // Few different widths: software compiles a tile's kernels for seconds.
      [1, 1, 1, 1, 6, 5],
      [2, 7, 3, 3, 6, 5], // several heads
      [2, 9, 6, 2, 6, 5], // grouped queries
      [2, 33, 2, 1, 6, 5], // one past a tile
      [1, 64, 2, 2, 6, 5], // whole tiles
      ...WIDE.map(([K, V]): Sizes => [1, 70, 2, 1, K, V]),
    ])("agrees with its reference for B %i, T %i, H %i, G %i, K %i, V %i", async (...sizes: Sizes) => {
      await expectKernel(backend, { inputs: inputsOf(...sizes), trained: ["q", "k", "v"], op, reference });
    });

    it.each([
      [2, 9, [4, 1, 3]],
      [1, 67, [33, 5, 40]], // across tiles
      [2, 70, [1, 64]],
    ])("keeps sequences apart, B %i, T %i, lengths %j", async (B, T, lengths) => {
      const inputs = { ...inputsOf(B, T, 4, 2, 6, 5), starts: starts(B, T, lengths) };
      await expectKernel(backend, { inputs, trained: ["q", "k", "v"], op, reference });
    });

    it("gives in a packed row what its parts give alone", async () => {
      const [lengths, T] = [[30, 5, 37], 72];
      const { q, k, v } = inputsOf(1, T, 2, 1, 6, 5);
      const packed = await run({ q, k, v, starts: starts(1, T, lengths) }, ["q", "k", "v"], op);
      let from = 0;
      for (const length of lengths) {
        const part = (x: Plain) => {
          const width = x.shape[2] * x.shape[3];
          return floats(
            [1, length, ...x.shape.slice(2)],
            Array.from(x.values.slice(from * width, (from + length) * width)),
          );
        };
        // The gradient is that of the same weighted sum: its weights are the packed row's.
        const weights = part(normal([1, T, 2, 5], 1000));
        const alone = await run({ q: part(q), k: part(k), v: part(v), weights }, ["q", "k", "v"], (t) =>
          op(t).mul(t.weights).sum(),
        );
        const [factor] = normal([], 1000).values; // What the harness multiplies a single number with.
        for (const name of ["q", "k", "v"]) {
          const { shape, values } = alone[`d ${name}`];
          const want = floats(
            shape,
            [...values].map((value) => value / factor),
          );
          expectClose(`d ${name}`, part(packed[`d ${name}`]), want, 1e-5);
        }
        from += length;
      }
    });

    it("stays right with large logits", async () => {
      await expectKernel(backend, {
        inputs: { q: normal([1, 9, 2, 6], 1, 30), k: normal([1, 9, 2, 6], 2, 30), v: normal([1, 9, 2, 5], 3) },
        trained: ["v"], // Of q and k nothing is left but rounding: the probabilities are 0 and 1.
        op,
        reference,
        tolerance: 1e-4, // Logits of several thousand keep four digits after the point in float32.
      });
    });

    it("does not let a token see a later one", async () => {
      const { q, k, v } = inputsOf(1, 70, 2, 2, 4, 4);
      const changed = { ...k, values: k.values.map((x, i) => (i >= 69 * 8 ? x + 5 : x)) };
      const results = [];
      for (const keys of [k, changed]) {
        results.push(await run({ q, k: keys, v }, [], (t) => op(t).slice([0, 0], [1, 69])));
      }
      expectSameBits(results[0], results[1]);
    });

    it("passes on a value that is not a number", async () => {
      const [q, k, v] = Object.values(inputsOf(1, 5, 1, 1, 4, 4));
      q.values[2] = Number.NaN;
      const y = op({ q: toTensor(q), k: toTensor(k), v: toTensor(v) });
      expect((await y.data()).some(Number.isNaN)).toBe(true);
    });

    it("refuses shapes that do not belong together", () => {
      const x = tf.zeros([1, 4, 2, 3]);
      expect(() => causalAttention(x, tf.zeros([1, 4, 2, 4]), x, null, 1)).toThrow(/k is \[1,4,2,4\]/);
      expect(() => causalAttention(x, x, x, tf.zeros([1, 3], "int32"), 1)).toThrow(/starts \[1,3\]/);
    });
  });

  describe("latentAttention", () => {
    const compute =
      (attend: typeof latentAttention, layout: RotaryLayout) =>
      (t: Tensors): tf.Tensor => {
        const { cos, sin } = t;
        return attend(t.q, t.kv, t.rotary, t.positions, { cos, sin, layout }, t.starts ?? null, 0.7);
      };
    const inputsOf = (B: number, T: number, H: number, N: number, P: number, V: number): Record<string, Plain> => ({
      q: normal([B, T, H, N + P], 1),
      kv: normal([B, T, H, N + V], 2),
      rotary: normal([B, T, P], 3),
      positions: integers([B, T], 80, 4),
      cos: normal([80, P / 2], 5),
      sin: normal([80, P / 2], 6),
    });
    const cases: [RotaryLayout, number, number, number, number, number, number][] = [
      // B, T, H, N, P, V
      ["interleaved", 1, 1, 1, 6, 4, 5],
      ["interleaved", 3, 13, 3, 6, 4, 5],
      ["half", 2, 33, 2, 6, 4, 5],
      ...WIDE.map(([N, V]): [RotaryLayout, number, number, number, number, number, number] => [
        "interleaved",
        1,
        66,
        2,
        N,
        2,
        V,
      ]),
    ];

    it.each(cases)("agrees with its reference, %s, B %i, T %i, H %i, N %i, P %i, V %i", async (layout, ...sizes) => {
      await expectKernel(backend, {
        inputs: inputsOf(...sizes),
        trained: ["q", "kv", "rotary"],
        op: ofForm(compute(latentAttention, layout)),
        reference: compute(latentAttentionReference, layout),
      });
    });

    it.each([
      [2, 9, [4, 1, 3]],
      [1, 67, [33, 5, 40]],
    ])("keeps sequences apart, B %i, T %i, lengths %j", async (B, T, lengths) => {
      const own = starts(B, T, lengths);
      await expectKernel(backend, {
        inputs: { ...inputsOf(B, T, 2, 6, 4, 5), starts: own, positions: positionsOf(own) },
        trained: ["q", "kv", "rotary"],
        op: ofForm(compute(latentAttention, "interleaved")),
        reference: compute(latentAttentionReference, "interleaved"),
      });
    });

    it("trains the keys alone where queries are frozen", async () => {
      await expectKernel(backend, {
        inputs: inputsOf(2, 5, 2, 6, 4, 5),
        trained: ["kv"],
        op: ofForm(compute(latentAttention, "half")),
        reference: compute(latentAttentionReference, "half"),
      });
    });

    it("refuses shapes that do not belong together", () => {
      const t = Object.fromEntries(Object.entries(inputsOf(1, 3, 1, 2, 2, 2)).map(([name, x]) => [name, toTensor(x)]));
      const wrong = { ...t, rotary: tf.zeros([1, 3, 4]) };
      expect(() => compute(latentAttention, "half")(wrong)).toThrow(/rotary is \[1,3,4\]/);
    });
  });
});

describe("wide heads by tile", () => {
  useBackend("webgpu");
  afterEach(() => {
    attentionForm.byTile = null;
  });

  it("agree with the reference at DeepSeek's widths, 128 + 64 and 128", async () => {
    attentionForm.byTile = true;
    const [B, T, H, N, P, V] = [1, 35, 1, 128, 64, 128];
    const compute = (attend: typeof latentAttention) => (t: Tensors) =>
      attend(t.q, t.kv, t.rotary, t.positions, { cos: t.cos, sin: t.sin, layout: "interleaved" }, null, 0.07);
    await expectKernel("webgpu", {
      inputs: {
        q: normal([B, T, H, N + P], 1),
        kv: normal([B, T, H, N + V], 2),
        rotary: normal([B, T, P], 3),
        positions: integers([B, T], 40, 4),
        cos: normal([40, P / 2], 5),
        sin: normal([40, P / 2], 6),
      },
      trained: ["q", "kv", "rotary"],
      op: compute(latentAttention),
      reference: compute(latentAttentionReference),
    });
  });
});
