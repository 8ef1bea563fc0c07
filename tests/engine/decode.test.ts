// Decoding with a cache, for keys and values and for latents: kernels against the definitions, and what they add up to.

import { describe, expect, it } from "vitest";
import { causalAttention } from "../../src/engine/ops/attention.ts";
import {
  decodeAttention,
  decodeAttentionReference,
  type KeyValueCache,
  storeKeys,
} from "../../src/engine/ops/decodeAttention.ts";
import { latentAttention } from "../../src/engine/ops/latentAttention.ts";
import { latentDecode, latentDecodeReference, storeLatents } from "../../src/engine/ops/latentDecode.ts";
import { matmul } from "../../src/engine/ops/matmul.ts";
import { rmsNormOfPart } from "../../src/engine/ops/rmsNorm.ts";
import { rotate, type RopeTable, type RotaryLayout } from "../../src/engine/ops/rotate.ts";
import * as tf from "../../src/engine/tf.ts";
import {
  activate,
  expectClose,
  floats,
  ints,
  normal,
  type Plain,
  type Tensors,
  toTensor,
  useBackend,
} from "./harness.ts";
import { expectKernel, KERNEL_BACKENDS, poison } from "./poison.ts";

// B rows, T tokens, S slots, H query heads, G key-value heads, D width of a head; R, N, P, V as MLA has them.

const tableOf = ({ cos, sin }: Tensors, layout: RotaryLayout): RopeTable => ({ cos, sin, layout });

async function plain(tensor: tf.Tensor): Promise<Plain> {
  return floats(tensor.shape, [...(await tensor.data())]);
}

describe.each(KERNEL_BACKENDS)("on %s", (backend) => {
  useBackend(backend);

  it.each([
    // H, G, D, P, S
    [1, 1, 2, 2, 9],
    [6, 2, 9, 8, 9],
    [4, 1, 130, 4, 9], // wider than a workgroup
    [2, 2, 6, 6, 300], // more slots than a workgroup has threads
  ])("decodeAttention agrees with its reference for H %i, G %i, D %i, P %i, S %i", async (H, G, D, P, S) => {
    const compute = (decode: typeof decodeAttention) => (t: Tensors) =>
      decode(t.q, { keys: t.keys, values: t.values }, t.positions, tableOf(t, "half"), 0.6);
    await expectKernel(backend, {
      inputs: {
        q: normal([3, 1, H, D], 1),
        keys: normal([3, S, G, D], 2),
        values: normal([3, S, G, D], 3),
        positions: ints([3, 1], [0, S - 1, S - 5]),
        cos: normal([S, P / 2], 4),
        sin: normal([S, P / 2], 5),
      },
      trained: [],
      op: compute(decodeAttention),
      reference: compute(decodeAttentionReference),
    });
  });

  it.each([
    // H, N, P, V, R, S
    [1, 1, 2, 1, 1, 9],
    [3, 5, 4, 6, 7, 9],
    [2, 6, 2, 130, 140, 9], // wider than a workgroup
    [2, 3, 2, 5, 4, 300], // more slots than a workgroup has threads
  ])("latentDecode agrees with its reference for H %i, N %i, P %i, V %i, R %i, S %i", async (H, N, P, V, R, S) => {
    const compute = (decode: typeof latentDecode) => (t: Tensors) =>
      decode(t.q, t.cache, t.weight, t.positions, tableOf(t, "interleaved"), 0.6);
    await expectKernel(backend, {
      inputs: {
        q: normal([3, 1, H, N + P], 1),
        cache: normal([3, S, R + P], 2),
        weight: normal([H * (N + V), R], 3, 0.3),
        positions: ints([3, 1], [0, S - 1, S - 5]),
        cos: normal([S, P / 2], 4),
        sin: normal([S, P / 2], 5),
      },
      trained: [],
      op: compute(latentDecode),
      reference: compute(latentDecodeReference),
    });
  });

  describe("the cache", () => {
    const [B, T, S, G, D, R, P] = [2, 3, 7, 2, 6, 300, 4];
    const positions = ints([B, T], [0, 1, 2, 5, 3, 6]);
    const table = (width: number) => ({ cos: normal([S, width / 2], 4), sin: normal([S, width / 2], 5) });

    it("gets keys, rotated, and values at their positions, and keeps the rest", async () => {
      const stored: Plain[][] = [];
      for (const name of ["cpu", backend] as const) {
        await activate(name);
        const [k, v, at, cos, sin] = [
          normal([B, T, G, D], 1),
          normal([B, T, G, D], 2),
          positions,
          ...Object.values(table(P)),
        ].map(toTensor);
        const cache: KeyValueCache = {
          keys: toTensor(normal([B, S, G, D], 6)),
          values: toTensor(normal([B, S, G, D], 7)),
        };
        storeKeys(k, v, at, tableOf({ cos, sin }, "half"), cache);
        stored.push([await plain(cache.keys), await plain(cache.values)]);
      }
      expectClose("keys", stored[1][0], stored[0][0], 1e-6);
      expectClose("values", stored[1][1], stored[0][1], 0);
    });

    it("gets latents, normed, and the rotary key, rotated, at their positions, and keeps the rest", async () => {
      const stored: Plain[] = [];
      for (const name of ["cpu", backend] as const) {
        await activate(name);
        const [compressed, weight, at, cos, sin] = [
          normal([B, T, R + P], 1),
          normal([R], 2),
          positions,
          ...Object.values(table(P)),
        ].map(toTensor);
        const cache = toTensor(normal([B, S, R + P], 6));
        storeLatents(compressed, weight, 1e-6, at, tableOf({ cos, sin }, "interleaved"), cache);
        stored.push(await plain(cache));
      }
      expectClose("latents", stored[1], stored[0], 1e-6);
    });
  });

  it("gives, token by token, what causal attention gives for keys and values", async () => {
    const [B, T, H, G, D] = [2, 5, 4, 2, 6];
    const [q, k, v, cos, sin] = [
      normal([B, T, H, D], 1),
      normal([B, T, G, D], 2),
      normal([B, T, G, D], 3),
      normal([T, 3], 4),
      normal([T, 3], 5),
    ].map(toTensor);
    const table = tableOf({ cos, sin }, "half");
    const positions = tf.tensor2d([0, 1, 2, 3, 4, 0, 1, 2, 3, 4], [B, T], "int32");
    const whole = causalAttention(...rotate(q, k, positions, table), v, null, 0.5);
    poison(backend);
    const cache = { keys: tf.zeros([B, T, G, D]), values: tf.zeros([B, T, G, D]) };
    const one = (x: tf.Tensor, t: number) => x.slice([0, t], [B, 1]);
    const steps = Array.from({ length: T }, (_, t) => {
      const at = one(positions, t);
      storeKeys(one(k, t), one(v, t), at, table, cache);
      return decodeAttention(one(q, t), cache, at, table, 0.5);
    });
    expectClose("steps", await plain(tf.concat(steps, 1)), await plain(whole), 1e-5);
  });

  it("gives, token by token, what causal attention gives for latents", async () => {
    const [B, T, H, N, P, V, R] = [2, 5, 3, 4, 2, 5, 7];
    const [q, compressed, norm, weight, cos, sin] = [
      normal([B, T, H, N + P], 1),
      normal([B, T, R + P], 2),
      normal([R], 3),
      normal([H * (N + V), R], 6),
      normal([T, P / 2], 4),
      normal([T, P / 2], 5),
    ].map(toTensor);
    const table = tableOf({ cos, sin }, "interleaved");
    const positions = tf.tensor2d([0, 1, 2, 3, 4, 0, 1, 2, 3, 4], [B, T], "int32");
    const [latent, rotary] = rmsNormOfPart(compressed, norm, 1e-6);
    const kv = matmul(latent.reshape([B * T, R]), weight, false, true).reshape([B, T, H, N + V]);
    const whole = latentAttention(q, kv, rotary, positions, table, null, 0.5);
    const cache = tf.zeros([B, T, R + P]);
    storeLatents(compressed, norm, 1e-6, positions, table, cache); // A prompt; what is not yet seen does no harm.
    const steps = Array.from({ length: T }, (_, t) => {
      const own = (x: tf.Tensor) => x.slice([0, t], [B, 1]);
      return latentDecode(own(q), cache, weight, own(positions), table, 0.5);
    });
    expectClose("steps", await plain(tf.concat(steps, 1)), await plain(whole), 1e-5);
  });

  it("refuses shapes that do not belong together", () => {
    const table = tableOf({ cos: tf.zeros([4, 1]), sin: tf.zeros([4, 1]) }, "half");
    const at = tf.zeros([2, 1], "int32");
    const x = tf.zeros([2, 1, 2, 4]);
    const cache = { keys: tf.zeros([2, 4, 2, 3]), values: tf.zeros([2, 4, 2, 3]) };
    expect(() => storeKeys(x, x, at, table, cache)).toThrow(/cache holds \[2,4,2,3\]/);
    expect(() => decodeAttention(x, cache, at, table, 1)).toThrow(/cache holds \[2,4,2,3\]/);
    const latents = tf.zeros([2, 4, 5]);
    expect(() => storeLatents(tf.zeros([2, 1, 5]), tf.ones([2]), 1e-6, at, table, latents)).toThrow(/is \[2,1,5\]/);
    expect(() => latentDecode(x, latents, tf.zeros([9, 3]), at, table, 1)).toThrow(/weight is \[9,3\]/);
  });
});

describe("a position without a slot", () => {
  const stored = (position: number) => {
    const table = tableOf({ cos: tf.ones([4, 1]), sin: tf.zeros([4, 1]) }, "half");
    const cache = { keys: tf.zeros([1, 3, 1, 2]), values: tf.zeros([1, 3, 1, 2]) };
    const x = tf.ones([1, 1, 1, 2]);
    const at = tf.tensor2d([[position]], [1, 1], "int32");
    storeKeys(x, x, at, table, cache);
    const latents = tf.zeros([1, 3, 3]);
    storeLatents(tf.ones([1, 1, 3]), tf.ones([1]), 1e-6, at, table, latents);
    return { ...cache, latents };
  };

  it("is refused on wasm", async () => {
    await activate("wasm");
    expect(() => stored(3)).toThrow(/position 3 is not among the 3/);
    expect(() => stored(-1)).toThrow(/position -1 is not among the 3/);
  });

  it("leaves the cache as it was on webgpu", async () => {
    await activate("webgpu");
    for (const position of [3, -1]) {
      for (const tensor of Object.values(stored(position))) {
        expect([...(await tensor.data())].every((value) => value === 0)).toBe(true);
      }
    }
  });
});
