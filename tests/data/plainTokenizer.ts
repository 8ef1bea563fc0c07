// A second tokenizer, from the description of the format and without its library: what tokenizer.ts is compared with.

import { byteAlphabet, preTokenize } from "../../src/data/bpe.ts";
import type { TokenizerFile } from "./realTokenizers.ts";

/** JavaScript's \s takes U+FEFF for a space and U+0085 for none. */
const [SPACE, NO_SPACE] = ["\\p{White_Space}", "\\P{White_Space}"];
const WHITE = `${SPACE}*[\\r\\n]+|${SPACE}+(?!${NO_SPACE})|${SPACE}+`;

/** What each family cuts text by, one after the other. */
export const SPLITS = {
  deepseekV3: [
    /\p{N}{1,3}/gu,
    /[\u4E00-\u9FA5\u3040-\u309F\u30A0-\u30FF]+/gu,
    new RegExp(
      `[!-/:-@[-\`{-~][A-Za-z]+|[^\\r\\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| ?[\\p{P}\\p{S}]+[\\r\\n]*|${WHITE}`,
      "gu",
    ),
  ],
  qwen2: [
    new RegExp(
      "'(?:[sS\u017F]|[tT]|[rR][eE]|[vV][eE]|[mM]|[lL][lL]|[dD])|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}|" +
        ` ?[^\\p{White_Space}\\p{L}\\p{N}]+[\\r\\n]*|${WHITE}`,
      "gu",
    ),
  ],
};

/** text -> ids; control tokens are obeyed. */
export function plainEncoder(file: TokenizerFile, splits: RegExp[]): (text: string) => number[] {
  const { vocab, merges } = file.model;
  const ranks = new Map(merges.map((merge, rank) => [typeof merge === "string" ? merge : merge.join(" "), rank]));
  const added = file.added_tokens.toSorted((a, b) => b.content.length - a.content.length);
  const composes = JSON.stringify(file.normalizer).includes("NFC");
  const alphabet = byteAlphabet();
  const utf8 = new TextEncoder();

  const words = (text: string): number[] =>
    preTokenize(composes ? text.normalize("NFC") : text, splits).flatMap((piece) =>
      merged(Array.from(utf8.encode(piece), (byte) => alphabet[byte])).map((token) => vocab[token]),
    );

  /** The lowest rank first, the leftmost of equals. */
  function merged(parts: string[]): string[] {
    for (;;) {
      let [best, at] = [Number.POSITIVE_INFINITY, -1];
      for (let i = 0; i + 1 < parts.length; i++) {
        const rank = ranks.get(`${parts[i]} ${parts[i + 1]}`) ?? Number.POSITIVE_INFINITY;
        if (rank < best) [best, at] = [rank, i];
      }
      if (at < 0) return parts;
      parts.splice(at, 2, parts[at] + parts[at + 1]);
    }
  }

  return (text) => {
    const ids: number[] = [];
    let start = 0;
    const wellFormed = new TextDecoder("utf-8", { ignoreBOM: true }).decode(utf8.encode(text));
    for (let at = 0; at < wellFormed.length; ) {
      const token = added.find(({ content }) => wellFormed.startsWith(content, at));
      if (!token) {
        at++;
        continue;
      }
      ids.push(...words(wellFormed.slice(start, at)), token.id);
      at += token.content.length;
      start = at;
    }
    return [...ids, ...words(wellFormed.slice(start))];
  };
}
