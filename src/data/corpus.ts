// The public texts that the tokenizer and the base models are trained on: files -> documents.

export const CORPORA = [
  "books-en-simple",
  "zh-novels",
  "tatoeba-cmn",
  "crosswoz",
  "gsm8k",
  "toyhom-medical-zh",
] as const;

export type CorpusName = (typeof CORPORA)[number];

/** The file of each corpus, below a folder of its name. */
export const CORPUS_FILES: Record<CorpusName, string> = {
  "books-en-simple": "text.txt",
  "zh-novels": "text.txt",
  "tatoeba-cmn": "cmn.txt",
  crosswoz: "val.jsonl",
  gsm8k: "train.jsonl",
  "toyhom-medical-zh": "neike_sample.jsonl",
};

/**
 * The documents of one corpus, in the order of its file.
 *
 * `simplified` maps traditional Chinese characters to simplified ones. Rows of the medical set that name a way to
 * reach a person, or advertise one, are left out.
 */
export function readCorpus(name: CorpusName, text: string, simplified: Record<string, string>): string[] {
  switch (name) {
    case "books-en-simple":
      return readBooks(text);
    case "zh-novels":
      return readBooks(text);
    case "tatoeba-cmn":
      return lines(text).map((line) => {
        const [english, chinese] = line.split("\t");
        return `${english}\n${simplify(chinese ?? "", simplified)}`;
      });
    case "crosswoz":
      return rows<{ turns: { text: string }[] }>(text).map((row) => row.turns.map((turn) => turn.text).join("\n"));
    case "gsm8k":
      // <<48/2=24>> are marks for a calculator, not language.
      return rows<{ question: string; answer: string }>(text).map((row) =>
        `${row.question}\n${row.answer}`.replace(/<<[^>]*>>/g, ""),
      );
    case "toyhom-medical-zh":
      return rows<{ title: string; ask: string; answer: string }>(text)
        .map((row) => `${row.title}\n${row.ask}\n${row.answer}`)
        .filter((document) => !PERSONAL.test(document));
  }
}

/** Write simplified Chinese characters for traditional ones. */
export function simplify(text: string, simplified: Record<string, string>): string {
  return Array.from(text, (character) => simplified[character] ?? character).join("");
}

/**
 * About `characters` characters of the documents: runs of whole lines from evenly spaced places, so that every part
 * of a long book speaks.
 */
export function sample(documents: string[], characters: number): string[] {
  const all = documents.flatMap((document) => paragraphs(document));
  const total = all.reduce((sum, paragraph) => sum + paragraph.length, 0);
  if (total <= characters) return all;
  const share = characters / total;
  // A paragraph is taken when the running share passes the next whole number.
  return all.filter((_, index) => Math.floor((index + 1) * share) > Math.floor(index * share));
}

const PARAGRAPH_LINES = 8;
const PERSONAL = /QQ|qq|微信|电话|手机|专家|北京.{0,12}医院/;

/** A document in pieces of a few lines. */
function paragraphs(document: string): string[] {
  const all = document.split("\n");
  const pieces: string[] = [];
  for (let at = 0; at < all.length; at += PARAGRAPH_LINES) pieces.push(all.slice(at, at + PARAGRAPH_LINES).join("\n"));
  return pieces;
}

/** Books stand between lines <|endoftext|>; an English one begins with a head that ends in a line of dashes. */
function readBooks(text: string): string[] {
  return text
    .split("<|endoftext|>")
    .map((book) => book.replace(/^\s*Title:[^]{0,400}?\n-+\n/, "").trim())
    .filter((book) => book !== "");
}

function rows<Row>(text: string): Row[] {
  return lines(text).map((line) => JSON.parse(line) as Row);
}

function lines(text: string): string[] {
  return text.split("\n").filter((line) => line.trim() !== "");
}
