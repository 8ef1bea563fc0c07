// `npm run verify:big`: a checkpoint of the 1.5B shape goes the whole way in a real Chromium, and llama.cpp says the same.

import { existsSync, mkdtempSync, readdirSync, rmSync } from "node:fs";
import { open } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { type BrowserContext, chromium, type Page } from "playwright";
import { endWith, readArguments, UsageError } from "../../src/cli/arguments.ts";
import { chromiumArguments, findChromium } from "../../src/cli/chromium.mjs";
import { diskSource } from "../../src/cli/diskSource.ts";
import { openLlamaCpp } from "../../src/cli/llamaCpp.ts";
import { unpackWords } from "../../src/engine/packWords.ts";
import type { PackedFormat } from "../../src/engine/packed.ts";
import { wordCount } from "../../src/engine/packed.ts";
import type { Weights } from "../../src/formats/bytes.ts";
import { openCheckpoint } from "../../src/formats/checkpoint.ts";
import { writeGguf } from "../../src/formats/gguf.ts";
import { conversionOf, type KeptWeights, openKept } from "../../src/models/keptWeights.ts";
import { placeRows } from "../../src/engine/packWords.ts";
import { servePage } from "../servePage.ts";
import { type HeapWatch, watchHeaps } from "./heaps.ts";
import type { Imported } from "./page/main.ts";
import type { Tried } from "./page/try.worker.ts";
import { CONFIG, writeRandomCheckpoint } from "./randomCheckpoint.ts";

const HELP = `npm run verify:big -- [OPTIONS]

Writes a random Qwen2 checkpoint of the 1.5B shape in two bf16 shards (3.6 GB) to a temporary folder, brings it into a
real Chromium, generates 4 tokens, takes two steps of tuning by LoRA at sequence 64, and compares the logits of one
prompt with llama.cpp on the same weights. Takes minutes, 4 GB of memory and 12 GB of disk.

  --layers N       so many layers instead of 28
  --storage FORM   int4 (if not given) or int8
  --dir DIR        use this folder, and leave it there
  --no-llama       without llama.cpp
  --help           this
`;

const PROMPT = Array.from({ length: 24 }, (_, i) => (i * 53 + 11) % 256);
/** llama.cpp multiplies in float16 what is float16; of logits whose spread is about 1. */
const TOLERANCE = 0.02;

const root = resolve(import.meta.dirname, "..", "..");
const say = (text: string): void => void process.stdout.write(`${text}\n`);

async function main(): Promise<number> {
  const { values } = readArguments({
    options: {
      layers: { type: "string", default: String(CONFIG.num_hidden_layers) },
      storage: { type: "string", default: "int4" },
      dir: { type: "string" },
      "no-llama": { type: "boolean", default: false },
      help: { type: "boolean", default: false },
    },
  });
  if (values.help) {
    process.stdout.write(HELP);
    return 0;
  }
  const layers = Number(values.layers);
  if (!Number.isInteger(layers) || layers < 1)
    throw new UsageError(`--layers is "${values.layers}"; a number is wanted.`);
  const { storage } = values;
  if (storage !== "int4" && storage !== "int8")
    throw new UsageError(`--storage is "${storage}"; int4 or int8 is wanted.`);
  const folder = values.dir ?? mkdtempSync(join(tmpdir(), "espalier-big-"));
  try {
    const tried = await verify(folder, layers, storage);
    if (!values["no-llama"]) await compare(folder, storage, tried.logits);
  } finally {
    if (!values.dir) rmSync(folder, { recursive: true, force: true });
  }
  return 0;
}

const CHECKPOINT = "checkpoint";

async function verify(folder: string, layers: number, storage: "int4" | "int8"): Promise<Tried> {
  const checkpoint = join(folder, CHECKPOINT);
  if (!existsSync(checkpoint)) {
    const startedMs = performance.now();
    const bytes = await writeRandomCheckpoint(checkpoint, { ...CONFIG, num_hidden_layers: layers });
    say(`written: ${gigabytes(bytes)} in ${layers} layers, ${seconds((performance.now() - startedMs) / 1000)}`);
  }
  const files = readdirSync(checkpoint).map((name) => join(checkpoint, name));
  const served = await servePage(root, "big");
  const profile = join(folder, "profile");
  const context = await chromium.launchPersistentContext(profile, {
    executablePath: findChromium() ?? undefined,
    args: chromiumArguments,
  });
  try {
    const [page, heaps] = await openPage(context, served.url);
    await page.setInputFiles("#files", files);
    const imported = await page.evaluate((form): Promise<Imported> => globalThis.importChosen(form), storage);
    say(`checked (SHA-256): ${seconds(imported.seconds.checking)}`);
    say(`converted to ${storage}: ${seconds(imported.seconds.converting)}`);
    say(`peak JavaScript heap, buffers included, while it was brought in: ${megabytes(heaps.peakBytes())}`);
    const tried = await page.evaluate(
      async ([id, prompt]) => {
        const { logits, ...rest } = await globalThis.tryModel(id, prompt);
        return { ...rest, logits: [...logits] };
      },
      [imported.id, PROMPT] as const,
    );
    tell(tried);
    return { ...tried, logits: Float32Array.from(tried.logits) };
  } finally {
    await context.close();
    await served.close();
  }
}

function tell({
  backend,
  seconds: taken,
  plannedBytes,
  tokens,
  losses,
}: Omit<Tried, "logits"> & { logits: number[] }): void {
  say(`backend: ${backend}`);
  say(`loaded: ${seconds(taken.load)}`);
  say(`logits of ${PROMPT.length} tokens: ${seconds(taken.logits)}`);
  say(`4 tokens: ${seconds(taken.generate)} (${tokens.join(" ")})`);
  say(`a LoRA step at sequence 64, planned at ${gigabytes(plannedBytes)}: ${seconds(taken.step)}`);
  say(`loss: ${losses.map((loss) => loss.toFixed(4)).join(", then ")}`);
  if (!(losses[1] < losses[0])) throw new Error("The loss did not fall from one step to the next.");
}

async function openPage(context: BrowserContext, url: string): Promise<[Page, HeapWatch]> {
  const page = await context.newPage();
  page.on("pageerror", (error) => say(`page: ${error.message}`));
  const heaps = await watchHeaps(page);
  await page.goto(url);
  return [page, heaps];
}

/** The same prompt in llama.cpp, on the values that the kept matrices stand for, in float16. */
async function compare(folder: string, storage: "int4" | "int8", ours: Float32Array): Promise<void> {
  const names = readdirSync(join(folder, CHECKPOINT));
  const { config, parts, weights } = openCheckpoint(names.map((name) => diskSource(join(folder, CHECKPOINT, name))));
  const kept = join(folder, "kept.safetensors");
  await writeFile(kept, (sink) => conversionOf(weights, storage).write(sink));
  const gguf = join(folder, "kept.gguf");
  const { tokenizer, tokenizerConfig } = parts;
  const tensors = plainWeights(openKept(diskSource(kept), storage), storage);
  await writeFile(gguf, async (sink) => {
    await writeGguf({ config, tokenizer, tokenizerConfig, tensors, name: "big" }, "F16", sink);
  });
  const llama = await openLlamaCpp();
  const model = await llama.load(gguf);
  const theirs = (await model.logits(PROMPT)).at(-1)!;
  await model.dispose();
  const difference = ours.reduce((most, value, i) => Math.max(most, Math.abs(value - theirs[i])), 0);
  const best = (values: Float32Array): number => values.reduce((top, value, i) => (value > values[top] ? i : top), 0);
  say(
    `llama.cpp: largest difference of a logit ${difference.toExponential(1)} (at most ${TOLERANCE}), likeliest token ${best(theirs)}, ours ${best(ours)}`,
  );
  if (!(difference <= TOLERANCE)) throw new Error("llama.cpp computes other logits.");
}

/** Every matrix as the float32 values that it stands for. */
function plainWeights(kept: KeptWeights, format: PackedFormat): Weights {
  return {
    tensors: kept.tensors,
    read(name, rows) {
      const { shape, dtype } = kept.tensors.get(name)!;
      if (dtype === "F32") return kept.read(name, rows);
      const [from, to] = rows ?? [0, shape[0]];
      const own: [number, number] = [to - from, shape[1]];
      const words = new Int32Array(wordCount(format, own));
      placeRows(kept.packed(name, format, [from, to])!, shape[1], words, own, format, [0, 0]);
      return unpackWords(words, own, format);
    },
  };
}

async function writeFile(path: string, write: (sink: { write(bytes: Uint8Array): Promise<void> }) => Promise<void>) {
  const file = await open(path, "w");
  try {
    await write({ write: async (bytes) => void (await file.write(bytes)) });
  } finally {
    await file.close();
  }
}

const seconds = (count: number): string => `${count.toFixed(1)} s`;
const megabytes = (bytes: number): string => `${(bytes / 1e6).toFixed(0)} MB`;
const gigabytes = (bytes: number): string => `${(bytes / 1e9).toFixed(2)} GB`;

await endWith(main);
