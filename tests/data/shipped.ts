// The tokenizer that is shipped with deepseek-nano, for tests.

import { readFileSync } from "node:fs";
import { openTokenizer, type Tokenizer } from "../../src/data/tokenizer.ts";

const FOLDER = "public/models/deepseek-nano";

export function shippedJson(file: "tokenizer.json" | "tokenizer_config.json"): Record<string, unknown> {
  return JSON.parse(readFileSync(`${FOLDER}/${file}`, "utf8"));
}

export function shippedTokenizer(): Tokenizer {
  return openTokenizer(shippedJson("tokenizer.json"), shippedJson("tokenizer_config.json"));
}
