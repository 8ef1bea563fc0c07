import { Template } from "@huggingface/jinja";
import { Tokenizer } from "@huggingface/tokenizers";
import * as fc from "fast-check";
import { describe, expect, it } from "vitest";
import { CONTROL_TOKENS, preTokenize, tokenizerConfigJson, tokenizerJson, trainBpe } from "../../src/data/bpe.ts";

const FIXED = CONTROL_TOKENS.length + 256;
const once = (text: string) => ({ text, weight: 1 });

/** The merged tokens by the definition: count all pairs anew for each merge. Text is ASCII. */
function trainSlowly(texts: { text: string; weight: number }[], count: number): string[] {
  const words = texts.flatMap(({ text, weight }) =>
    preTokenize(text).map((word) => ({ parts: Array.from(word), weight })),
  );
  const tokens = Array.from({ length: 128 }, (_, code) => String.fromCharCode(code));
  const merged: string[] = [];
  while (merged.length < count) {
    const counts = new Map<string, { left: number; right: number; count: number }>();
    for (const { parts, weight } of words) {
      for (let i = 1; i < parts.length; i++) {
        const [left, right] = [tokens.indexOf(parts[i - 1]), tokens.indexOf(parts[i])];
        const entry = counts.get(`${left} ${right}`) ?? { left, right, count: 0 };
        counts.set(`${left} ${right}`, { ...entry, count: entry.count + weight });
      }
    }
    const [best] = [...counts.values()].toSorted((a, b) => b.count - a.count || a.left - b.left || a.right - b.right);
    if (!best) break;
    const token = tokens[best.left] + tokens[best.right];
    if (!tokens.includes(token)) {
      tokens.push(token);
      merged.push(token);
    }
    for (const word of words) {
      for (let i = 1; i < word.parts.length; i++) {
        const found = word.parts[i - 1] === tokens[best.left] && word.parts[i] === tokens[best.right];
        if (found) word.parts.splice(i - 1, 2, token);
      }
    }
  }
  return merged;
}

/** Encode by the definition: while any merge applies, the earliest learned one. */
function mergeSlowly(merges: [string, string][], piece: string): string[] {
  const parts = Array.from(piece);
  for (;;) {
    const merge = merges.find(([left, right]) => parts.some((part, i) => part === left && parts[i + 1] === right));
    if (!merge) return parts;
    for (let i = 0; i + 1 < parts.length; i++) {
      if (parts[i] === merge[0] && parts[i + 1] === merge[1]) parts.splice(i, 2, merge.join(""));
    }
  }
}

/** The bytes of a text in the byte-level alphabet, as a tokenizer without merges writes them. */
function alphabet(text: string): string {
  const bytes = trainBpe([], { vocabSize: FIXED, maxTokenBytes: 1 });
  return new Tokenizer(tokenizerJson(bytes), tokenizerConfigJson(512)).tokenize(text).join("");
}

describe("training", () => {
  it("makes the merges that counting anew for each of them makes", () => {
    // Few letters make ties, overlapping pairs and one token spelled by two pairs likely.
    const text = fc.record({
      text: fc.string({ unit: fc.constantFrom("a", "b", "c", " "), maxLength: 40 }),
      weight: fc.integer({ min: 1, max: 3 }),
    });
    fc.assert(
      fc.property(fc.array(text, { minLength: 1, maxLength: 6 }), fc.nat(12), (texts, count) => {
        const wanted = trainSlowly(texts, count);
        const { vocab } = trainBpe(texts, { vocabSize: FIXED + wanted.length, maxTokenBytes: 1000 });
        expect([...vocab.keys()].slice(FIXED)).toEqual(wanted.map((token) => token.replaceAll(" ", "Ġ")));
      }),
      { numRuns: 300 },
    );
  });

  it("gives the same tokenizer for the same texts in another order", () => {
    const texts = ["the thin thing", "发热 咳嗽 发热", "then\nthat\n\nthese"].map(once);
    const options = { vocabSize: FIXED + 20, maxTokenBytes: 24 };
    expect(trainBpe(texts, options)).toEqual(trainBpe(texts.toReversed(), options));
  });

  it("lets a weight count as repetition", () => {
    const options = { vocabSize: FIXED + 3, maxTokenBytes: 24 };
    const repeated = [once("ab"), once("cd"), once("cd"), once("cd")];
    expect(trainBpe([once("ab"), { text: "cd", weight: 3 }], { ...options, vocabSize: FIXED + 2 })).toEqual(
      trainBpe(repeated, { ...options, vocabSize: FIXED + 2 }),
    );
    expect(() => trainBpe([{ text: "ab", weight: 0.5 }], options)).toThrow("counts 0.5 times");
  });

  it("makes no token longer than asked for", () => {
    const { vocab } = trainBpe([once("aaaaaaaaaaaaaaaa")], { vocabSize: FIXED + 2, maxTokenBytes: 4 });
    expect([...vocab.keys()].slice(FIXED)).toEqual(["aa", "aaaa"]);
    expect(() => trainBpe([once("aaaaaaaa")], { vocabSize: FIXED + 3, maxTokenBytes: 4 })).toThrow(
      "The texts give 2 merged tokens and 3 are wanted",
    );
  });

  it("begins with the control tokens in DeepSeek's order, then the bytes", () => {
    const { vocab } = trainBpe([], { vocabSize: FIXED, maxTokenBytes: 4 });
    expect([...vocab.keys()].slice(0, 8)).toEqual([...CONTROL_TOKENS, "!"]);
    expect(new Set(vocab.values()).size).toBe(FIXED);
    expect(() => trainBpe([], { vocabSize: 100, maxTokenBytes: 4 })).toThrow("A vocabulary of 100 is too small");
  });
});

it("cuts a text into pieces that are the text", () => {
  fc.assert(
    fc.property(fc.string({ unit: "grapheme" }), (text) => {
      expect(preTokenize(text).join("")).toBe(text);
    }),
  );
  expect(preTokenize("gout: has 12 fevers,\n发热，咳嗽")).toEqual(
    "gout|:| has| |1|2| fevers|,\n|发热|，|咳嗽".split("|"),
  );
});

describe("the written files", () => {
  const texts = ["she sells sea shells", "1234 is a number", "规程：发热，咳嗽。", "a-b +c\n\nd"].map(once);
  const bpe = trainBpe(texts, { vocabSize: FIXED + 30, maxTokenBytes: 24 });
  const inner = new Tokenizer(tokenizerJson(bpe), tokenizerConfigJson(512));

  it("make a reader merge, in each piece of a text, the earliest merge first", () => {
    const parts = fc.constantFrom("she ", "sells", " s", "ll", "12", "发热", "咳", "，", "\n", " -b", "é");
    const text = fc.array(parts, { maxLength: 10 }).map((all) => all.join(""));
    fc.assert(
      fc.property(text, (text) => {
        const wanted = preTokenize(text).flatMap((piece) => mergeSlowly(bpe.merges, alphabet(piece)));
        expect(inner.tokenize(text)).toEqual(wanted);
        if (text !== "") expect(inner.decode(inner.encode(text).ids)).toBe(text);
      }),
    );
  });

  it("name begin, end and padding special, and the thought's marks not", () => {
    const special = [...inner.get_added_tokens_decoder().values()].map(({ content, special }) => [content, special]);
    expect(special).toEqual(CONTROL_TOKENS.map((token, id) => [token, id < 3]));
  });

  it("write a chat as DeepSeek-R1 does", () => {
    const { chat_template: source, bos_token, eos_token } = tokenizerConfigJson(512) as Record<string, string>;
    const messages = [
      { role: "system", content: "SYS" },
      { role: "user", content: "Q1" },
      { role: "assistant", content: "<think>\nr1\n</think>\n\nA1" },
      { role: "user", content: "Q2" },
    ];
    const render = (add_generation_prompt: boolean): string =>
      new Template(source).render({ messages, bos_token, eos_token, add_generation_prompt });
    const chat = "<｜begin▁of▁sentence｜>SYS<｜User｜>Q1<｜Assistant｜>\n\nA1<｜end▁of▁sentence｜><｜User｜>Q2";
    expect(render(false)).toBe(chat);
    expect(render(true)).toBe(`${chat}<｜Assistant｜><think>\n`);
  });
});
