// Batched generation with a cache: prompts are read once, then every row grows by one token at a time. The step that adds
// a token is recorded once and replayed: its token stays on the device for the next one and is read back meanwhile.

import { watchingErrors } from "../engine/device.ts";
import { nextTurn } from "../engine/idle.ts";
import { advance, sampleTokens, type SampleSettings } from "../engine/ops/sample.ts";
import { takeRows } from "../engine/ops/takeRows.ts";
import { uniform } from "../engine/random.ts";
import { overwrite, type Recording, record } from "../engine/record.ts";
import * as tf from "../engine/tf.ts";
import { cachedHiddenStates, createCache, logits, type Model, rowPositions } from "./decoder.ts";
import { disposeCache, type KvCache, keepCacheRows } from "./kvCache.ts";

// B rows, T tokens, S slots, V vocabulary.

export interface GenerateOptions {
  maxNewTokens: number;
  /** The token that ends a row, or each of those that do. */
  eosTokenId: number | readonly number[];
  /** 0: the likeliest token (greedy). Otherwise logits are divided by it and a token is drawn. */
  temperature?: number;
  /** Draw among the likeliest so many only; 0: among all. */
  topK?: number;
  /** Draw among the likeliest that together reach this probability; 1: among all. */
  topP?: number;
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
  const ends = [options.eosTokenId].flat();
  let rows = prompts.map((_, i) => i); // Which prompt each row of the cache belongs to.
  const growing = readPrompts(model, prompts, slots, options);
  try {
    for (let count = 1; ; count++) {
      const next = await growing.next(rows);
      const tokens = prompts.map(() => null as number | null);
      rows.forEach((row, r) => {
        // A row that has ended stays so: it may remain in the cache for a while, and goes on computing tokens.
        ended[row] ||= ends.includes(next[r]);
        if (ended[row]) return;
        replies[row].push(next[r]);
        tokens[row] = next[r];
      });
      options.onTokens?.(tokens);
      await nextTurn();
      const going = rows.map((_, r) => r).filter((r) => !ended[rows[r]]);
      if (going.length === 0 || count >= options.maxNewTokens || options.stopping?.()) return replies;
      // Rows that have ended cost as much as others: they are dropped once they are a quarter.
      if (going.length <= 0.75 * rows.length) {
        growing.keep(going);
        rows = going.map((r) => rows[r]);
      }
    }
  } finally {
    growing.dispose();
  }
}

/** Rows that grow by a token at a time. */
interface Growing {
  /** The next token of each row; `rows` are what the drawing depends on. */
  next: (rows: number[]) => Promise<number[]>;
  /** Go on with these rows only. */
  keep: (rows: number[]) => void;
  dispose: () => void;
}

/** What a step reads and changes in place. */
interface State {
  cache: KvCache;
  ids: tf.Tensor; // int32 [B, 1], the tokens that the next step takes in
  positions: tf.Tensor; // int32 [B, 1], where they stand
  uniforms: tf.Tensor; // [B]
}

/** Steps that are handed to a GPU before the one before is read back, so that it never waits for us. */
const AHEAD = 1;

/** Read the prompts; what comes after is computed as it is asked for. */
function readPrompts(model: Model, prompts: Int32Array[], slots: number, options: GenerateOptions): Growing {
  const { temperature = 0, topK = 0, topP = 1, seed = 0, maxNewTokens } = options;
  const settings: SampleSettings = { temperature, topK, topP };
  let state = emptyState(model, prompts, slots);
  let recording: Recording<tf.Tensor> | null = null;
  let steps = 0; // Begun: the first takes in the prompts.
  let coming: Promise<number[]>[] = [];

  async function next(rows: number[]): Promise<number[]> {
    const ahead = tf.getBackend() === "webgpu" ? AHEAD : 0;
    while (steps < maxNewTokens && coming.length <= ahead) {
      if (temperature > 0) {
        overwrite(
          state.uniforms,
          Float32Array.from(rows, (row) => uniform(seed, row, steps)),
        );
      }
      steps += 1;
      if (steps > 1) recording ??= await record(() => choose(state, tokenLogits(model, state), settings));
      const read = recording ? readTokens(recording.replay()) : takeInPrompts();
      read.catch(() => {}); // Whoever waits for it is told; nobody may, after another has failed.
      coming.push(read);
    }
    return coming.shift()!;
  }

  function takeInPrompts(): Promise<number[]> {
    const tokens = tf.tidy(() => choose(state, promptLogits(model, prompts, state.cache), settings));
    return readTokens(tokens).finally(() => tokens.dispose());
  }

  function keep(rows: number[]): void {
    recording?.dispose();
    recording = null;
    state = keepRows(state, rows);
    coming = coming.map(async (tokens) => {
      const all = await tokens;
      return rows.map((r) => all[r]);
    });
    for (const tokens of coming) tokens.catch(() => {});
  }

  function dispose(): void {
    recording?.dispose();
    disposeState(state);
  }

  return { next, keep, dispose };
}

function emptyState(model: Model, prompts: Int32Array[], slots: number): State {
  const B = prompts.length;
  const last = prompts.map((prompt) => prompt.length - 1);
  return {
    cache: createCache(model, B, slots),
    ids: tf.zeros([B, 1], "int32"),
    positions: tf.tensor2d(last, [B, 1], "int32"),
    uniforms: tf.zeros([B]),
  };
}

function keepRows({ cache, ids, positions, uniforms }: State, rows: number[]): State {
  const [keptIds, keptPositions] = tf.tidy(() => {
    const indices = tf.tensor1d(rows, "int32");
    return [tf.gather(ids, indices), tf.gather(positions, indices)];
  });
  tf.dispose([ids, positions, uniforms]);
  return {
    cache: keepCacheRows(cache, rows),
    ids: keptIds,
    positions: keptPositions,
    uniforms: tf.zeros([rows.length]),
  };
}

function disposeState({ cache, ids, positions, uniforms }: State): void {
  disposeCache(cache);
  tf.dispose([ids, positions, uniforms]);
}

/** Choose the tokens that follow, which become what the next step takes in. scores: [B, V] -> int32 [B]. */
function choose({ cache, ids, positions, uniforms }: State, scores: tf.Tensor, settings: SampleSettings): tf.Tensor {
  const tokens = sampleTokens(scores, settings, uniforms);
  advance(ids, positions, tokens, cache.slots - 1);
  return tokens;
}

/** Fill the cache from the prompts. Returns the logits after each prompt's last token: [B, V]. */
function promptLogits(model: Model, prompts: Int32Array[], cache: KvCache): tf.Tensor {
  const B = prompts.length;
  const T = Math.max(...prompts.map((prompt) => prompt.length));
  const ids = new Int32Array(B * T);
  prompts.forEach((prompt, b) => ids.set(prompt, b * T));
  const positions = rowPositions([B, T]);
  const hidden = cachedHiddenStates(model, tf.tensor2d(ids, [B, T], "int32"), positions, cache); // [B, T, D]
  const last = tf.tensor1d(
    prompts.map((prompt, b) => b * T + prompt.length - 1),
    "int32",
  );
  return logits(model, takeRows(hidden.reshape([B * T, -1]), last));
}

/** Take in one token per row. Returns the logits after it: [B, V]. */
function tokenLogits(model: Model, { cache, ids, positions }: State): tf.Tensor {
  const hidden = cachedHiddenStates(model, ids, positions, cache); // [B, 1, D]
  return logits(model, hidden.reshape([ids.shape[0], -1]));
}

async function readTokens(tokens: tf.Tensor): Promise<number[]> {
  const values = await watchingErrors(
    () => tokens.data(),
    (latest) => `The GPU refused to compute a token (${latest}). Ask again, or go on on the CPU.`,
  );
  if (values.some((token) => token < 0)) {
    throw new Error(
      "The model computes no numbers any more: its weights are spoiled. Go back to an earlier checkpoint.",
    );
  }
  return [...values];
}
