// The model for llama.cpp, Ollama and LM Studio.

import { type PreparedWeights, writeGguf } from "../../formats/gguf.ts";
import { writeGgufAdapter } from "../../formats/ggufAdapter.ts";
import { chatFormOf, modelfile } from "../../formats/modelfile.ts";
import type { Adapter } from "../../formats/peftAdapter.ts";
import type { CheckpointTensor } from "../../models/weights.ts";
import type { CheckpointToWrite } from "./checkpoint.ts";
import type { Folder } from "./folder.ts";
import type { Exports } from "../../protocol/recipe.ts";

export interface GgufToWrite extends Pick<CheckpointToWrite, "config" | "parts" | "tokenizer"> {
  name: string;
  /** Asked for anew for each file. */
  tensors: () => CheckpointTensor[];
  types: Exports["gguf"];
}

/** A file for each type and a Modelfile for the first. Resolves with what is to be known of them. */
export async function writeGgufFiles(folder: Folder, model: GgufToWrite): Promise<string[]> {
  const { name, config, parts, types } = model;
  const notes = new Set<string>();
  for (const type of types) {
    const { tokenizer, tokenizerConfig } = parts;
    const tensors = weightsOf(model.tensors());
    const found = await folder.stream(fileName(name, type), (sink) =>
      writeGguf({ name, config, tokenizer, tokenizerConfig, tensors }, type, sink),
    );
    for (const note of found) notes.add(note);
  }
  const text = modelfileFor(model);
  if (text instanceof Error) notes.add(`There is no Modelfile. ${text.message}`);
  else await folder.write("Modelfile", text);
  return [...notes];
}

/** For llama.cpp to add to the base that the person already has. */
export async function writeGgufAdapterFile(
  folder: Folder,
  { name, config }: Pick<GgufToWrite, "name" | "config">,
  adapter: Adapter,
): Promise<void> {
  await folder.stream(fileName(name, "adapter"), (sink) => writeGgufAdapter({ name, config, adapter }, sink));
}

export function fileName(name: string, type: string): string {
  return `${name.replace(/[^\p{L}\p{N}._-]+/gu, "-").replace(/^[-.]+/, "") || "model"}-${type}.gguf`;
}

/** Longest conversation that Ollama is told to hold, however long the model's own may be: its memory grows with it. */
const MOST_CONTEXT = 8192;
/** What DeepSeek advises for models that reason: without chance they fall into repetitions. */
const TEMPERATURE = 0.6;

function modelfileFor({ name, config, parts, tokenizer, types }: GgufToWrite): string | Error {
  const { temperature } = (parts.generationConfig ?? {}) as { temperature?: unknown };
  try {
    return modelfile({
      ...chatFormOf(tokenizer.chat?.source ?? ""),
      gguf: fileName(name, types[0]),
      temperature: typeof temperature === "number" ? temperature : TEMPERATURE,
      contextLength: Math.min(config.maxPositionEmbeddings, MOST_CONTEXT),
    });
  } catch (error) {
    return error as Error;
  }
}

/** Tensors that leave the device when they are to be written, as weights to be read by rows. */
function weightsOf(tensors: CheckpointTensor[]): PreparedWeights {
  const byName = new Map(tensors.map((tensor) => [tensor.name, tensor]));
  const held = new Map<string, Float32Array>();
  return {
    tensors: new Map(tensors.map(({ name, shape }) => [name, { shape, dtype: "F32" }])),
    async prepare(names) {
      held.clear();
      for (const name of names) held.set(name, await byName.get(name)!.values());
    },
    read(name, rows) {
      const values = held.get(name);
      if (!values) throw new Error(`${name} was to be read and was not fetched.`);
      const [count] = byName.get(name)!.shape;
      const columns = values.length / count;
      return rows ? values.subarray(rows[0] * columns, rows[1] * columns) : values;
    },
  };
}
