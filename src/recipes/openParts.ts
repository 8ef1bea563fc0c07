// A model's config and tokenizer, of which it is sure that they belong together.

import { checkTokenizerFits, openTokenizer, type Tokenizer } from "../data/tokenizer.ts";
import type { CheckpointParts } from "../formats/checkpoint.ts";
import { type ModelConfig, readConfig } from "../formats/hfConfig.ts";

/** Throws a sentence for files that are damaged, not supported, or of two models. */
export function openParts(parts: CheckpointParts): { config: ModelConfig; tokenizer: Tokenizer } {
  const { chatTemplate, chatTemplateJson, generationConfig } = parts;
  const tokenizer = openTokenizer(parts.tokenizer, parts.tokenizerConfig, {
    ...(chatTemplate !== null && { chatTemplate }),
    ...(chatTemplateJson !== null && { chatTemplateJson }),
    ...(generationConfig !== null && { generationConfig }),
  });
  const config = readConfig(parts.config);
  checkTokenizerFits(tokenizer, config.vocabSize);
  return { config, tokenizer };
}
