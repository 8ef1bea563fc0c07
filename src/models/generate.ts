// Batched generation with a cache: prompts are read once, then every row grows by one token at a time.

import { nextTurn } from "../engine/idle.ts";
import { uniform } from "../engine/random.ts";
import * as tf from "../engine/tf.ts";
import { cachedHiddenStates, createCache, logits, type Model } from "./decoder.ts";
import { disposeCache, type KvCache, keepCacheRows } from "./kvCache.ts";

// B rows, T tokens, S slots, V vocabulary.

export interface GenerateOptions {
  maxNewTokens: number;
  eosTokenId: number;
  /** 0: the likeliest token (greedy). Otherwise logits are divided by it and a token is drawn. */
  temperature?: number;
  /** For drawing; the same seed draws the same tokens. */
  seed?: number;
  /** Called after each step with the tokens that the rows got (null: the row had ended). */
  onTokens?: (tokens: (number | null)[]) => void;
  /** Asked after each step; the rows then end where they are. */
  stopping?: () => boolean;
}

/**
 * Continue each prompt until its end-of-sequence token (not returned) or `maxNewTokens`. Prompts may differ in length.
 */
export async function generate(model: Model, prompts: Int32Array[], options: GenerateOptions): Promise<number[][]> {
  const longest = Math.max(...prompts.map((prompt) => prompt.length));
  const slots = longest + options.maxNewTokens;
  const most = model.rope.cos.shape[0];
  if (slots > most || prompts.some((prompt) => prompt.length === 0)) {
    throw new Error(
      `generate: prompts of 1 to ${most - options.maxNewTokens} tokens are wanted, the longest has ${longest}. ` +
        "Shorten the question or allow fewer new tokens.",
    );
  }
  const replies: number[][] = prompts.map(() => []);
  const ended = prompts.map(() => false);
  let rows = prompts.map((_, i) => i); // Which prompt each row of the cache belongs to.
  let lengths = prompts.map((prompt) => prompt.length);
  let cache = createCache(model, rows.length, slots);
  try {
    let next = await pick(readPrompts(model, prompts, longest, cache), rows, 0, options);
    for (let step = 1; ; step++) {
      const tokens = prompts.map(() => null as number | null);
      rows.forEach((row, r) => {
        // A row that has ended stays so: it may remain in the cache for a while, and goes on computing tokens.
        ended[row] ||= next[r] === options.eosTokenId;
        if (ended[row]) return;
        replies[row].push(next[r]);
        tokens[row] = next[r];
      });
      options.onTokens?.(tokens);
      await nextTurn();
      const going = rows.map((_, r) => r).filter((r) => !ended[rows[r]]);
      if (going.length === 0 || step >= options.maxNewTokens || options.stopping?.()) return replies;
      // Rows that have ended cost as much as others: they are dropped once they are a quarter.
      if (going.length <= 0.75 * rows.length) {
        cache = keepCacheRows(cache, going);
        rows = going.map((r) => rows[r]);
        lengths = going.map((r) => lengths[r]);
        next = going.map((r) => next[r]);
      }
      next = await pick(readTokens(model, next, lengths, cache), rows, step, options);
      lengths = lengths.map((length) => Math.min(length + 1, slots - 1));
    }
  } finally {
    disposeCache(cache);
  }
}

/** Fill the cache from the prompts. Returns the logits after each prompt's last token: [B, V]. */
function readPrompts(model: Model, prompts: Int32Array[], T: number, cache: KvCache): tf.Tensor {
  return tf.tidy(() => {
    const B = prompts.length;
    const ids = new Int32Array(B * T);
    prompts.forEach((prompt, b) => ids.set(prompt, b * T));
    const positions = tf.range(0, T, 1, "int32").expandDims(0).tile([B, 1]) as tf.Tensor;
    const hidden = cachedHiddenStates(model, tf.tensor2d(ids, [B, T], "int32"), positions, cache, false); // [B, T, D]
    const last = tf.tensor1d(
      prompts.map((prompt, b) => b * T + prompt.length - 1),
      "int32",
    );
    return logits(model, tf.gather(hidden.reshape([B * T, -1]), last));
  });
}

/** Take in one token per row. Returns the logits after it: [B, V]. */
function readTokens(model: Model, tokens: number[], lengths: number[], cache: KvCache): tf.Tensor {
  return tf.tidy(() => {
    const B = tokens.length;
    const ids = tf.tensor2d(tokens, [B, 1], "int32");
    const positions = tf.tensor2d(lengths, [B, 1], "int32");
    const hidden = cachedHiddenStates(model, ids, positions, cache, true); // [B, 1, D]
    return logits(model, hidden.reshape([B, -1]));
  });
}

/** One token per row from its logits, which are disposed of. */
async function pick(scores: tf.Tensor, rows: number[], step: number, options: GenerateOptions): Promise<number[]> {
  const { temperature = 0, seed = 0 } = options;
  if (temperature <= 0) {
    const best = tf.argMax(scores, -1);
    scores.dispose();
    const tokens = [...(await best.data())];
    best.dispose();
    return tokens;
  }
  const values = (await scores.data()) as Float32Array;
  const V = scores.shape[1]!;
  scores.dispose();
  return rows.map((row, r) => draw(values.subarray(r * V, (r + 1) * V), temperature, uniform(seed, row, step)));
}

/** The index at which the cumulative probability passes `point`, in softmax(scores / temperature). */
export function draw(scores: Float32Array, temperature: number, point: number): number {
  let largest = -Infinity;
  for (const score of scores) largest = Math.max(largest, score);
  const masses = Float64Array.from(scores, (score) => Math.exp((score - largest) / temperature));
  let left = point * masses.reduce((sum, mass) => sum + mass, 0);
  for (let i = 0; i < masses.length; i++) {
    left -= masses[i];
    if (left < 0) return i;
  }
  return masses.length - 1;
}
