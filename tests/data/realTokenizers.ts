// The tokenizers of real checkpoints, for tests: DeepSeek-V3, Qwen2.5-Instruct and, made from the latter, DeepSeek-R1-Distill-Qwen.

import { readFileSync } from "node:fs";
import { openTokenizer, type Tokenizer } from "../../src/data/tokenizer.ts";
import { R1_TEMPLATE } from "./templates.ts";

export interface TokenizerFile {
  added_tokens: AddedToken[];
  model: { vocab: Record<string, number>; merges: (string | [string, string])[] };
  [key: string]: unknown;
}

interface AddedToken {
  id: number;
  content: string;
  special: boolean;
  [key: string]: unknown;
}

export interface Files {
  tokenizer: TokenizerFile;
  config: Record<string, unknown>;
}

export function deepseekV3(): Files {
  return read("deepseek_v3");
}

export function qwen25(): Files {
  return read("qwen2_5");
}

function read(name: string): Files {
  const json = (file: string) =>
    JSON.parse(readFileSync(`node_modules/@lenml/tokenizer-${name}/models/${file}`, "utf8"));
  return { tokenizer: json("tokenizer.json"), config: json("tokenizer_config.json") };
}

/** Qwen2.5's words with DeepSeek's names for the first added tokens, and a BOS that the library would add of itself. */
export function r1Distill(): Files {
  const { tokenizer } = qwen25();
  const renamed: [content: string, special: boolean][] = [
    ["<｜end▁of▁sentence｜>", true],
    ["<｜User｜>", false],
    ["<｜Assistant｜>", false],
    ["<｜begin▁of▁sentence｜>", true],
    ["<|EOT|>", false],
    ["<think>", false],
    ["</think>", false],
  ];
  const [bos, eos] = ["<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>"];
  return {
    tokenizer: {
      ...tokenizer,
      added_tokens: tokenizer.added_tokens.map((token, i) =>
        i < renamed.length ? { ...token, content: renamed[i][0], special: renamed[i][1] } : token,
      ),
      post_processor: {
        type: "TemplateProcessing",
        single: [{ SpecialToken: { id: bos, type_id: 0 } }, { Sequence: { id: "A", type_id: 0 } }],
        pair: [{ Sequence: { id: "A", type_id: 0 } }, { Sequence: { id: "B", type_id: 1 } }],
        special_tokens: { [bos]: { id: bos, ids: [151646], tokens: [bos] } },
      },
    },
    config: {
      add_bos_token: true,
      bos_token: { __type: "AddedToken", content: bos, lstrip: false, normalized: true },
      eos_token: { __type: "AddedToken", content: eos, lstrip: false, normalized: true },
      chat_template: R1_TEMPLATE,
    },
  };
}

/** Without its words: enough to see whether files fit one another, and quick to open. */
export function wordless({ tokenizer, config }: Files): Files {
  const bytes = Object.entries(tokenizer.model.vocab).filter(([token]) => token.length === 1);
  return {
    tokenizer: { ...tokenizer, model: { ...tokenizer.model, vocab: Object.fromEntries(bytes), merges: [] } },
    config,
  };
}

export function opened({ tokenizer, config }: Files): Tokenizer {
  return openTokenizer(tokenizer, config);
}
