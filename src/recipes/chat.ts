// A loaded model that answers: the chat box of the page, and a look at a finished run.

import { promptIds, splitReply } from "../data/chat.ts";
import { generate } from "../models/generate.ts";
import { disposeModel, loadModelFrom, modelSize } from "../models/weights.ts";
import type { AnswerMode } from "../protocol/data.ts";
import type { ModelSize } from "../protocol/report.ts";
import type { ModelFiles } from "./host.ts";
import { openParts } from "./openParts.ts";

export interface ReplyOptions {
  maxNewTokens: number;
  /** 0: the likeliest token each time. */
  temperature: number;
  seed: number;
}

export interface Reply {
  /** What the model said between <think> and </think>; empty for a direct answer. */
  chain: string;
  answer: string;
  tokens: number;
  seconds: number;
}

export interface Chat {
  size: ModelSize;
  /** `onText` gets all of the reply so far, after each token. `stopping` ends it where it is. */
  reply(
    question: string,
    mode: AnswerMode,
    options: ReplyOptions,
    onText: (part: { chain: string; answer: string }) => void,
    stopping: () => boolean,
  ): Promise<Reply>;
  dispose(): void;
}

/** Load a model to talk to. The backend must have been started. The caller disposes of it. */
export function openChat(files: ModelFiles): Chat {
  const { config, tokenizer } = openParts(files);
  const model = loadModelFrom(config, files.weights);
  return {
    size: modelSize(model),
    async reply(question, mode, options, onText, stopping) {
      const startedMs = performance.now();
      const ids: number[] = [];
      await generate(model, [Int32Array.from(promptIds(tokenizer, question, mode))], {
        ...options,
        eosTokenId: tokenizer.control.ends,
        onTokens: ([token]) => {
          if (token === null) return;
          ids.push(token);
          onText(splitReply(tokenizer, tokenizer.decode(ids), mode));
        },
        stopping,
      });
      const parts = splitReply(tokenizer, tokenizer.decode(ids), mode);
      return { ...parts, tokens: ids.length, seconds: (performance.now() - startedMs) / 1000 };
    },
    dispose: () => disposeModel(model),
  };
}
