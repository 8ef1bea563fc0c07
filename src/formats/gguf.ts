// A model as one GGUF file, which llama.cpp, Ollama and LM Studio run <-> a checkpoint as Hugging Face has it.

import type { ByteSink, ByteSource, Weights } from "./bytes.ts";
import type { BlockType, WrittenType } from "./ggufBlocks.ts";
import {
  architectureOf,
  configJson,
  modelMetadata,
  notesForLlamaCpp,
  readArchitecture,
  text,
  u32,
} from "./ggufConfig.ts";
import { type GgufFile, type GgufTensor, type Metadata, readGgufFile, writeGgufFile } from "./ggufFile.ts";
import { copiesOf, type Placement, placementsOf, staysFloat32 } from "./ggufNames.ts";
import { fitsBlocks, piecesOf, weightsOf } from "./ggufTensors.ts";
import { tokenizerFiles, tokenizerMetadata } from "./ggufTokenizer.ts";
import { type ModelConfig, readConfig } from "./hfConfig.ts";

export interface OpenedGguf {
  /** As config.json has it. */
  config: Record<string, unknown>;
  /** tokenizer.json */
  tokenizer: Record<string, unknown>;
  /** tokenizer_config.json, the chat template in it. */
  tokenizerConfig: Record<string, unknown>;
  weights: Weights;
}

/**
 * Open a model of the architectures qwen2 and deepseek2. Throws one sentence for any other, for a tensor that is missing, has
 * another shape than the metadata say or is stored in a type that is not read, and for a damaged file.
 */
export function openGguf(source: ByteSource): OpenedGguf {
  const file = readGgufFile(source);
  refuseParts(source.name, file);
  readArchitecture(source.name, file.metadata);
  const embedding = file.tensors.get("token_embd.weight");
  if (!embedding) throw new Error(`${source.name} has no tensor "token_embd.weight" and so is no language model.`);
  const biased = [...file.tensors.keys()].some((name) => name.endsWith(".exp_probs_b.bias"));
  const facts = {
    vocabSize: embedding.shape[0],
    tied: !file.tensors.has("output.weight"),
    dtype: DTYPES[embedding.type] ?? "float16",
    biased,
  };
  const { bos, eos, tokenizer, tokenizerConfig } = tokenizerFiles(source.name, file.metadata);
  const config = configJson(source.name, file.metadata, facts, { bos, eos });
  const placements = placementsIn(source.name, file, readConfig(config));
  const weights = weightsOf(placements, (name) => {
    const { type, begin } = file.tensors.get(name)!;
    return { type, bytes: (from, to) => source.read(begin + from, begin + to) };
  });
  return { config, tokenizer, tokenizerConfig, weights };
}

export interface ModelToWrite {
  /** What people call it. */
  name: string;
  config: ModelConfig;
  /** tokenizer.json and tokenizer_config.json, parsed. */
  tokenizer: unknown;
  tokenizerConfig: unknown;
  tensors: PreparedWeights;
}

/** Weights that may have to be fetched from where they are, e.g. a GPU, before they can be read. */
export interface PreparedWeights extends Weights {
  /** Resolves when these can be read; others may then no longer be. */
  prepare?(names: string[]): Promise<void>;
}

/**
 * Write a model, tensor by tensor. Returns what is worth knowing of the file, a sentence each.
 *
 * Vectors and routers stay float32. What does not fill whole blocks of 32 is float16, and in a Q4_0 file the matrix that gives
 * the logits is Q8_0, as llama.cpp's own tool does for its quality. Throws one sentence, before anything is written, for
 * what llama.cpp cannot run.
 */
export async function writeGguf(model: ModelToWrite, type: WrittenType, sink: ByteSink): Promise<string[]> {
  const { name, config, tensors } = model;
  const notes = notesForLlamaCpp(config);
  const { entries, notes: tokenizerNotes } = tokenizerMetadata(config, model.tokenizer, model.tokenizerConfig);
  const placements = placementsOf(withoutPrediction(config));
  checkTensors(placements, tensors, config);
  const typed = placements.map((placement) => ({ placement, stored: storedType(placement, type, config) }));
  const metadata: Metadata = new Map([
    ["general.architecture", text(architectureOf(config))],
    ["general.type", text("model")],
    ["general.name", text(name)],
    ["general.file_type", u32(FILE_TYPES[type])],
    ...(type === "Q8_0" || type === "Q4_0" ? [["general.quantization_version", u32(2)] as const] : []),
    ...modelMetadata(config),
    ...entries,
  ]);
  await writeGgufFile(
    metadata,
    typed.map(({ placement, stored }) => ({
      name: placement.name,
      type: stored,
      shape: placement.shape,
      pieces: () => preparedPieces(placement, stored, tensors),
    })),
    sink,
  );
  return [...notes, ...tokenizerNotes, ...noteOnTypes(typed, type)];
}

async function* preparedPieces(
  placement: Placement,
  stored: WrittenType,
  tensors: PreparedWeights,
): AsyncGenerator<Uint8Array> {
  await tensors.prepare?.(placement.from);
  yield* piecesOf(placement, stored, tensors);
}

/** What config.json calls the types that weights are stored in before quantisation. */
const DTYPES: Partial<Record<BlockType, string>> = { F32: "float32", F16: "float16", BF16: "bfloat16" };

/** As many as llama.cpp reads. */
const MOST_EXPERTS = 1024;

/** general.file_type */
const FILE_TYPES: Record<WrittenType, number> = { F32: 0, F16: 1, Q4_0: 2, Q8_0: 7 };

function refuseParts(name: string, { metadata }: GgufFile): void {
  const count = Number(metadata.get("split.count")?.value ?? 1);
  if (count > 1) {
    throw new Error(
      `${name} is one of ${count} parts of a model, and one whole file is wanted. Join them by llama.cpp's llama-gguf-split --merge.`,
    );
  }
}

/** The tensors that the config asks for, each there in its shape, and no others. */
function placementsIn(name: string, { tensors }: GgufFile, config: ModelConfig): Placement[] {
  // Before names are made of what the metadata claim.
  const layers = config.numHiddenLayers + (config.family === "deepseek" ? config.numNextnPredictLayers : 0);
  const experts = config.family === "deepseek" ? config.nRoutedExperts : 0;
  if (layers > tensors.size || experts > MOST_EXPERTS) {
    throw new Error(
      `${name} claims ${layers} layers with ${experts} experts and has ${tensors.size} tensors. Copy or export the file again.`,
    );
  }
  const wholeKvB = tensors.has("blk.0.attn_kv_b.weight");
  const wanted = placementsOf(config, { wholeKvB });
  const copies = copiesOf(config).filter((copy) => tensors.has(copy.name));
  for (const placement of [...wanted, ...copies]) checkStored(name, placement, tensors.get(placement.name));
  const known = new Set([...wanted, ...copies].map((placement) => placement.name));
  const stranger = [...tensors.keys()].find((each) => !known.has(each));
  if (stranger !== undefined) {
    throw new Error(
      `${name} holds "${stranger}", which a model as its metadata describe it does not have. Choose a file that llama.cpp's own tools made.`,
    );
  }
  return [...wanted, ...copies];
}

function checkStored(name: string, { name: tensor, shape }: Placement, found: GgufTensor | undefined): void {
  if (!found) {
    throw new Error(`${name} has no tensor "${tensor}", which its metadata ask for. Copy or export the file again.`);
  }
  if (trimmed(found.shape) !== trimmed(shape)) {
    throw new Error(
      `${name}: "${tensor}" is [${found.shape}] and its metadata make it [${shape}]. Copy or export the file again.`,
    );
  }
}

/** Writers leave out outer axes of 1. */
function trimmed(shape: number[]): string {
  const first = shape.findIndex((size) => size !== 1);
  return shape.slice(first < 0 ? -1 : first).join();
}

function withoutPrediction(config: ModelConfig): ModelConfig {
  return config.family === "deepseek" ? { ...config, numNextnPredictLayers: 0 } : config;
}

/** Every tensor is there in its shape, and none is left that would change what the model computes. */
function checkTensors(placements: Placement[], { tensors }: Weights, config: ModelConfig): void {
  const left = new Set(tensors.keys());
  for (const { from, fromShape } of placements) {
    for (const name of from) {
      const shape = tensors.get(name)?.shape;
      if (shape?.join() !== fromShape.join()) {
        throw new Error(
          `The model's ${name} is ${shape ? `[${shape}]` : "missing"} and its config makes it [${fromShape}]. Choose the weights that belong to the config.`,
        );
      }
      left.delete(name);
    }
  }
  for (const name of left) {
    const layer = Number(/^model\.layers\.(\d+)\./.exec(name)?.[1] ?? -1);
    const dropped =
      layer >= config.numHiddenLayers || name === "lm_head.weight" || name.endsWith("rotary_emb.inv_freq");
    if (!dropped) {
      throw new Error(`The model has the tensor ${name}, for which GGUF has no place. Export safetensors instead.`);
    }
  }
}

function storedType(placement: Placement, type: WrittenType, config: ModelConfig): WrittenType {
  if (staysFloat32(placement)) return "F32";
  if (!fitsBlocks(placement, type)) return "F16";
  const head = config.tieWordEmbeddings ? "token_embd.weight" : "output.weight";
  return type === "Q4_0" && placement.name === head ? "Q8_0" : type;
}

function noteOnTypes(typed: { placement: Placement; stored: WrittenType }[], type: WrittenType): string[] {
  const larger = typed.filter(({ placement, stored }) => stored === "F16" && !fitsBlocks(placement, type));
  if (larger.length === 0) return [];
  const [{ placement }] = larger;
  return [
    `${larger.length} tensors are F16 because their rows are no whole blocks of 32, the first ${placement.name} with rows of ${placement.shape.at(-1)}.`,
  ];
}
