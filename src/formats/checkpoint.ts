// The files of a checkpoint as a person has them, a folder from a hub or one .gguf, opened as one thing.

import { readBlockSize } from "./blockScales.ts";
import type { ByteSource, Weights } from "./bytes.ts";
import { openGguf } from "./gguf.ts";
import { type ModelConfig, readConfig } from "./hfConfig.ts";
import { openSafetensors } from "./safetensors.ts";

/** What lies beside a checkpoint's weights, parsed or as text: of what is optional null where it is not there. */
export interface CheckpointParts {
  /** config.json */
  config: unknown;
  /** tokenizer.json */
  tokenizer: unknown;
  /** tokenizer_config.json */
  tokenizerConfig: unknown;
  /** The text of chat_template.jinja. */
  chatTemplate: string | null;
  /** chat_template.json */
  chatTemplateJson: unknown;
  /** generation_config.json */
  generationConfig: unknown;
  /** The text of README.md, the model's card. */
  card: string | null;
}

/** Where there is nothing but what each checkpoint has. */
export const NOTHING_BESIDE = { chatTemplate: null, chatTemplateJson: null, generationConfig: null, card: null };

export interface OpenCheckpoint {
  parts: CheckpointParts;
  config: ModelConfig;
  weights: Weights;
  /** The files that hold the weights. */
  weightFiles: ByteSource[];
}

const LARGEST_TEXT = 100_000_000; // Bytes; the largest tokenizer.json known has 34 million.

/**
 * Open the files of one checkpoint; others, such as a README, are passed over. Nothing of the weights is read but headers.
 *
 * Throws a sentence for what is missing, damaged or not supported.
 */
export function openCheckpoint(files: ByteSource[]): OpenCheckpoint {
  const gguf = files.filter(({ name }) => name.toLowerCase().endsWith(".gguf"));
  if (gguf.length > 0) return openOneGguf(gguf, files);
  const parts = readParts(files);
  const config = readConfig(parts.config);
  const weightFiles = files.filter(({ name }) => name.endsWith(".safetensors") && !name.startsWith("adapter_"));
  if (weightFiles.length === 0) throw noWeights(files);
  const index = readJson(files, "model.safetensors.index.json") ?? undefined;
  return { parts, config, weights: openSafetensors(weightFiles, index, readBlockSize(parts.config)), weightFiles };
}

function openOneGguf(gguf: ByteSource[], files: ByteSource[]): OpenCheckpoint {
  if (gguf.length > 1 || files.some(({ name }) => name.endsWith(".safetensors"))) {
    throw new Error(
      `${gguf.map(({ name }) => name).join(", ")} cannot be opened together with other weights. Choose one .gguf file alone, or a folder without.`,
    );
  }
  const { weights, ...parts } = openGguf(gguf[0]);
  return { parts: { ...NOTHING_BESIDE, ...parts }, config: readConfig(parts.config), weights, weightFiles: gguf };
}

function readParts(files: ByteSource[]): CheckpointParts {
  const needed = (name: string): unknown => {
    const json = readJson(files, name);
    if (json !== null) return json;
    throw new Error(`The chosen files have no ${name}. Choose the checkpoint's whole folder.`);
  };
  const text = (name: string): string | null => {
    const file = files.find((one) => one.name === name);
    return file ? readText(file) : null;
  };
  return {
    config: needed("config.json"),
    tokenizer: needed("tokenizer.json"),
    tokenizerConfig: needed("tokenizer_config.json"),
    chatTemplate: text("chat_template.jinja"),
    chatTemplateJson: readJson(files, "chat_template.json"),
    generationConfig: readJson(files, "generation_config.json"),
    card: text("README.md"),
  };
}

/** Null where there is no such file. */
function readJson(files: ByteSource[], name: string): unknown {
  const file = files.find((one) => one.name === name);
  if (!file) return null;
  try {
    return JSON.parse(readText(file));
  } catch (error) {
    throw new Error(`${name} is not JSON (${(error as Error).message}). Fetch the checkpoint's own file again.`, {
      cause: error,
    });
  }
}

function readText(file: ByteSource): string {
  if (file.size > LARGEST_TEXT) {
    throw new Error(
      `${file.name} has ${file.size} bytes, and at most ${LARGEST_TEXT} are read. Choose the checkpoint's own.`,
    );
  }
  return new TextDecoder("utf-8", { fatal: true }).decode(file.read(0, file.size));
}

function noWeights(files: ByteSource[]): Error {
  const old = files.find(({ name }) => /\.(bin|pt|pth|ckpt)$/.test(name));
  return new Error(
    old
      ? `${old.name} holds weights in PyTorch's own format, which can run code and is not read. Fetch the checkpoint's .safetensors files.`
      : "The chosen files have no weights (.safetensors or .gguf). Choose the checkpoint's whole folder.",
  );
}
