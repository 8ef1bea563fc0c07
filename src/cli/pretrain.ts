// `npm run pretrain`: train a base model from fresh weights on public texts and generated exercises.

import { appendFileSync, existsSync, mkdirSync, readFileSync, renameSync, writeFileSync } from "node:fs";
import { basename, join } from "node:path";
import { CORPORA, CORPUS_FILES, type CorpusName, readCorpus } from "../data/corpus.ts";
import { openTokenizer } from "../data/tokenizer.ts";
import { startBackend } from "../engine/backend.ts";
import { modelSize, saveModel } from "../models/weights.ts";
import type { TextSource } from "../recipes/packing.ts";
import {
  modelOfCheckpoint,
  pretrain,
  type PretrainEvent,
  type PretrainSettings,
  type PretrainState,
} from "../recipes/pretrain.ts";
import { randomStream } from "../recipes/random.ts";
import { endWith, oneOf, readArguments, UsageError, wholeNumber } from "./arguments.ts";
import { enableRelaxedSimd } from "./relaxedSimd.ts";
import { nodeThreads } from "./threads.ts";
import { wasmUrl } from "./wasmUrl.ts";

const HELP = `Pretrain a base model. Started again with the same --out, it goes on from its last checkpoint.

  npm run pretrain -- --data FOLDER --out FOLDER [--model FOLDER] [--steps N] [--publish]

  --data FOLDER    holds the public texts: ${CORPORA.join(", ")}, cc-cedict
  --out FOLDER     checkpoints and loss curve (curve.jsonl)
  --model FOLDER   config.json and tokenizer of the model (public/models/deepseek-nano)
  --steps N        steps of 16 rows of 160 tokens (6000); a run may be made longer or shorter until 70 % of it are done
  --backend NAME   wasm or cpu (wasm)
  --publish        write the last checkpoint to --model: model.safetensors (float16), README.md, curve.json; train nothing
  --help           this text
`;

const options = {
  data: { type: "string" },
  out: { type: "string" },
  model: { type: "string", default: join("public", "models", "deepseek-nano") },
  steps: { type: "string", default: "6000" },
  backend: { type: "string", default: "wasm" },
  publish: { type: "boolean", default: false },
  help: { type: "boolean", short: "h", default: false },
} as const;

const SETTINGS: Omit<PretrainSettings, "steps"> = {
  rows: 16,
  length: 160,
  learningRate: 3e-3,
  weightDecay: 0.1,
  balanceSpeed: 5e-3,
  drillShare: 0.85,
  repetitionSteps: 1000,
  repetitionShare: 0.1,
  questionWeight: 0.1,
  answerWeight: 3,
  seed: 20,
  checkpointEvery: 100,
  validateEvery: 200,
};

/** The public texts, and their share by documents of about the same length. */
const TEXTS: Record<CorpusName, { title: string; licence: string; weight: number }> = {
  "books-en-simple": { title: "English public-domain books in simple prose", licence: "public domain", weight: 35 },
  "zh-novels": { title: "Chinese vernacular novels", licence: "public domain; the compilation MIT", weight: 12 },
  "tatoeba-cmn": { title: "Tatoeba sentence pairs, English and Chinese", licence: "CC BY 2.0 FR", weight: 20 },
  crosswoz: { title: "CrossWOZ dialogues (Zhu et al., 2020)", licence: "Apache-2.0", weight: 10 },
  gsm8k: { title: "GSM8K school arithmetic (Cobbe et al., 2021)", licence: "MIT", weight: 8 },
  "toyhom-medical-zh": { title: "Chinese medical questions and answers (Toyhom)", licence: "MIT", weight: 15 },
};

/** Texts are cut into documents of about this many characters. */
const DOCUMENT_CHARACTERS = 700;

await endWith(async () => {
  const { values } = readArguments({ options, args: process.argv.slice(2) });
  if (values.help) {
    process.stdout.write(HELP);
    return 0;
  }
  if (!values.out) throw new UsageError("--out wants the folder of checkpoints. See --help.");
  const steps = wholeNumber("steps", values.steps, 1, 10_000_000);
  mkdirSync(values.out, { recursive: true });
  enableRelaxedSimd();
  await startBackend({
    prefer: oneOf("backend", values.backend, ["wasm", "cpu"] as const),
    wasmUrl: wasmUrl(),
    threads: nodeThreads(),
  });
  const config = readJson(values.model, "config.json");
  const from = lastCheckpoint(values.out);
  if (values.publish) {
    if (!from) throw new UsageError(`${values.out} has no checkpoint to publish. Train first.`);
    await publish(config, from, values.model, readCurve(values.out));
    return 0;
  }
  if (!values.data) throw new UsageError("--data wants the folder of the public texts. See --help.");
  const tokenizer = openTokenizer(
    readJson(values.model, "tokenizer.json"),
    readJson(values.model, "tokenizer_config.json"),
  );
  let stopping = false;
  process.once("SIGINT", () => {
    stopping = true;
  });
  const out = values.out;
  const curve = join(out, "curve.jsonl");
  await pretrain(
    config,
    tokenizer,
    textSources(values.data, SETTINGS.seed),
    { ...SETTINGS, steps },
    {
      onEvent: (event) => {
        appendFileSync(curve, `${JSON.stringify(event)}\n`);
        if (event.type === "validated") {
          process.stdout.write(
            `step ${event.step}: text ${event.textLoss.toFixed(3)}, exercises ${event.drillLoss.toFixed(3)} nats per token\n`,
          );
        } else if (event.step % 20 === 0) {
          const { step, loss, tokensPerSecond, worstLoad } = event;
          process.stdout.write(
            `step ${step}/${steps} loss ${loss.toFixed(3)}, ${tokensPerSecond.toFixed(0)} tokens/s, ` +
              `busiest expert ${worstLoad.toFixed(1)} times the mean\n`,
          );
        }
      },
      saveCheckpoint: async (state, tensors) => saveCheckpoint(out, state, tensors),
      stopping: () => stopping,
    },
    from ?? undefined,
  );
  return 0;
});

/** Documents by weight; every fiftieth of each set is kept for validation. */
function textSources(folder: string, seed: number): { training: TextSource; validation: TextSource } {
  const simplified = JSON.parse(read(folder, "cc-cedict", "trad2simp.json")) as Record<string, string>;
  const sets = CORPORA.map((name) => {
    const documents = cut(readCorpus(name, read(folder, name, CORPUS_FILES[name]), simplified));
    return {
      weight: TEXTS[name].weight,
      training: documents.filter((_, i) => i % 50 !== 0),
      validation: documents.filter((_, i) => i % 50 === 0),
    };
  });
  const total = sets.reduce((sum, { weight }) => sum + weight, 0);
  const source =
    (split: "training" | "validation"): TextSource =>
    (index) => {
      const random = randomStream("text", seed, split, index);
      let point = random.next() * total;
      const set = sets.find(({ weight }) => (point -= weight) < 0) ?? sets[0];
      return random.pick(set[split]);
    };
  return { training: source("training"), validation: source("validation") };
}

/** Whole lines, joined up to about DOCUMENT_CHARACTERS. */
function cut(documents: string[]): string[] {
  const parts: string[] = [];
  let part = "";
  for (const line of documents.flatMap((document) => document.split("\n"))) {
    if (line.trim() === "") continue;
    part = part === "" ? line : `${part}\n${line}`;
    if (part.length < DOCUMENT_CHARACTERS) continue;
    parts.push(part);
    part = "";
  }
  return part === "" ? parts : [...parts, part];
}

function saveCheckpoint(out: string, state: PretrainState, tensors: Uint8Array): void {
  const file = `checkpoint-${state.step}.safetensors`;
  writeFileSync(join(out, file), tensors);
  // The state names its tensors and replaces the one before in one move: a checkpoint is whole or not there.
  writeFileSync(join(out, "state.json.new"), JSON.stringify({ ...state, file }));
  renameSync(join(out, "state.json.new"), join(out, "state.json"));
}

function lastCheckpoint(out: string): { state: PretrainState; tensors: Uint8Array } | null {
  const path = join(out, "state.json");
  if (!existsSync(path)) return null;
  const { file, ...state } = JSON.parse(readFileSync(path, "utf8")) as PretrainState & { file: string };
  return { state, tensors: readFileSync(join(out, file)) };
}

/** What the training told, in order; after a resumed run the later telling of a step holds. */
function readCurve(out: string): PretrainEvent[] {
  const events = readFileSync(join(out, "curve.jsonl"), "utf8")
    .trim()
    .split("\n")
    .map((line) => JSON.parse(line) as PretrainEvent);
  const told = new Map(events.map((event) => [`${event.type} ${event.step}`, event]));
  return [...told.values()].toSorted((a, b) => a.step - b.step);
}

async function publish(
  config: unknown,
  { state, tensors }: { state: PretrainState; tensors: Uint8Array },
  folder: string,
  events: PretrainEvent[],
): Promise<void> {
  const model = modelOfCheckpoint(config, tensors);
  const bytes = await saveModel(model, "F16");
  writeFileSync(join(folder, "model.safetensors"), bytes);
  const told = events.filter(({ step }) => step <= state.step);
  const losses = told.flatMap((event) => (event.type === "step" ? [[event.step, round(event.loss)]] : []));
  const validation = told.flatMap((event) =>
    event.type === "validated" ? [[event.step, round(event.textLoss), round(event.drillLoss)]] : [],
  );
  const curve = { columns: ["step", "text", "exercises"], validation, training: losses.filter((_, i) => i % 10 === 0) };
  writeFileSync(join(folder, "curve.json"), `${JSON.stringify(curve)}\n`);
  writeFileSync(join(folder, "README.md"), modelCard(basename(folder), modelSize(model).total, state, validation));
  process.stdout.write(`${state.step} steps, ${state.tokens} tokens: ${join(folder, "model.safetensors")}\n`);
}

function round(loss: number): number {
  return Math.round(loss * 1e4) / 1e4;
}

function modelCard(name: string, parameters: number, state: PretrainState, validation: number[][]): string {
  const shown = validation.filter((_, i) => i % Math.ceil(validation.length / 8) === 0 || i === validation.length - 1);
  const { rows, length, learningRate, weightDecay, drillShare, seed } = SETTINGS;
  return `# ${name}

A DeepSeek-V3 model in miniature (multi-head latent attention, a shared and eight routed experts of which each token
uses two, tied embeddings): ${parameters} parameters, pretrained by Espalier itself. It is there to be pruned, tuned and
measured in lessons. It knows next to nothing and gives no advice of any kind.

## Training

\`npm run pretrain -- --data FOLDER --out FOLDER --steps N\`, then \`--publish\`, which wrote this file.

- ${state.step} steps of ${rows} rows of ${length} tokens: ${(state.tokens / 1e6).toFixed(1)} million tokens, ${(state.seconds / 60).toFixed(0)} minutes on one CPU core (WebAssembly).
- AdamW (0.9, 0.95), peak learning rate ${learningRate}, weight decay ${weightDecay} on matrices, gradient norm at most 1; warm-up of 100
  steps, constant, the last 30 % linearly down to a twentieth. Router biases balanced by ${SETTINGS.balanceSpeed} a step. Seed ${seed}.
- The first ${SETTINGS.repetitionSteps} steps, and ${Math.round(100 * SETTINGS.repetitionShare)} % of the rows after them: lists of the case study's words said again, on which copying is learned.
- Other rows: ${Math.round(100 * drillShare)} % exercises that Espalier generates (\`src/recipes/drills.ts\`: copying, looking up, matching rules about animals,
  orders, weather, made-up words and the words of the case studies in any role, in the chat form and with the chains
  that the case studies use; no case of a study),
  the rest public texts:

| text | share of the documents | licence |
| --- | --- | --- |
${CORPORA.map((corpus) => `| ${TEXTS[corpus].title} | ${share(corpus)} % | ${TEXTS[corpus].licence} |`).join("\n")}

Traditional Chinese characters were simplified by the table of CC-CEDICT (CC BY-SA 4.0). Rows of the medical questions that
name a way to reach a person were left out.

## Losses

Mean nats per token on rows that training never saw; exercises: answers only. The whole curve is in \`curve.json\`.

| step | public texts | exercises |
| --- | --- | --- |
${shown.map(([step, text, drills]) => `| ${step} | ${text.toFixed(3)} | ${drills.toFixed(3)} |`).join("\n")}
`;
}

function share(corpus: CorpusName): number {
  const total = CORPORA.reduce((sum, name) => sum + TEXTS[name].weight, 0);
  return Math.round((100 * TEXTS[corpus].weight) / total);
}

function readJson(folder: string, file: string): unknown {
  return JSON.parse(readFileSync(join(folder, file), "utf8"));
}

function read(folder: string, corpus: string, file: string): string {
  const path = join(folder, corpus, file);
  if (!existsSync(path)) {
    throw new UsageError(
      `${path} is not there. The texts are public but not part of this repository: name their folder.`,
    );
  }
  return readFileSync(path, "utf8");
}
