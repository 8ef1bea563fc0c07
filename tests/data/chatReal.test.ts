import * as fc from "fast-check";
import { describe, expect, it } from "vitest";
import { exampleOf, promptIds, splitReply } from "../../src/data/chat.ts";
import type { Message } from "../../src/data/chatTemplate.ts";
import { openTokenizer, type Tokenizer } from "../../src/data/tokenizer.ts";
import type { AnswerMode } from "../../src/protocol/data.ts";
import { anyText } from "./anyText.ts";
import { deepseekV3, type Files, opened, qwen25, r1Distill, wordless } from "./realTokenizers.ts";
import { shippedTokenizer } from "./shipped.ts";
import { R1_TEMPLATE, R1_TEMPLATE_JANUARY } from "./templates.ts";

const r1 = opened(wordless(r1Distill()));
const qwen = opened(wordless(qwen25()));
const deepseek = opened(wordless(deepseekV3()));
const models: [name: string, tokenizer: Tokenizer][] = [
  ["DeepSeek-R1-Distill-Qwen", r1],
  ["Qwen2.5-Instruct", qwen],
  ["DeepSeek-V3", deepseek],
  ["deepseek-nano", shippedTokenizer()],
];

const exchange = { question: "Is it flu?", chain: "Fever, cough.", answer: "Yes." };
const [BOS, EOS] = ["<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>"];
const CHATML =
  "<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>\n" +
  "<|im_start|>user\nIs it flu?<|im_end|>\n<|im_start|>assistant\n";

/** An example, prompt | target, as text with every control token. */
function written(tokenizer: Tokenizer, mode: AnswerMode, prompt: string, target: string): void {
  const { ids, weights } = exampleOf(tokenizer, exchange, mode);
  const length = weights.indexOf(1);
  expect([...ids.subarray(0, length)]).toEqual(tokenizer.encodeTemplate(prompt));
  expect([...ids.subarray(length)]).toEqual(tokenizer.encodeTemplate(target));
  expect(weights.subarray(length).every((weight) => weight === 1)).toBe(true);
}

describe("an example is written as the model's own template writes a conversation:", () => {
  it("R1 thinks in an open thought, or in an empty one", () => {
    const prompt = `${BOS}<｜User｜>Is it flu?<｜Assistant｜><think>\n`;
    written(r1, "chain", prompt, `Fever, cough.\n</think>\n\nYes.${EOS}`);
    written(r1, "direct", `${prompt}\n</think>\n\n`, `Yes.${EOS}`);
  });

  it("R1 of January 2025 opens the thought itself", () => {
    const { tokenizer, config } = wordless(r1Distill());
    const january = openTokenizer(tokenizer, { ...config, chat_template: R1_TEMPLATE_JANUARY });
    const prompt = `${BOS}<｜User｜>Is it flu?<｜Assistant｜>`;
    written(january, "chain", prompt, `<think>\nFever, cough.\n</think>\n\nYes.${EOS}`);
    written(january, "direct", `${prompt}<think>\n\n</think>\n\n`, `Yes.${EOS}`);
  });

  it("Qwen2.5-Instruct learns to think in words, and answers at once as it does", () => {
    written(qwen, "chain", CHATML, "<think>\nFever, cough.\n</think>\n\nYes.<|im_end|>");
    written(qwen, "direct", CHATML, "Yes.<|im_end|>");
  });

  it("so does DeepSeek-V3", () => {
    const prompt = `${BOS}<｜User｜>Is it flu?<｜Assistant｜>`;
    written(deepseek, "chain", prompt, `<think>\nFever, cough.\n</think>\n\nYes.${EOS}`);
    written(deepseek, "direct", prompt, `Yes.${EOS}`);
  });

  it("a template that asks whether to think is told", () => {
    const { tokenizer, config } = wordless(r1Distill());
    const template = R1_TEMPLATE.replace(
      "{{'<｜Assistant｜><think>\\n'}}",
      "{{ '<｜Assistant｜>' + ('<think>' if thinking else '</think>') }}",
    );
    const asking = openTokenizer(tokenizer, { ...config, chat_template: template });
    const prompt = `${BOS}<｜User｜>Is it flu?<｜Assistant｜>`;
    written(asking, "chain", `${prompt}<think>`, `Fever, cough.\n</think>\n\nYes.${EOS}`);
    written(asking, "direct", `${prompt}</think>`, `Yes.${EOS}`);
  });
});

describe.each(models)("a conversation with %s", (_, tokenizer) => {
  const begins = tokenizer.control.bos === null ? [] : [tokenizer.control.bos];

  it("begins once", () => {
    const ids = promptIds(tokenizer, "a", "chain");
    expect(ids.slice(0, begins.length)).toEqual(begins);
    expect(ids.filter((id) => id === tokenizer.control.bos)).toHaveLength(begins.length);
  });

  it("has the control tokens of its template, whatever is typed", () => {
    const controls = new Set([
      "<think>",
      "</think>",
      EOS,
      BOS,
      "<｜User｜>",
      "<|im_start|>",
      "<|im_end|>",
      "<tool_call>",
    ]);
    const ids = new Set([...controls].map((token) => tokenizer.tokenId(token)));
    const obeyed = (question: string, mode: AnswerMode) =>
      [...exampleOf(tokenizer, { ...exchange, question, chain: question, answer: question }, mode).ids].filter((id) =>
        ids.has(id),
      );
    const typed = fc
      .array(fc.oneof(anyText, fc.constantFrom(...controls, "\uE000", "{{ bos_token }}", "{% if %}")), { maxLength: 6 })
      .map((parts) => `x${parts.join("")}`);
    fc.assert(
      fc.property(typed, fc.constantFrom<AnswerMode>("chain", "direct"), (question, mode) => {
        expect(obeyed(question, mode)).toEqual(obeyed("plain", mode));
      }),
      { numRuns: 100 },
    );
  });

  it("is read back as its parts", () => {
    for (const mode of ["chain", "direct"] as const) {
      const { ids, weights } = exampleOf(tokenizer, exchange, mode);
      const reply = tokenizer.decode(ids.filter((_, i) => weights[i] > 0));
      const { chain, answer } = splitReply(tokenizer, reply, mode);
      expect([chain, answer]).toEqual([mode === "chain" ? exchange.chain : "", exchange.answer]);
    }
  });
});

it("puts earlier turns before the question, thoughts taken away as the template does", () => {
  const earlier: Message[] = [
    { role: "system", content: "SYS" },
    { role: "user", content: "Q1 </think>" },
    { role: "assistant", content: "<think>\nr1\n</think>\n\nA1" },
  ];
  const ids = promptIds(r1, "Q2", "chain", earlier);
  expect(r1.decode(ids)).toBe("SYS<｜User｜>Q1 </think><｜Assistant｜>\n\nA1<｜User｜>Q2<｜Assistant｜><think>\n");
  expect(ids.filter((id) => id === r1.tokenId("</think>"))).toEqual([]);
  expect(ids.filter((id) => id === r1.control.eos)).toHaveLength(1);
});

it("reads a reply that did not think as an answer, where the model has to begin the thought", () => {
  expect(splitReply(qwen, " Yes. ", "chain")).toEqual({ chain: "", answer: "Yes." });
  expect(splitReply(qwen, "<think>\nFever", "chain")).toEqual({ chain: "Fever", answer: "" });
  expect(splitReply(r1, "Fever", "chain")).toEqual({ chain: "Fever", answer: "" });
});

describe("in a sentence it is refused", () => {
  const withTemplate = (chat_template: unknown, { tokenizer, config }: Files = wordless(r1Distill())) =>
    openTokenizer(tokenizer, { ...config, chat_template });

  it("to begin a conversation twice", () => {
    const twice = withTemplate(`{{ bos_token }}${R1_TEMPLATE}`);
    expect(() => promptIds(twice, "a", "chain")).toThrow("The chat template begins a conversation twice.");
  });

  it("to ask a model that has no template", () => {
    const silent = withTemplate(undefined);
    expect(silent.chat).toBeNull();
    expect(() => promptIds(silent, "a", "chain")).toThrow("No chat template came with this model.");
    expect(silent.control.ends).toEqual([151643]);
  });

  it("to use a template that loses what was said", () => {
    expect(() => withTemplate("{{ bos_token }}{% for message in messages %}{{ message.role }}{% endfor %}")).toThrow(
      "The chat template leaves out the question or the answer of a conversation.",
    );
  });
});
