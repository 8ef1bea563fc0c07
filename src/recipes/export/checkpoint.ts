// A checkpoint as Hugging Face's libraries expect it in a folder: config, weights in one file or several, tokenizer, template.

import type { Tokenizer } from "../../data/tokenizer.ts";
import type { CheckpointParts } from "../../formats/checkpoint.ts";
import { type ModelConfig, writeConfig } from "../../formats/hfConfig.ts";
import { encodeFloat32, type WrittenDtype } from "../../formats/numbers.ts";
import { type StreamedTensor, writeSafetensors } from "../../formats/safetensors.ts";
import { splitIntoShards } from "../../formats/shards.ts";
import type { CheckpointTensor } from "../../models/weights.ts";
import type { Exports } from "../../protocol/recipe.ts";
import type { Folder } from "./folder.ts";

export interface CheckpointToWrite {
  config: ModelConfig;
  /** To be read once, in this order. */
  tensors: CheckpointTensor[];
  /** What lay beside the base model. */
  parts: CheckpointParts;
  tokenizer: Tokenizer;
  exports: Pick<Exports, "dtype" | "mostShardBytes">;
}

export async function writeCheckpoint(folder: Folder, checkpoint: CheckpointToWrite): Promise<void> {
  const { config, tensors, exports } = checkpoint;
  await folder.write("config.json", configJson(config, exports.dtype));
  const typed = typedTensors(tensors, WRITTEN[exports.dtype]);
  const { shards, index } = splitIntoShards(typed, exports.mostShardBytes);
  for (const shard of shards) await folder.stream(shard.file, (sink) => writeSafetensors(shard.tensors, sink));
  if (index) await folder.write("model.safetensors.index.json", index);
  await writeBeside(folder, checkpoint);
}

const WRITTEN: Record<Exports["dtype"], WrittenDtype> = { f32: "F32", f16: "F16", bf16: "BF16" };
const NAMES: Record<Exports["dtype"], string> = { f32: "float32", f16: "float16", bf16: "bfloat16" };

/** As transformers 4 and 5 read it: the one knows torch_dtype, the other dtype. */
function configJson(config: ModelConfig, dtype: Exports["dtype"]): Record<string, unknown> {
  // auto_map names programs beside the original weights, which are not here and not needed.
  const { auto_map: _, ...json } = writeConfig(config);
  return { ...json, torch_dtype: NAMES[dtype], dtype: NAMES[dtype] };
}

/** In the type asked for. The router's bias stays float32 whatever the rest is, as every program expects it. */
export function typedTensors(tensors: CheckpointTensor[], dtype: WrittenDtype): StreamedTensor[] {
  return tensors.map(({ name, shape, values }) => {
    const stored = name.endsWith("e_score_correction_bias") ? "F32" : dtype;
    return { name, dtype: stored, shape, bytes: () => encoded(name, stored, values) };
  });
}

const PIECE_VALUES = 1 << 21;

async function* encoded(
  name: string,
  dtype: WrittenDtype,
  values: CheckpointTensor["values"],
): AsyncGenerator<Uint8Array> {
  const all = await values();
  for (let from = 0; from < all.length; from += PIECE_VALUES) {
    const piece = all.subarray(from, from + PIECE_VALUES);
    try {
      yield encodeFloat32(piece, dtype);
    } catch (error) {
      throw new Error(`${name}: ${(error as Error).message}`, { cause: error });
    }
  }
}

/** The template goes where both old and new programs look for it. */
async function writeBeside(folder: Folder, { config, parts, tokenizer }: CheckpointToWrite): Promise<void> {
  const { bosTokenId } = config;
  const { ends } = tokenizer.control;
  const ownEnds = ends.length === 1 ? ends[0] : ends;
  const generation = { ...(bosTokenId === null ? {} : { bos_token_id: bosTokenId }), eos_token_id: ownEnds };
  await folder.write("generation_config.json", parts.generationConfig ?? generation);
  await folder.write("tokenizer.json", parts.tokenizer as object);
  const template = tokenizer.chat?.source;
  await folder.write("tokenizer_config.json", withTemplate(parts.tokenizerConfig as Record<string, unknown>, template));
  if (template !== undefined) await folder.write("chat_template.jinja", template);
}

/** Several named templates stay as they are: the one in use is among them. */
function withTemplate(config: Record<string, unknown>, template: string | undefined): Record<string, unknown> {
  return template === undefined || Array.isArray(config.chat_template)
    ? config
    : { ...config, chat_template: template };
}
