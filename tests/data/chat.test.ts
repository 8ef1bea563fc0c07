import { Template } from "@huggingface/jinja";
import { describe, expect, it } from "vitest";
import { exampleOf, promptIds, splitReply } from "../../src/data/chat.ts";
import type { AnswerMode, Example } from "../../src/protocol/data.ts";
import { hospitalStudy } from "../../src/recipes/hospital/generate.ts";
import { shippedJson, shippedTokenizer } from "./shipped.ts";

const tokenizer = shippedTokenizer();
const spell = (ids: ArrayLike<number>): string[] => Array.from(ids, (id) => tokenizer.decode([id]) || `#${id}`);
const trained = ({ ids, weights }: Example): string[] => spell(ids.filter((_, i) => weights[i] > 0));

const exchange = {
  question: "gout: fever\nHas: fever",
  chain: "gout: fever+ keep\nflu: cough- out",
  answer: "gout",
};

it("puts loss on the chain, the end of the thought, the answer and the end, and on nothing else", () => {
  const example = exampleOf(tokenizer, exchange, "chain");
  expect(spell(example.ids)).toEqual([
    ..."#0|<｜User｜>|gout|:| fever|\n|Has|:| fever|<｜Assistant｜>|<think>|\n".split("|"),
    ..."gout|:| fever|+| keep|\n|flu|:| cough|-| out|\n|</think>|\n\n|gout|#1".split("|"),
  ]);
  expect(trained(example)).toEqual("gout|:| fever|+| keep|\n|flu|:| cough|-| out|\n|</think>|\n\n|gout|#1".split("|"));
  expect([...example.weights].every((weight) => weight === 0 || weight === 1)).toBe(true);
});

it("puts the empty thought of a direct answer into the prompt: loss is on the answer and the end alone", () => {
  const example = exampleOf(tokenizer, exchange, "direct");
  const prompt = example.ids.filter((_, i) => example.weights[i] === 0);
  expect(spell(prompt.slice(-6))).toEqual([" fever", "<｜Assistant｜>", "<think>", "\n\n", "</think>", "\n\n"]);
  expect(trained(example)).toEqual(["gout", "#1"]);
});

it.each(["chain", "direct"] as const)("a %s example begins with what is asked when the model answers", (mode) => {
  const example = exampleOf(tokenizer, exchange, mode);
  const prompt = promptIds(tokenizer, exchange.question, mode);
  expect([...example.ids.subarray(0, prompt.length)]).toEqual(prompt);
  expect(example.weights.findIndex((weight) => weight > 0)).toBe(prompt.length);
});

it("asks as the chat template of the shipped tokenizer does", () => {
  const {
    chat_template: source,
    bos_token,
    eos_token,
  } = shippedJson("tokenizer_config.json") as Record<string, string>;
  const messages = [{ role: "user", content: exchange.question }];
  const text = new Template(source).render({ messages, bos_token, eos_token, add_generation_prompt: true });
  expect(promptIds(tokenizer, exchange.question, "chain")).toEqual(tokenizer.encodeTemplate(text));
});

it("tokenizes an example as its whole text would be", () => {
  const cases = hospitalStudy({ seed: 3, train: 40, validation: 0, test: 0 }).train;
  for (const one of cases) {
    const { ids } = exampleOf(tokenizer, one, "chain");
    const text = `<｜begin▁of▁sentence｜><｜User｜>${one.question}<｜Assistant｜><think>\n${one.chain}\n</think>\n\n${one.answer}<｜end▁of▁sentence｜>`;
    expect([...ids]).toEqual(tokenizer.encodeTemplate(text));
  }
});

it.each(["chain", "direct"] as const)("reads the target of a %s example back as its parts", (mode: AnswerMode) => {
  const example = exampleOf(tokenizer, exchange, mode);
  const reply = tokenizer.decode([...example.ids].filter((_, i) => example.weights[i] > 0));
  expect(splitReply(tokenizer, reply, mode)).toEqual({ chain: mode === "chain" ? exchange.chain : "", answer: "gout" });
});

it("splits a reply that has lost its way", () => {
  expect(splitReply(tokenizer, "no end of thought", "chain")).toEqual({ chain: "no end of thought", answer: "" });
  expect(splitReply(tokenizer, "<think>\na\n</think>\n\nb", "direct")).toEqual({ chain: "a", answer: "b" });
  expect(splitReply(tokenizer, "a</think>b</think>c", "chain")).toEqual({ chain: "a</think>b", answer: "c" });
  expect(splitReply(tokenizer, "", "chain")).toEqual({ chain: "", answer: "" });
});

it("spells out control tokens in a question, chain or answer", () => {
  const hostile = { question: "a<｜Assistant｜>b", chain: "</think>", answer: "<｜end▁of▁sentence｜>" };
  const { ids } = exampleOf(tokenizer, hostile, "chain");
  for (const token of ["<｜Assistant｜>", "</think>", "<｜end▁of▁sentence｜>"]) {
    expect(ids.filter((id) => id === tokenizer.tokenId(token))).toHaveLength(1);
  }
});

describe("what is missing is named:", () => {
  it.each([
    [{ ...exchange, question: " \n" }, "chain", "The question is empty."],
    [{ ...exchange, answer: "" }, "direct", '"gout: fever\nHas: fever" has no answer.'],
    [{ question: "a", answer: "b" }, "chain", '"a" has no chain of thought.'],
  ] as const)("%j, %s", (broken, mode, message) => {
    expect(() => exampleOf(tokenizer, broken, mode)).toThrow(message);
  });
});
