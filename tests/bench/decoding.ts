// Decoding: tokens a second, ours against the same model in stock operations, both greedy, both with a cache.

import { disposeModel, initModel } from "../../src/models/weights.ts";
import { activate, type Backend, type Bench, isSlow, placeOf, type Row, shapesOf } from "./bench.ts";
import { spreadOf } from "./measure.ts";
import { type Generation, ourGenerate, randomTokens } from "./ours.ts";
import { compared, type Result } from "./results.ts";
import { stockGenerate } from "./stock.ts";
import type { ModelConfig } from "../../src/formats/hfConfig.ts";
import type { Model } from "../../src/models/decoder.ts";

const PROMPT_TOKENS = 16;

export const decoding: Row = {
  name: "decoding",
  says: "tokens a second at 1 and 16 rows, 1M and 5M shapes, against stock operations",
  async *run(bench) {
    for (const backend of bench.backends) {
      await activate(backend);
      for (const [name, config] of shapesOf(bench)) {
        for (const rows of [1, 16]) yield await contest(name, config, rows, backend, bench);
      }
    }
  },
};

async function contest(
  name: string,
  config: ModelConfig,
  rows: number,
  backend: Backend,
  bench: Bench,
): Promise<Result> {
  const newTokens = isSlow(backend, bench) ? (bench.quick ? 3 : 12) : bench.quick ? 16 : 48;
  const rounds = bench.quick ? 1 : isSlow(backend, bench) ? 3 : 7;
  const model = initModel(config, 1);
  const prompts = Array.from({ length: rows }, (_, row) => randomTokens(config.vocabSize, PROMPT_TOKENS, row));
  const generators = { ours: ourGenerate, stock: stockGenerate };
  const [own, other] = [
    await generated(ourGenerate, model, prompts, 3),
    await generated(stockGenerate, model, prompts, 3),
  ];
  checkSameTokens(own.tokens, other.tokens);
  const rates: Record<keyof typeof generators, number[]> = { ours: [], stock: [] };
  for (let round = 0; round < rounds; round++) {
    for (const who of ["ours", "stock"] as const) {
      const { seconds } = await generated(generators[who], model, prompts, newTokens);
      rates[who].push((rows * (newTokens - 1)) / seconds);
    }
  }
  disposeModel(model);
  const what = `decoding, ${name}, ${rows} ${rows === 1 ? "row" : "rows"}, ${newTokens} tokens after ${PROMPT_TOKENS}`;
  const theirs = { name: "stock", spread: spreadOf(rates.stock) };
  const target = backend === "wasm" ? 5 : null;
  return compared(
    { row: "decoding", what, ...placeOf(backend, bench) },
    "tokens/s",
    spreadOf(rates.ours),
    theirs,
    target,
  );
}

type Generate = (model: Model, prompts: Int32Array[], options: Generation) => Promise<void>;

/** The tokens of each step, and the seconds from the first (which reads the prompt) to the last. */
async function generated(generate: Generate, model: Model, prompts: Int32Array[], newTokens: number) {
  const tokens: number[][] = [];
  let firstMs = 0;
  const onTokens = (next: number[]) => {
    if (tokens.length === 0) firstMs = performance.now();
    tokens.push(next);
  };
  await generate(model, prompts, { newTokens, onTokens });
  return { tokens, seconds: (performance.now() - firstMs) / 1000 };
}

/** Greedy choices on the same weights: one in ten may differ, where two tokens are as likely. */
function checkSameTokens(ours: number[][], stock: number[][]): void {
  const [own, other] = [ours.flat(), stock.flat()];
  const different = own.filter((token, i) => token !== other[i]).length;
  if (own.length !== other.length || different > own.length / 10) {
    throw new Error(`The contestants should choose the same tokens: ours are ${own}, stock ones ${other}.`);
  }
}
