// `npm run verify:gguf`: what we export as GGUF, run by llama.cpp, against our own run of it.

import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { open } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { openTokenizer } from "../data/tokenizer.ts";
import { startBackend } from "../engine/backend.ts";
import { placeLogits } from "../evaluation/placeLogits.ts";
import { sourceOf, type ByteSink, type Weights } from "../formats/bytes.ts";
import { openGguf, writeGguf } from "../formats/gguf.ts";
import { writeGgufAdapter } from "../formats/ggufAdapter.ts";
import { BLOCKS, bytesOf, encodeBlocks, type WrittenType } from "../formats/ggufBlocks.ts";
import { modelMetadata } from "../formats/ggufConfig.ts";
import { type Metadata, writeGgufFile } from "../formats/ggufFile.ts";
import { placementsOf, staysFloat32 } from "../formats/ggufNames.ts";
import { tokenizerMetadata } from "../formats/ggufTokenizer.ts";
import { type ModelConfig, readConfig } from "../formats/hfConfig.ts";
import { type Adapter, adapterScale, readAdapter } from "../formats/peftAdapter.ts";
import { openSafetensors } from "../formats/safetensors.ts";
import { generate } from "../models/generate.ts";
import { disposeModel, loadModelFrom } from "../models/weights.ts";
import { type Random, randomStream } from "../recipes/random.ts";
import { endWith, readArguments } from "./arguments.ts";
import { type LlamaModel, openLlamaCpp } from "./llamaCpp.ts";
import { enableRelaxedSimd } from "./relaxedSimd.ts";
import { nodeThreads } from "./threads.ts";
import { wasmUrl } from "./wasmUrl.ts";

/**
 * The largest median divergence (nats at a place) allowed between llama.cpp and our run of the same decoded weights. llama.cpp
 * rounds activations too: to float16 before products with F16, to blocks of int8 before those with Q8_0 and Q4_0. The median,
 * because where two experts are nearly tied that rounding chooses another one, and a few places then differ by far.
 */
const MOST_DIVERGENCE: Record<WrittenType, number> = { F32: 1e-9, F16: 1e-5, Q8_0: 5e-3, Q4_0: 5e-3 };
/** The largest difference of a log-probability in float32. */
const MOST_DIFFERENCE = 1e-3;
const GREEDY_TOKENS = 32;
/** Types that are read and not written: where a block's float16 scales lie, and of what bits they are for weights below 1. */
const READ_ONLY = {
  Q4_1: { scales: [0, 2], bits: 0x1c00 },
  Q5_0: { scales: [0], bits: 0x1c00 },
  Q5_1: { scales: [0, 2], bits: 0x1c00 },
  Q4_K: { scales: [0, 2], bits: 0x0800 },
  Q5_K: { scales: [0, 2], bits: 0x0800 },
  Q6_K: { scales: [208], bits: 0x0200 },
};
type ReadOnly = keyof typeof READ_ONLY;
/** Rows of whole blocks of 256. */
const WIDE = { hidden_size: 256, intermediate_size: 512, num_hidden_layers: 1, num_attention_heads: 4 };
const TYPES: WrittenType[] = ["F32", "F16", "Q8_0", "Q4_0"];
const FIXTURES = join("tests", "fixtures");
const NANO = join("public", "models", "deepseek-nano");

const HELP = `Export models as GGUF, run them in llama.cpp and compare with our own run of them.

  npm run verify:gguf

Every model of ${FIXTURES} and ${NANO} as ${TYPES.join(", ")}: log-probabilities at every place of its prompts and
of ${GREEDY_TOKENS} greedy tokens after them; the tokens that llama.cpp would have chosen there; the LoRA adapter of a fixture, applied
there and merged here; types that are only read (${Object.keys(READ_ONLY).join(", ")}) as random blocks;
texts cut into tokens. Ours runs on WebAssembly with the weights read back from the file.
Exit codes: 0 all within tolerance, 1 not, or llama.cpp is not installed.
`;

interface Subject {
  name: string;
  config: ModelConfig;
  tokenizer: unknown;
  tokenizerConfig: unknown;
  tensors: Weights;
  prompts: number[][];
}

interface Row {
  what: string;
  /** Largest difference of a log-probability, and median divergence in nats. */
  difference: number;
  divergence: number;
  /** Of the greedy tokens, the share that llama.cpp chooses too. */
  agreed: number;
  /** Greedy tokens on which both differ although ours was no near tie. */
  wrong: number;
  passed: boolean;
}

await endWith(async () => {
  const { values } = readArguments({ options: { help: { type: "boolean", short: "h" } }, args: process.argv.slice(2) });
  if (values.help) {
    process.stdout.write(HELP);
    return 0;
  }
  const llama = await openLlamaCpp();
  enableRelaxedSimd();
  await startBackend({ prefer: "wasm", wasmUrl: wasmUrl(), threads: nodeThreads() });
  const folder = mkdtempSync(join(tmpdir(), "espalier-gguf-"));
  try {
    const rows: Row[] = [];
    process.stdout.write(line(["model", "largest difference", "median divergence", "greedy tokens", ""]));
    const add = (row: Row) => {
      rows.push(row);
      process.stdout.write(rowLine(row));
    };
    for (const subject of subjects()) {
      for (const type of TYPES) add(await verifyModel(subject, type, join(folder, `${type}.gguf`), llama.load));
    }
    for (const type of Object.keys(READ_ONLY) as ReadOnly[]) {
      add(await verifyDecoding(type, join(folder, `${type}.gguf`), llama.load));
    }
    add(await verifyAdapter(join(FIXTURES, "qwen2-tiny"), folder, llama.load));
    const texts = await verifyTokenizer(folder, llama.load);
    process.stdout.write(texts.line);
    return rows.every(({ passed }) => passed) && texts.passed ? 0 : 1;
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
});

function subjects(): Subject[] {
  const fixtures = readdirSync(FIXTURES).filter((name) => existsSync(join(FIXTURES, name, "config.json")));
  return [...fixtures.map((name) => fixture(join(FIXTURES, name), name)), nano()];
}

function nano(): Subject {
  const [tokenizer, tokenizerConfig] = [json(NANO, "tokenizer.json"), json(NANO, "tokenizer_config.json")];
  const opened = openTokenizer(tokenizer, tokenizerConfig);
  const prompts = [
    "<｜begin▁of▁sentence｜><｜User｜>What is 12 and 7?<｜Assistant｜><think>\n",
    "<｜begin▁of▁sentence｜><｜User｜>今天天气怎么样？<｜Assistant｜>",
  ];
  return {
    ...weightsAndConfig(NANO, "deepseek-nano"),
    tokenizer,
    tokenizerConfig,
    prompts: prompts.map((prompt) => opened.encodeTemplate(prompt)),
  };
}

/** Fixtures have no tokenizer: theirs is a toy of as many tokens. */
function fixture(folder: string, name: string): Subject {
  const base = weightsAndConfig(folder, name);
  const expected = { ...json(folder.replace(/-bf16$/, ""), "expected.json"), ...json(folder, "expected.json") };
  const { input_ids: ids, attention_mask: mask } = expected as { input_ids: number[][]; attention_mask: number[][] };
  const prompts = ids.map((row, b) => row.filter((_, t) => mask[b][t] === 1));
  const [tokenizer, tokenizerConfig] = toyFiles(base.config.vocabSize);
  return { ...base, tokenizer, tokenizerConfig, prompts };
}

function weightsAndConfig(folder: string, name: string): Pick<Subject, "name" | "config" | "tensors"> {
  const files = readdirSync(folder).filter((file) => /^model.*\.safetensors$/.test(file));
  const sources = files.map((file) => sourceOf(readFileSync(join(folder, file)), file));
  const index = sources.length > 1 ? json(folder, "model.safetensors.index.json") : undefined;
  const tensors = openSafetensors(sources, index);
  return { name, config: readConfig(json(folder, "config.json")), tensors };
}

/** Bytes, one merge, the two ends of a text. */
function toyFiles(vocabSize: number): [tokenizer: unknown, tokenizerConfig: unknown] {
  const [bos, eos] = ["<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>"];
  const kept = (byte: number) => (byte > 32 && byte < 127) || (byte > 160 && byte !== 173);
  const moved = Array.from({ length: 256 }, (_, byte) => byte).filter((byte) => !kept(byte));
  const symbols = Array.from({ length: 256 }, (_, byte) =>
    String.fromCodePoint(kept(byte) ? byte : 256 + moved.indexOf(byte)),
  );
  const tokens = [bos, eos, "ab", ...symbols].slice(0, vocabSize);
  const split =
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";
  const tokenizer = {
    added_tokens: [bos, eos].map((content, id) => ({ id, content, special: true })),
    normalizer: null,
    pre_tokenizer: { type: "Split", pattern: { Regex: split }, behavior: "Isolated", invert: false },
    model: { type: "BPE", vocab: Object.fromEntries(tokens.map((token, id) => [token, id])), merges: ["a b"] },
  };
  return [tokenizer, { bos_token: bos, eos_token: eos }];
}

type Load = (path: string) => Promise<LlamaModel>;

async function verifyModel(subject: Subject, type: WrittenType, path: string, load: Load): Promise<Row> {
  await writeTo(path, async (sink) => {
    await writeGguf(subject, type, sink);
  });
  const opened = openGguf(sourceOf(readFileSync(path), path));
  const theirs = await load(path);
  try {
    return await compare(`${subject.name} ${type}`, type, subject.prompts, opened, (ids) => theirs.logits(ids));
  } finally {
    await theirs.dispose();
  }
}

/** Random blocks, decoded by llama.cpp and by us. */
async function verifyDecoding(type: ReadOnly, path: string, load: Load): Promise<Row> {
  const config = readConfig({ ...json(join(FIXTURES, "qwen2-tiny"), "config.json"), ...WIDE });
  const placements = placementsOf(config);
  const tokenizer = tokenizerMetadata(config, ...toyFiles(config.vocabSize));
  const metadata: Metadata = new Map([
    ["general.architecture", { type: "string", value: "qwen2" }],
    ...modelMetadata(config),
    ...tokenizer.entries,
  ]);
  const random = randomStream("blocks", type);
  const tensors = placements.map((placement) => {
    const { name, shape } = placement;
    const values = shape.reduce((product, size) => product * size, 1);
    if (!staysFloat32(placement)) return { name, type, shape, pieces: () => [randomBlocks(type, values, random)] };
    const plain = encodeBlocks("F32", new Float32Array(values).fill(name.endsWith("norm.weight") ? 1 : 0.1));
    return { name, type: "F32" as const, shape, pieces: () => [plain] };
  });
  await writeTo(path, (sink) => writeGgufFile(metadata, tensors, sink));
  const opened = openGguf(sourceOf(readFileSync(path), path));
  const theirs = await load(path);
  try {
    const prompt = Array.from({ length: 20 }, (_, i) => (37 * i) % config.vocabSize);
    return await compare(`random blocks ${type}`, "Q8_0", [prompt], opened, (ids) => theirs.logits(ids));
  } finally {
    await theirs.dispose();
  }
}

function randomBlocks(type: ReadOnly, values: number, random: Random): Uint8Array {
  const bytes = Uint8Array.from({ length: bytesOf(type, values) }, () => random.integer(256));
  const { scales, bits } = READ_ONLY[type];
  for (let block = 0; block < bytes.length; block += BLOCKS[type].bytes) {
    for (const at of scales) bytes.set([bits & 255, bits >> 8], block + at);
  }
  return bytes;
}

/** Applied by llama.cpp to the base, and merged into the weights here. */
async function verifyAdapter(folder: string, out: string, load: Load): Promise<Row> {
  const subject = fixture(folder, "qwen2-tiny");
  const lora = join(folder, "lora");
  const adapter = readAdapter(json(lora, "adapter_config.json"), readFileSync(join(lora, "adapter_model.safetensors")));
  // As it comes its B is small: it is given more to say, and ranks scaled by their roots.
  const modules = new Map(
    [...adapter.modules].map(([name, pair]) => [
      name,
      { ...pair, b: pair.b.map((value, i) => value + 0.05 * Math.sin(i + 1)) },
    ]),
  );
  const louder = { ...adapter, rsLora: true, modules };
  const [base, path] = [join(out, "base.gguf"), join(out, "adapter.gguf")];
  await writeTo(base, async (sink) => {
    await writeGguf(subject, "F32", sink);
  });
  await writeTo(path, (sink) => writeGgufAdapter({ name: "adapter", config: subject.config, adapter: louder }, sink));
  const opened = openGguf(sourceOf(readFileSync(base), base));
  const merged = { ...opened, weights: mergedWeights(opened.weights, louder) };
  const theirs = await load(base);
  try {
    return await compare("qwen2-tiny F32 + adapter", "F32", subject.prompts, merged, (ids) => theirs.logits(ids, path));
  } finally {
    await theirs.dispose();
  }
}

function mergedWeights(weights: Weights, { modules, rsLora }: Adapter): Weights {
  const read: Weights["read"] = (name, rows) => {
    const values = weights.read(name, rows);
    const pair = modules.get(name.replace(/\.weight$/, ""));
    if (!pair) return values;
    const { a, b, rank, in: width } = pair;
    const first = rows?.[0] ?? 0;
    return values.map((value, i) => {
      const [o, x] = [first + Math.floor(i / width), i % width];
      let sum = 0;
      for (let r = 0; r < rank; r++) sum += b[o * rank + r] * a[r * width + x];
      return value + adapterScale(pair, rsLora) * sum;
    });
  };
  return { tensors: weights.tensors, read };
}

/** Every prompt continued by our greedy tokens, seen by both. */
async function compare(
  what: string,
  type: WrittenType,
  prompts: number[][],
  { config: configJson, weights }: { config: unknown; weights: Weights },
  theirs: (ids: number[]) => Promise<Float32Array[]>,
): Promise<Row> {
  const config = readConfig(configJson);
  const model = loadModelFrom(config, weights);
  const row: Row = { what, difference: 0, divergence: 0, agreed: 0, wrong: 0, passed: false };
  const divergences: number[] = [];
  try {
    const options = { maxNewTokens: GREEDY_TOKENS, eosTokenId: -1 };
    const replies = await generate(
      model,
      prompts.map((prompt) => Int32Array.from(prompt)),
      options,
    );
    for (const [p, prompt] of prompts.entries()) {
      const ids = [...prompt, ...replies[p]];
      const ours = await placeLogits(model, ids);
      const other = await theirs(ids);
      for (const [t, logit] of other.entries()) {
        const mine = ours.subarray(t * config.vocabSize, (t + 1) * config.vocabSize);
        const { difference, divergence } = apart(logProbabilities(mine), logProbabilities(logit));
        row.difference = Math.max(row.difference, difference);
        divergences.push(divergence);
        if (t < prompt.length - 1 || t === ids.length - 1) continue;
        const [own, their] = [ids[t + 1], highest(logit)];
        row.agreed += Number(own === their);
        // A near tie may fall either way: no further apart than the two runs are.
        row.wrong += Number(mine[own] - mine[their] > 2 * difference);
      }
    }
  } finally {
    disposeModel(model);
  }
  row.agreed /= prompts.length * GREEDY_TOKENS;
  row.divergence = divergences.toSorted((a, b) => a - b)[divergences.length >> 1];
  row.passed =
    row.divergence <= MOST_DIVERGENCE[type] && row.wrong === 0 && (type !== "F32" || row.difference <= MOST_DIFFERENCE);
  return row;
}

/** The largest difference among what is not negligible, and the divergence (Kullback-Leibler) of theirs from ours. */
function apart(ours: Float64Array, theirs: Float64Array): { difference: number; divergence: number } {
  let [difference, divergence] = [0, 0];
  for (let v = 0; v < ours.length; v++) {
    const delta = ours[v] - theirs[v];
    difference = Math.max(difference, Math.abs(delta));
    divergence += Math.exp(ours[v]) * delta;
  }
  return { difference, divergence };
}

function logProbabilities(logit: Float32Array): Float64Array {
  const most = logit[highest(logit)];
  let sum = 0;
  for (const value of logit) sum += Math.exp(value - most);
  return Float64Array.from(logit, (value) => value - most - Math.log(sum));
}

function highest(values: Float32Array): number {
  let best = 0;
  for (let i = 1; i < values.length; i++) if (values[i] > values[best]) best = i;
  return best;
}

/** The same texts cut by llama.cpp and by us. */
async function verifyTokenizer(folder: string, load: Load): Promise<{ line: string; passed: boolean }> {
  const subject = nano();
  const path = join(folder, "tokenizer.gguf");
  await writeTo(path, async (sink) => {
    await writeGguf(subject, "F16", sink);
  });
  const ours = openTokenizer(subject.tokenizer, subject.tokenizerConfig);
  const texts = readFileSync("README.md", "utf8")
    .split("\n")
    .concat(
      "The quick brown fox 1234",
      "在北京的12月34日，3.14159！",
      "a\r\n\r\n\tb  c   \n",
      "🚀 👩‍💻 ½ ² ①②③ é",
      "don't WE'LL __init__(x=0x1F)",
    )
    .filter((text) => text !== "");
  const theirs = await load(path);
  const differing = texts.filter((text) => theirs.tokenize(text).join() !== ours.encodeText(text).join());
  await theirs.dispose();
  const end = differing.length === 0 ? "" : `, the first ${JSON.stringify(differing[0])}`;
  return {
    line: `\n${texts.length - differing.length} of ${texts.length} texts are cut into the same tokens${end}\n`,
    passed: differing.length === 0,
  };
}

async function writeTo(path: string, write: (sink: ByteSink) => Promise<void>): Promise<void> {
  const file = await open(path, "w");
  try {
    await write({
      write: async (bytes) => {
        await file.write(bytes);
      },
    });
  } finally {
    await file.close();
  }
}

function json(folder: string, file: string): Record<string, unknown> {
  return JSON.parse(readFileSync(join(folder, file), "utf8")) as Record<string, unknown>;
}

function rowLine({ what, difference, divergence, agreed, wrong, passed }: Row): string {
  const greedy = `${(100 * agreed).toFixed(1)} %${wrong > 0 ? `, ${wrong} wrong` : ""}`;
  return line([what, difference.toExponential(1), divergence.toExponential(1), greedy, passed ? "" : "too far"]);
}

function line(cells: string[]): string {
  const widths = [34, 20, 19, 16, 0];
  return `${cells
    .map((cell, i) => cell.padEnd(widths[i]))
    .join("")
    .trimEnd()}\n`;
}
