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
    expect(CONTROL_TOKENS.map((token) => tokenizer.tokenId(token))).toEqual([0, 1, 2, 3, 4, 5, 6]);
    expect(tokenizer.control).toEqual({ bos: 0, eos: 1, ends: [1, 3] });
    expect(tokenizer.tokenId("the")).toBeUndefined();
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
  type Json = Record<string, never> & { model: Record<string, unknown>; added_tokens: Record<string, unknown>[] };
  const config = shippedJson("tokenizer_config.json");
  const openChanged = (change: (json: Json) => void) => () => {
    const json = structuredClone(shippedJson("tokenizer.json")) as Json;
    change(json);
    openTokenizer(json, config);
  };

  it.each<[string, (json: Json) => void, string]>([
    ["without a model", (json) => Object.assign(json, { model: null }), "it has no model"],
    ["without words", ({ model }) => Object.assign(model, { vocab: [] }), "its model has no vocab"],
    ["without merges", ({ model }) => Object.assign(model, { merges: [["a"]] }), "its model has no list of merges"],
    ["with an id that is none", ({ model }) => Object.assign(model.vocab as object, { a: 0.5 }), '"a" has the id 0.5'],
    [
      "with an id past all bounds",
      ({ model }) => Object.assign(model.vocab as object, { a: 1e9 }),
      '"a" has the id 1000000000',
    ],
    [
      "with an id twice",
      ({ model }) => Object.assign(model.vocab as object, { xyz: 5 }),
      "shares the id 5 with another",
    ],
    [
      "of words from a list of likelihoods",
      ({ model }) => Object.assign(model, { type: "Unigram" }),
      "of another kind (Unigram)",
    ],
    ["without bytes", (json) => Object.assign(json, { pre_tokenizer: null }), "of another kind (BPE without bytes)"],
    ["with a damaged control token", (json) => json.added_tokens.push({ id: 9 }), 'an added token is {"id":9}'],
    [
      "with a letter for a control token",
      (json) => json.added_tokens.push({ id: 3000, content: "x", special: true }),
      'the special token "x" cannot be told from a letter',
    ],
    [
      "that may take forever",
      (json) => Object.assign(json, { normalizer: { type: "Replace", pattern: { Regex: "([a-z]+)*!" }, content: "" } }),
      "splits text by ([a-z]+)*!, a repeated group",
    ],
    [
      "that the library cannot read",
      (json) => Object.assign(json, { normalizer: { type: "Fancy" } }),
      "cannot be read (",
    ],
    [
      "that puts a space before everything",
      (json) =>
        Object.assign(json, { pre_tokenizer: { type: "ByteLevel", add_prefix_space: true, trim_offsets: true } }),
      "puts a space before each text",
    ],
  ])("one %s", (_, change, message) => {
    expect(openChanged(change)).toThrow(message);
  });

  it("one that is no tokenizer at all", () => {
    for (const json of [{}, "no", null, [], 7, { model: {} }]) {
      expect(() => openTokenizer(json, config)).toThrow(/^tokenizer\.json .*\.$/su);
    }
    expect(() => openTokenizer(shippedJson("tokenizer.json"), "no")).toThrow("tokenizer_config.json cannot be read");
  });

  it("one without a token of its chat template", () => {
    const without = openChanged((json) => {
      json.added_tokens = json.added_tokens.filter(({ content }) => content !== "<｜User｜>");
      delete (json.model.vocab as Record<string, unknown>)["<｜User｜>"];
    });
    expect(without).toThrow("The chat template writes <｜User｜>, which is no token of tokenizer.json");
  });

  it("whatever is broken in it", () => {
    const whole = shippedJson("tokenizer.json");
    const tiny = { ...whole, model: { ...(whole.model as object), vocab: bytesOf(whole), merges: [] } };
    const places = placesIn(tiny).filter((place) => place[1] !== "vocab" || place.length === 2);
    const junk = fc.oneof(fc.jsonValue(), fc.constantFrom(undefined, -1, 1e300, "", "<think>", [[]], { type: "BPE" }));
    fc.assert(
      fc.property(fc.constantFrom(...places), junk, (place, value) => {
        const broken = structuredClone(tiny) as Record<string, unknown>;
        put(broken, place, value);
        try {
          const opened = openTokenizer(broken, config);
          expect(opened.decode(opened.encodeText("fever 12"))).toBe("fever 12");
        } catch (error) {
          expect((error as Error).message).toMatch(/^(The |tokenizer|Neither ).*\.$/su);
        }
      }),
      { numRuns: 1000 },
    );
  });
});

/** The control tokens and bytes of the shipped vocabulary. */
function bytesOf(json: Record<string, unknown>): Record<string, number> {
  const { vocab } = json.model as { vocab: Record<string, number> };
  return Object.fromEntries(Object.entries(vocab).filter(([, id]) => id < CONTROL_TOKENS.length + 256));
}

/** The path of every value in a JSON value. */
function placesIn(json: unknown, path: string[] = []): string[][] {
  if (typeof json !== "object" || json === null) return path.length > 0 ? [path] : [];
  const inner = Object.entries(json).flatMap(([key, value]) => placesIn(value, [...path, key]));
  return path.length > 0 ? [path, ...inner] : inner;
}

function put(json: Record<string, unknown>, [key, ...rest]: string[], value: unknown): void {
  if (rest.length === 0) json[key] = value;
  else put(json[key] as Record<string, unknown>, rest, value);
}
