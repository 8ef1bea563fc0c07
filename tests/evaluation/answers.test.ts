import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { promptIds, splitReply } from "../../src/data/chat.ts";
import { askAll, type AskOptions, type Graded, type Grader } from "../../src/evaluation/answers.ts";
import { macroF1, wilsonInterval } from "../../src/evaluation/metrics.ts";
import { generate } from "../../src/models/generate.ts";
import type { Model } from "../../src/models/decoder.ts";
import { disposeModel } from "../../src/models/weights.ts";
import type { AnswerMode } from "../../src/protocol/data.ts";
import { hospitalStudy } from "../../src/recipes/hospital/generate.ts";
import { shippedTokenizer } from "../data/shipped.ts";
import { activate } from "../engine/harness.ts";
import { expectNoLeak, tinyModel } from "../models/tiny.ts";

const tokenizer = shippedTokenizer();
const cases = hospitalStudy({ seed: 3, train: 1, validation: 1, test: 7 }).test;

/** A real rule over real texts under which a model that says noise is right now and then. */
const grader: Grader = {
  normalize: (answer) => String(answer.length % 3),
  chainRight: (item, chain) => (chain.length + item.question.length) % 2 === 0,
};

const OPTIONS: AskOptions = { maxNewTokens: 6, batch: 3, eosTokenId: tokenizer.control.eos };

let model: Model;
beforeAll(async () => {
  await activate("wasm");
  model = tinyModel("deepseek", { vocab_size: 2048, max_position_embeddings: 512 });
});
afterAll(() => disposeModel(model));

const ask = (mode: AnswerMode, options: Partial<AskOptions> = {}): Promise<Graded | null> =>
  askAll(model, tokenizer, cases, mode, grader, { ...OPTIONS, ...options });

describe.each(["direct", "chain"] as const)("asking in the mode %s", (mode) => {
  it("counts what the model says to each case, asked alone", async () => {
    const replies: number[][] = [];
    for (const item of cases) {
      const prompt = Int32Array.from(promptIds(tokenizer, item.question, mode));
      replies.push(...(await generate(model, [prompt], OPTIONS)));
    }
    const parts = replies.map((ids) => splitReply(tokenizer, tokenizer.decode(ids), mode));
    const truth = cases.map(({ answer }) => grader.normalize(answer));
    const said = parts.map(({ answer }) => grader.normalize(answer));
    const right = cases.map((_, i) => truth[i] === said[i]);
    const correct = right.filter(Boolean).length;
    const english = cases.map(({ language }) => language === "en");
    expect(correct).toBeGreaterThan(0);
    expect(correct).toBeLessThan(cases.length);

    const graded = await ask(mode);
    expect(graded).toMatchObject({
      mode,
      n: 7,
      correct,
      accuracy: correct / 7,
      macroF1: macroF1(truth, said),
      interval: wilsonInterval(correct, 7),
      tokensPerReply: replies.flat().length / 7,
      chainsRight:
        mode === "chain" ? cases.filter((item, i) => grader.chainRight!(item, parts[i].chain)).length / 7 : null,
    });
    const n = english.filter(Boolean).length;
    const rightInEnglish = right.filter((own, i) => own && english[i]).length;
    expect(graded!.slices).toContainEqual({ name: "en", n, accuracy: rightInEnglish / n });
    expect(graded!.slices.map(({ name }) => name)).toEqual(
      [...new Set(cases.flatMap(({ language, slices }) => [language, ...slices]))].toSorted(),
    );
  });

  it("gives the same numbers however many are asked side by side", async () => {
    const { seconds: _, ...wanted } = (await ask(mode, { batch: 1 }))!;
    for (const batch of [2, 7, 50]) expect(await ask(mode, { batch })).toMatchObject(wanted);
  });

  it("tells how far it is, and gives nothing when it is stopped on the way", async () => {
    const told: number[] = [];
    const onProgress = (done: number): void => void told.push(done);
    await ask(mode, { onProgress });
    expect(told).toEqual([3, 6, 7]);
    told.length = 0;
    expect(await ask(mode, { onProgress, stopping: () => told.length > 0 })).toBeNull();
    expect(told).toEqual([3]);
  });

  it("leaves no tensors behind", () => expectNoLeak(() => ask(mode)));
});
