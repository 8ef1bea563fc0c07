import { describe, expect, it } from "vitest";
import * as tf from "../../src/engine/tf.ts";
import { cachedHiddenStates, createCache, logits, type Model } from "../../src/models/decoder.ts";
import { generate, type GenerateOptions } from "../../src/models/generate.ts";
import { disposeCache, keepCacheRows, type KvCache } from "../../src/models/kvCache.ts";
import { disposeModel } from "../../src/models/weights.ts";
import { useBackend } from "../engine/harness.ts";
import { attachRandomLora, expectNear, expectNoLeak, FAMILIES, logitsOf, tinyIds, tinyModel } from "./tiny.ts";

const NO_END = { eosTokenId: -1 };

const prompts = (model: Model, lengths: number[]) => tinyIds(model, lengths).map((ids) => Int32Array.from(ids));

/** Read prompts of one length into a fresh cache. */
function fill(model: Model, ids: number[][], slots: number): KvCache {
  const cache = createCache(model, ids.length, slots);
  tf.tidy(() => {
    const positions = tf.range(0, ids[0].length, 1, "int32").expandDims(0).tile<tf.Tensor2D>([ids.length, 1]);
    cachedHiddenStates(model, tf.tensor2d(ids, undefined, "int32"), positions, cache);
  });
  return cache;
}

/** The logits after one more token per row, at these positions: [B, V]. */
function step(model: Model, cache: KvCache, tokens: number[], positions: number[]): Float32Array {
  return tf.tidy(() => {
    const [ids, at] = [tokens, positions].map((list) => tf.tensor2d(list, [list.length, 1], "int32"));
    const h = cachedHiddenStates(model, ids, at, cache);
    return logits(model, h.reshape([tokens.length, -1])).dataSync() as Float32Array;
  });
}

describe.each(["cpu", "wasm"] as const)("on %s", (backend) => {
  useBackend(backend);

  describe.each(FAMILIES)("%s", (family) => {
    it.each([false, true])("gives token by token the logits of the whole sequence (adapters: %s)", (adapters) => {
      const model = tinyModel(family);
      if (adapters) attachRandomLora(model);
      const [T, prompt, V] = [11, 4, model.config.vocabSize];
      const ids = tinyIds(model, [T, T, T]);
      const whole = logitsOf(model, ids);
      const read = ids.map((row) => row.slice(0, prompt));
      const cache = fill(model, read, T);
      for (let t = prompt; t < T; t++) {
        const tokens = ids.map((row) => row[t]);
        const found = step(model, cache, tokens, [t, t, t]);
        const wanted = ids.flatMap((_, b) => [...whole.subarray((b * T + t) * V, (b * T + t + 1) * V)]);
        expectNear(found, wanted, 1e-5);
      }
      disposeCache(cache);
      disposeModel(model);
    });

    it("answers prompts of different lengths side by side as one by one", async () => {
      const model = tinyModel(family);
      const asked = prompts(model, [5, 9, 1, 7]);
      const together = await generate(model, asked, { maxNewTokens: 8, ...NO_END });
      for (const [i, prompt] of asked.entries()) {
        expect([together[i]]).toEqual(await generate(model, [prompt], { maxNewTokens: 8, ...NO_END }));
      }
      disposeModel(model);
    });
  });
});

describe.each(FAMILIES)("generation with %s", (family) => {
  useBackend("wasm");

  it("continues with the likeliest token of the whole sequence each time", async () => {
    const model = tinyModel(family);
    const [prompt] = prompts(model, [6]);
    const [reply] = await generate(model, [prompt], { maxNewTokens: 5, ...NO_END });
    const V = model.config.vocabSize;
    const sequence = [...prompt];
    for (const token of reply) {
      const last = logitsOf(model, [sequence]).subarray(-V);
      expect(token).toBe(last.indexOf(Math.max(...last)));
      sequence.push(token);
    }
    expect(reply).toHaveLength(5);
    disposeModel(model);
  });

  it("ends a row before its end token and leaves the others as they are", async () => {
    const model = tinyModel(family);
    const asked = prompts(model, [5, 9, 1, 7, 3]);
    const free = await generate(model, asked, { maxNewTokens: 10, ...NO_END });
    const eosTokenId = free[1][3]; // Ends row 1 after three tokens or fewer, others perhaps too.
    const ended = free.map((reply) => (reply.includes(eosTokenId) ? reply.slice(0, reply.indexOf(eosTokenId)) : reply));
    expect(new Set(ended.map(({ length }) => length)).size).toBeGreaterThan(1);
    expect(await generate(model, asked, { maxNewTokens: 10, eosTokenId })).toEqual(ended);
    disposeModel(model);
  });

  it("computes the same bits for the rows that stay when others are dropped from the cache", () => {
    const model = tinyModel(family);
    const ids = tinyIds(model, [6, 6, 6, 6]);
    const V = model.config.vocabSize;
    const all = fill(model, ids, 9);
    const fewer = keepCacheRows(fill(model, ids, 9), [1, 3]);
    for (const t of [6, 7, 8]) {
      const whole = step(model, all, [1, 2, 3, 4], [t, t, t, t]);
      const kept = [1, 3].flatMap((row) => [...whole.subarray(row * V, (row + 1) * V)]);
      expect([...step(model, fewer, [2, 4], [t, t])]).toEqual(kept);
    }
    disposeCache(all);
    disposeCache(fewer);
    disposeModel(model);
  });

  it("draws the same tokens for the same seed, whatever rows ended before, and others for another", async () => {
    const model = tinyModel(family);
    const asked = prompts(model, [5, 9, 1, 7]);
    const drawn = (options: Partial<GenerateOptions>) =>
      generate(model, asked, { maxNewTokens: 12, temperature: 1, ...NO_END, ...options });
    const first = await drawn({ seed: 3 });
    expect(await drawn({ seed: 3 })).toEqual(first);
    expect(await drawn({ seed: 4 })).not.toEqual(first);
    const eosTokenId = first[0][2];
    const ended = first.map((reply) =>
      reply.includes(eosTokenId) ? reply.slice(0, reply.indexOf(eosTokenId)) : reply,
    );
    expect(await drawn({ seed: 3, eosTokenId })).toEqual(ended);
    disposeModel(model);
  });

  it("tells each step's tokens, and ends where it is when asked to stop", async () => {
    const model = tinyModel(family);
    const asked = prompts(model, [5, 9]);
    const free = await generate(model, asked, { maxNewTokens: 6, ...NO_END });
    const told: (number | null)[][] = [];
    const replies = await generate(model, asked, {
      maxNewTokens: 6,
      ...NO_END,
      onTokens: (tokens) => told.push(tokens),
      stopping: () => told.length === 3,
    });
    expect(replies).toEqual(free.map((reply) => reply.slice(0, 3)));
    expect(told).toEqual([0, 1, 2].map((t) => free.map((reply) => reply[t])));
    disposeModel(model);
  });

  it("tells null for a row that has ended", async () => {
    const model = tinyModel(family);
    const asked = prompts(model, [5, 9]);
    const [first, second] = await generate(model, asked, { maxNewTokens: 2, ...NO_END });
    expect(second).not.toContain(first[0]);
    const told: (number | null)[][] = [];
    const options = {
      maxNewTokens: 2,
      eosTokenId: first[0],
      onTokens: (tokens: (number | null)[]) => told.push(tokens),
    };
    expect(await generate(model, asked, options)).toEqual([[], second]);
    expect(told).toEqual([
      [null, second[0]],
      [null, second[1]],
    ]);
    disposeModel(model);
  });

  it("refuses a prompt that leaves no room for the reply, or has no token", async () => {
    const model = tinyModel(family);
    const ask = (length: number) => generate(model, prompts(model, [3, length]), { maxNewTokens: 10, ...NO_END });
    await expect(ask(55)).rejects.toThrow("generate: prompts of 1 to 54 tokens are wanted, the longest has 55.");
    await expect(ask(0)).rejects.toThrow("generate: prompts of 1 to 54 tokens are wanted");
    await expect(ask(54)).resolves.toHaveLength(2);
    disposeModel(model);
  });

  it("leaves no tensors behind, ended, stopped or refused", async () => {
    const model = tinyModel(family);
    attachRandomLora(model);
    const asked = prompts(model, [5, 9, 1]);
    const [reply] = await generate(model, asked, { maxNewTokens: 4, ...NO_END });
    await expectNoLeak(async () => {
      await generate(model, asked, { maxNewTokens: 6, eosTokenId: reply[2] });
      await generate(model, asked, { maxNewTokens: 6, ...NO_END, temperature: 1, stopping: () => true });
      await generate(model, asked, { maxNewTokens: 100, ...NO_END }).catch(() => {});
    });
    disposeModel(model);
  });
});
