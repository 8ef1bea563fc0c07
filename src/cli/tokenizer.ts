// `npm run tokenizer`: train the tokenizer of the small models on public texts and on what this project generates.

import { existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { type Bpe, tokenizerConfigJson, tokenizerJson, trainBpe, type WeightedText } from "../data/bpe.ts";
import type { Exchange } from "../data/chat.ts";
import { CORPORA, CORPUS_FILES, type CorpusName, readCorpus, sample } from "../data/corpus.ts";
import { openTokenizer, type Tokenizer } from "../data/tokenizer.ts";
import type { Case } from "../protocol/data.ts";
import { type Drill, drill } from "../recipes/drills.ts";
import { hospitalStudy } from "../recipes/hospital/generate.ts";
import { endWith, readArguments, UsageError, wholeNumber } from "./arguments.ts";

const HELP = `Train a byte-level BPE tokenizer and write it as Hugging Face files.

  npm run tokenizer -- --data FOLDER [--out FOLDER] [--vocab N]

  --data FOLDER   holds the public texts: ${CORPORA.join(", ")}, cc-cedict
  --out FOLDER    where tokenizer.json and tokenizer_config.json go (public/models/deepseek-nano)
  --vocab N       all tokens, control tokens included (2048)
  --help          this text
`;

const options = {
  data: { type: "string" },
  out: { type: "string", default: join("public", "models", "deepseek-nano") },
  vocab: { type: "string", default: "2048" },
  help: { type: "boolean", short: "h", default: false },
} as const;

/** Characters of each corpus: about 12 MB in all, half English, half Chinese. */
const SAMPLE: Record<CorpusName, number> = {
  "books-en-simple": 4_000_000,
  "zh-novels": 900_000,
  "tatoeba-cmn": 1_500_000,
  crosswoz: 600_000,
  gsm8k: 1_000_000,
  "toyhom-medical-zh": 600_000,
};

/** Cases of the study, and how often each counts: enough that every finding and condition is one token. */
const HOSPITAL = { seed: 7, cases: 3000, weight: 4 };

const DRILLS = { seed: 7, count: 6000, weight: 1 };

/** Short replies that should be one token wherever they stand. */
const REPLIES = { words: ["yes", " yes", "Yes", "no", " no", "No", "low", " low", "high", " high"], weight: 3000 };

const MODEL_MAX_LENGTH = 512;

await endWith(async () => {
  const { values } = readArguments({ options, args: process.argv.slice(2) });
  if (values.help) {
    process.stdout.write(HELP);
    return 0;
  }
  if (!values.data) throw new UsageError("--data wants the folder of the public texts. See --help.");
  if (existsSync(join(values.out, "model.safetensors"))) {
    throw new UsageError(
      `${values.out} holds a model, which a new tokenizer would make useless. Choose another --out, or remove the model.`,
    );
  }
  const vocabSize = wholeNumber("vocab", values.vocab, 512, 65_536);
  const started = performance.now();
  const bpe = trainBpe([...publicTexts(values.data), ...generatedTexts()], { vocabSize, maxTokenBytes: 18 });
  write(values.out, bpe);
  const seconds = (performance.now() - started) / 1000;
  process.stdout.write(`${bpe.vocab.size} tokens in ${values.out}, trained in ${seconds.toFixed(1)} s\n`);
  process.stdout.write(describe(openTokenizer(tokenizerJson(bpe), tokenizerConfigJson(MODEL_MAX_LENGTH))));
  return 0;
});

function publicTexts(folder: string): WeightedText[] {
  const simplified = JSON.parse(read(folder, "cc-cedict", "trad2simp.json")) as Record<string, string>;
  return CORPORA.flatMap((name) => {
    const documents = readCorpus(name, read(folder, name, CORPUS_FILES[name]), simplified);
    return sample(documents, SAMPLE[name]).map((text) => ({ text, weight: 1 }));
  });
}

function read(folder: string, corpus: string, file: string): string {
  const path = join(folder, corpus, file);
  try {
    return readFileSync(path, "utf8");
  } catch {
    throw new UsageError(`There is no readable ${path}. --data wants the folder that holds ${corpus}.`);
  }
}

function generatedTexts(): WeightedText[] {
  return [
    ...hospitalCases().flatMap((one) => pieces(one, HOSPITAL.weight)),
    ...drills().flatMap((one) => pieces(one, DRILLS.weight)),
    ...REPLIES.words.map((text) => ({ text, weight: REPLIES.weight })),
  ];
}

/** What stands between control tokens, as chat.ts sets it. */
function pieces({ question, chain, answer }: Exchange, weight: number): WeightedText[] {
  const thought = chain ? [`${chain}\n`] : ["\n\n"];
  return [question, ...thought, `\n\n${answer}`].map((text) => ({ text, weight }));
}

function drills(): Drill[] {
  return Array.from({ length: DRILLS.count }, (_, index) => drill(DRILLS.seed, index));
}

function hospitalCases(): Case[] {
  return hospitalStudy({ seed: HOSPITAL.seed, train: HOSPITAL.cases, validation: 0, test: 0 }).train;
}

function write(folder: string, bpe: Bpe): void {
  mkdirSync(folder, { recursive: true });
  const files = {
    "tokenizer.json": tokenizerJson(bpe),
    "tokenizer_config.json": tokenizerConfigJson(MODEL_MAX_LENGTH),
  };
  for (const [name, json] of Object.entries(files)) {
    writeFileSync(join(folder, name), `${JSON.stringify(json, null, 1)}\n`);
  }
}

/** How many tokens the generated exercises take. */
function describe(tokenizer: Tokenizer): string {
  const kinds: [string, (Exchange & { language: string })[]][] = [
    ["hospital", hospitalCases()],
    ["drills", drills()],
  ];
  return kinds
    .flatMap(([kind, all]) =>
      ["en", "zh"].map((language) => {
        const some = all.filter((one) => one.language === language);
        const mean = (part: (one: Exchange) => string): string => {
          const total = some.reduce((sum, one) => sum + tokenizer.encodeText(part(one)).length, 0);
          return (total / some.length).toFixed(1);
        };
        const parts = [mean((one) => one.question), mean((one) => one.chain ?? ""), mean((one) => one.answer)];
        return `${kind} ${language}, mean tokens: question ${parts[0]}, chain ${parts[1]}, answer ${parts[2]}\n`;
      }),
    )
    .join("");
}
