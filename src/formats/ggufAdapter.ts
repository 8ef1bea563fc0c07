// A LoRA adapter as a GGUF file, which llama.cpp adds to a base model while it runs. (src/llama-adapter.cpp)

import type { ByteSink } from "./bytes.ts";
import { encodeBlocks } from "./ggufBlocks.ts";
import { architectureOf, f32, text } from "./ggufConfig.ts";
import { type GgufTensorToWrite, type Metadata, writeGgufFile } from "./ggufFile.ts";
import { linearName } from "./ggufNames.ts";
import type { ModelConfig } from "./hfConfig.ts";
import { type Adapter, adapterScale, type LoraPair } from "./peftAdapter.ts";

export interface AdapterToWrite {
  /** What people call it. */
  name: string;
  /** Of the base model. */
  config: ModelConfig;
  adapter: Pick<Adapter, "rsLora" | "modules">;
}

/**
 * Write an adapter in float32. llama.cpp scales every module by one alpha over the module's own rank: where that is not the
 * module's scale (with rsLoRA, ranks or alphas of their own), B makes up for it.
 *
 * Throws for DeepSeek-V2 and V3, where llama.cpp leaves adapters of most matrices out without a word.
 */
export async function writeGgufAdapter({ name, config, adapter }: AdapterToWrite, sink: ByteSink): Promise<void> {
  if (config.family !== "qwen2") {
    throw new Error(
      "llama.cpp leaves out adapters of attention in DeepSeek-V2 and V3 without a word. Merge the adapter and export the model.",
    );
  }
  const alphaOf = (pair: LoraPair) => adapterScale(pair, adapter.rsLora) * pair.rank;
  const [first] = adapter.modules.values();
  if (!first) throw new Error("The adapter holds no weights. Train it first.");
  const alpha = alphaOf(first);
  const metadata: Metadata = new Map([
    ["general.architecture", text(architectureOf(config))],
    ["general.type", text("adapter")],
    ["general.name", text(name)],
    ["adapter.type", text("lora")],
    ["adapter.lora.alpha", f32(alpha)],
  ]);
  const tensors = [...adapter.modules].flatMap(([module, pair]) => {
    return pairOf(config, module, pair, alphaOf(pair) / alpha);
  });
  await writeGgufFile(metadata, tensors, sink);
}

/** `rest`: what the common alpha leaves to do. */
function pairOf(config: ModelConfig, module: string, pair: LoraPair, rest: number): GgufTensorToWrite[] {
  const target = linearName(config, module);
  if (target === null) {
    throw new Error(
      `The adapter changes ${module}, which llama.cpp cannot adapt. Merge the adapter and export the model.`,
    );
  }
  const tensor = (part: string, shape: number[], values: Float32Array): GgufTensorToWrite => ({
    name: `${target}.${part}`,
    type: "F32",
    shape,
    pieces: () => [encodeBlocks("F32", values)],
  });
  const b = rest === 1 ? pair.b : pair.b.map((value) => value * rest);
  return [tensor("lora_a", [pair.rank, pair.in], pair.a), tensor("lora_b", [pair.out, pair.rank], b)];
}
