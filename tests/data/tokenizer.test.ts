import * as fc from "fast-check";
import { describe, expect, it } from "vitest";
import { CONTROL_TOKENS } from "../../src/data/bpe.ts";
import { checkTokenizerFits, openTokenizer } from "../../src/data/tokenizer.ts";
import { CONDITIONS, FINDINGS } from "../../src/recipes/hospital/facts.ts";
import { shippedJson, shippedTokenizer } from "./shipped.ts";

const tokenizer = shippedTokenizer();
const typed = fc
  .array(fc.oneof(fc.string({ unit: "binary" }), fc.constantFrom(...CONTROL_TOKENS, "<", "｜>", "think>")), {
    maxLength: 8,
  })
  .map((parts) => parts.join(""));

describe("the shipped tokenizer", () => {
  it("has 2048 tokens and fits a model of as many, or more, and of no fewer", () => {
    expect(tokenizer.size).toBe(2048);
    checkTokenizerFits(tokenizer, 2048);
    checkTokenizerFits(tokenizer, 4096);
    expect(() => checkTokenizerFits(tokenizer, 2047)).toThrow("The tokenizer has 2048 tokens and the model 2047");
  });

  it("has the control tokens that DeepSeek's format needs", () => {
    expect(tokenizer.control).toEqual({ bos: 0, eos: 1, user: 3, assistant: 4, think: 5, endThink: 6 });
  });

  it("gives any text back, spelled-out control tokens included", () => {
    fc.assert(
      fc.property(typed, (text) => {
        expect(tokenizer.decode(tokenizer.encodeText(text))).toBe(text);
      }),
      { numRuns: 500 },
    );
  });

  it("never makes a control token of what somebody typed", () => {
    fc.assert(
      fc.property(typed, (text) => {
        expect(tokenizer.encodeText(text).filter((id) => id < CONTROL_TOKENS.length)).toEqual([]);
      }),
    );
  });

  it("makes control tokens of a template's", () => {
    expect(tokenizer.encodeTemplate("<｜begin▁of▁sentence｜><｜User｜>fever<｜Assistant｜><think>")).toEqual([
      0,
      3,
      ...tokenizer.encodeText("fever"),
      4,
      5,
    ]);
  });

  it("takes and gives nothing for nothing", () => {
    expect([tokenizer.encodeText(""), tokenizer.encodeTemplate(""), tokenizer.decode([])]).toEqual([[], [], ""]);
  });

  it("hides begin, end and padding when decoding and shows the thought's marks", () => {
    expect(tokenizer.decode([0, 5, ...tokenizer.encodeText("a"), 6, 1, 2])).toBe("<think>a</think>");
  });

  it("has one token for each condition and finding, in both languages, where it stands in a sheet", () => {
    const names = [
      ...CONDITIONS.flatMap(({ en, zh }) => [en, zh]),
      // Findings of two words have two.
      ...FINDINGS.flatMap(({ en, zh }) => [...(en.includes(" ") ? [] : [` ${en}`]), zh]),
    ];
    expect(names.filter((name) => tokenizer.encodeText(name).length > 1)).toEqual([]);
  });

  it.each([" keep", " out", " not", "保留", "排除", "忌", "yes", "no", " yes", " no", "\n", "\n\n", "+", "-"])(
    "has one token for %j",
    (text) => {
      expect(tokenizer.encodeText(text)).toHaveLength(1);
    },
  );

  it("keeps every digit apart", () => {
    expect(tokenizer.encodeText("2048")).toHaveLength(4);
  });
});

describe("a tokenizer that cannot be used is refused in a sentence:", () => {
  it("one that is damaged", () => {
    expect(() => openTokenizer({}, {})).toThrow(/tokenizer.json cannot be read .* of one checkpoint\./);
    expect(() => openTokenizer("no", {})).toThrow(/tokenizer.json cannot be read/);
  });

  it("one without DeepSeek's control tokens", () => {
    const json = structuredClone(shippedJson("tokenizer.json")) as {
      added_tokens: { content: string }[];
      model: { vocab: Record<string, number> };
    };
    json.added_tokens = json.added_tokens.filter(({ content }) => !content.includes("think"));
    delete json.model.vocab["<think>"];
    delete json.model.vocab["</think>"];
    expect(() => openTokenizer(json, shippedJson("tokenizer_config.json"))).toThrow(
      "The tokenizer has no <think>, </think>",
    );
  });
});
