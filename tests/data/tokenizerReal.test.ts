import { readFileSync } from "node:fs";
import * as fc from "fast-check";
import { describe, expect, it } from "vitest";
import { checkTokenizerFits, openTokenizer } from "../../src/data/tokenizer.ts";
import { anyText } from "./anyText.ts";
import { plainEncoder, SPLITS } from "./plainTokenizer.ts";
import { deepseekV3, opened, qwen25, r1Distill, wordless } from "./realTokenizers.ts";
import { shippedJson, shippedTokenizer } from "./shipped.ts";

const real = { deepseek: opened(deepseekV3()), qwen: opened(qwen25()), r1: opened(r1Distill()) };
const { deepseek, qwen, r1 } = real;

const fixture = (file: string) => JSON.parse(readFileSync(`tests/fixtures/tokenizers/${file}`, "utf8"));
const wellFormed = (text: string): string => text.replace(/\p{Surrogate}/gu, "\uFFFD");

describe("golden ids", () => {
  it.each([
    [
      "r1",
      "<｜begin▁of▁sentence｜><｜User｜>Hello!<｜Assistant｜><think>\n",
      [151646, 151644, 9707, 0, 151645, 151648, 198],
    ],
    ["r1", "</think>\n\n", [151649, 271]],
    ["r1", "The quick brown fox 1234", [785, 3974, 13876, 38835, 220, 16, 17, 18, 19]],
    ["deepseek", "<｜begin▁of▁sentence｜><｜User｜>Hello!<｜Assistant｜>", [0, 128803, 19923, 3, 128804]],
    ["deepseek", "The quick brown fox 1234", [671, 4787, 13769, 46012, 223, 6895, 22]],
    ["qwen", "<|im_start|>user\nHello!<|im_end|>\n", [151644, 872, 198, 9707, 0, 151645, 198]],
  ] as const)("of %s for %j", (name, text, ids) => {
    expect(real[name].encodeTemplate(text)).toEqual(ids);
  });

  it.each([
    ["deepseek-v3", deepseek],
    ["qwen2.5", qwen],
    ["deepseek-nano", shippedTokenizer()],
  ] as const)("of %s are those of the reference implementation", (name, tokenizer) => {
    const { texts } = fixture("texts.json") as { texts: string[] };
    const { ids } = fixture("reference.json") as { ids: Record<string, number[][]> };
    expect(texts.map((text) => tokenizer.encodeTemplate(text))).toEqual(ids[name]);
  });
});

describe.each([
  ["DeepSeek-V3", deepseek, deepseekV3(), SPLITS.deepseekV3],
  ["DeepSeek-R1-Distill-Qwen", r1, r1Distill(), SPLITS.qwen2],
] as const)("the tokenizer of %s", (_, tokenizer, files, splits) => {
  const plain = plainEncoder(files.tokenizer, [...splits]);

  it("gives 2,000 random texts the ids that a second implementation gives them", () => {
    const texts = fc.sample(anyText, { seed: 4, numRuns: 2000 });
    const differing = texts.filter((text) => String(tokenizer.encodeTemplate(text)) !== String(plain(text)));
    expect(differing).toEqual([]);
  });

  it("gives any text back, composed where it composes", () => {
    const composes = JSON.stringify(files.tokenizer.normalizer).includes("NFC");
    const controls = fc.constantFrom(...files.tokenizer.added_tokens.slice(-20).map(({ content }) => content));
    const text = fc.array(fc.oneof(anyText, controls), { maxLength: 4 }).map((parts) => parts.join(""));
    fc.assert(
      fc.property(text, (typed) => {
        const kept = wellFormed(typed);
        expect(tokenizer.decode(tokenizer.encodeText(typed))).toBe(composes ? kept.normalize("NFC") : kept);
      }),
      { numRuns: 500 },
    );
  });

  it("never makes a control token of what somebody typed", () => {
    const controls = new Set(files.tokenizer.added_tokens.map(({ id }) => id));
    for (const { content } of files.tokenizer.added_tokens) {
      const ids = tokenizer.encodeText(`a ${content}${content} b<${content}`);
      expect(ids.filter((id) => controls.has(id))).toEqual([]);
    }
  });

  it("obeys every control token of a template", () => {
    for (const { id, content } of files.tokenizer.added_tokens) {
      expect(tokenizer.encodeTemplate(`a${content}b`)).toContain(id);
    }
  });
});

it("hides special tokens when decoding, and only those", () => {
  expect(r1.decode([151646, 151644, 9707, 151645, 151648, 198, 151649, 151643])).toBe(
    "<｜User｜>Hello<｜Assistant｜><think>\n</think>",
  );
  expect(qwen.decode([151644, 872, 151645])).toBe("user");
  expect(deepseek.decode([0, 19923, 128804, 128799, 1])).toBe("Hello<｜Assistant｜>");
});

it("shows nothing for the rows of an embedding that no token uses", () => {
  expect(qwen.decode([9707, 151_665, 151_935])).toBe("Hello");
});

it("adds no BOS of its own, whatever the post-processor says", () => {
  expect(r1.encodeText("Hello!")).toEqual([9707, 0]);
  expect(r1.encodeTemplate("Hello!")).toEqual([9707, 0]);
});

it("knows begin, end and what else ends a reply", () => {
  expect(deepseek.control).toEqual({ bos: 0, eos: 1, ends: [1, 128803] });
  expect(r1.control).toEqual({ bos: 151646, eos: 151643, ends: [151643, 151644] });
  expect(qwen.control).toEqual({ bos: null, eos: 151645, ends: [151645, 151644] });
});

const small = { deepseek: wordless(deepseekV3()), qwen: wordless(qwen25()), r1: wordless(r1Distill()) };

it("takes the ends of generation_config.json too, one or a list", () => {
  const { tokenizer, config } = small.qwen;
  const ends = (generationConfig: unknown) => openTokenizer(tokenizer, config, { generationConfig }).control.ends;
  expect(ends({ eos_token_id: [151645, 151643] })).toEqual([151645, 151644, 151643]);
  expect(ends({ eos_token_id: 151643 })).toEqual([151645, 151644, 151643]);
  expect(() => ends({ eos_token_id: [151643, 151936] })).toThrow(
    "generation_config.json says that eos_token_id is 151936; the tokenizer has the ids 0 to 151664.",
  );
  expect(() => ends([])).toThrow("generation_config.json cannot be read");
});

it("fits a model with as many rows or more", () => {
  expect([deepseek.size, r1.size, qwen.size]).toEqual([128_815, 151_665, 151_665]);
  checkTokenizerFits(deepseek, 129_280);
  expect(() => checkTokenizerFits(qwen, 129_280)).toThrow("The tokenizer has 151665 tokens and the model 129280");
});

describe("files of two models are refused in a sentence:", () => {
  it("a template whose control tokens are not the tokenizer's", () => {
    const { tokenizer, config } = small.qwen;
    const foreign = String(small.deepseek.config.chat_template).replace("{{bos_token}}", "");
    expect(() => openTokenizer(tokenizer, { ...config, chat_template: foreign })).toThrow(
      "The chat template writes <｜User｜>, which is no token of tokenizer.json: they are of two models.",
    );
  });

  it("a configuration whose begin or end is not the tokenizer's", () => {
    expect(() => openTokenizer(small.r1.tokenizer, small.qwen.config)).toThrow(
      'tokenizer_config.json says that eos_token is "<|im_end|>", which is no token of tokenizer.json.',
    );
    expect(() => openTokenizer(small.qwen.tokenizer, shippedJson("tokenizer_config.json"))).toThrow(
      'bos_token is "<｜begin▁of▁sentence｜>", which is no token',
    );
  });

  it("a template that writes a token which nobody names", () => {
    const { tokenizer, config } = small.r1;
    expect(() => openTokenizer(tokenizer, { ...config, bos_token: null })).toThrow(
      "The chat template writes bos_token and tokenizer_config.json names none.",
    );
  });

  it("a configuration of which nothing ends a text", () => {
    const { tokenizer, config } = small.qwen;
    expect(() => openTokenizer(tokenizer, { ...config, eos_token: null, chat_template: undefined })).toThrow(
      "Neither tokenizer_config.json (eos_token) nor generation_config.json (eos_token_id) says what ends a text.",
    );
  });
});
