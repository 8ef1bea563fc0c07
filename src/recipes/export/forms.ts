// The forms that a model is written in: with the sizes that pruning left, or as programs expect it that know nothing of them.

import type { ModelConfig } from "../../formats/hfConfig.ts";
import { notesForLlamaCpp } from "../../formats/ggufConfig.ts";
import type { Adapter } from "../../formats/peftAdapter.ts";
import { padAdapter, paddedConfig, padTensors } from "../../loar/padded.ts";
import { uniformConfig } from "../../loar/uniform.ts";
import type { CheckpointTensor } from "../../models/weights.ts";
import type { Exports, Shape } from "../../protocol/recipe.ts";

export interface Form {
  config: ModelConfig;
  /** Whether programs load it that take one size for all layers. */
  loadsEverywhere: boolean;
  /** What the form means for the person, a sentence; null where there is nothing to say. */
  note: string | null;
  tensors(own: CheckpointTensor[]): CheckpointTensor[];
  adapter(own: Adapter): Adapter;
}

/** A model of this config in a shape. Throws a sentence where it cannot be had in it. */
export function formOf(config: ModelConfig, shape: Shape): Form {
  const asItIs = { config, tensors: (own: CheckpointTensor[]) => own, adapter: (own: Adapter) => own };
  if (!config.layers) return { ...asItIs, loadsEverywhere: true, note: null };
  switch (shape) {
    case "perLayer":
      return {
        ...asItIs,
        loadsEverywhere: false,
        note: "Layers keep the sizes that pruning left them (espalier_layers in config.json), which only Espalier loads.",
      };
    case "uniform":
      return {
        ...asItIs,
        config: uniformConfig(config),
        loadsEverywhere: true,
        note: "Pruning left every layer the same sizes, so the model loads everywhere, as small and as fast as it is.",
      };
    case "padded":
      return {
        config: paddedConfig(config),
        tensors: (own) => padTensors(own, config),
        adapter: (own) => padAdapter(own, config),
        loadsEverywhere: true,
        note: "What pruning removed is written as zeros: the model loads everywhere and computes the same, and is as large and as slow there as it was before.",
      };
  }
}

/** The form for programs that take one size for all layers: as asked for, or padded. */
export function formForOthers(config: ModelConfig, shape: Shape): Form {
  return formOf(config, shape === "perLayer" ? "padded" : shape);
}

/** Throws a sentence for whatever of the exports cannot be had of a model of this config: before hours are spent on it. */
export function checkExports(config: ModelConfig, { shape, gguf, handover }: Exports): void {
  formOf(config, shape);
  if (gguf.length === 0 && !handover) return;
  const form = formForOthers(config, shape);
  if (gguf.length > 0) notesForLlamaCpp(form.config);
}
