// What of a model's exports cannot be had, and why: to be told while a recipe is put together.

import { notesForLlamaCpp } from "../../formats/ggufConfig.ts";
import { type DeepSeekConfig, isExpertLayer, readConfig } from "../../formats/hfConfig.ts";
import type { Shape } from "../../protocol/recipe.ts";
import { formForOthers, formOf } from "./forms.ts";

/** A sentence where something cannot be had; null where it can. */
type WhyNot = string | null;

export interface ExportLimits {
  /** Whether layers have sizes of their own already. */
  pruned: boolean;
  /** Of the model as it is, before anything of it is pruned. */
  shapes: Record<Shape, WhyNot>;
  gguf: WhyNot;
  /** What llama.cpp would do otherwise than Espalier, a sentence each. */
  ggufNotes: string[];
  /** Whether it can still be padded when pruning took whole experts. */
  padsExperts: boolean;
}

/** Of a model with this config.json. Throws a sentence if it cannot be read. */
export function exportLimits(json: unknown): ExportLimits {
  const config = readConfig(json);
  const shape = (one: Shape) => tried(() => formOf(config, one)).why;
  const gguf = tried(() => notesForLlamaCpp(formForOthers(config, "perLayer").config));
  return {
    pruned: config.layers !== undefined,
    shapes: { perLayer: shape("perLayer"), uniform: shape("uniform"), padded: shape("padded") },
    gguf: gguf.why,
    ggufNotes: gguf.result ?? [],
    padsExperts: config.family === "qwen2" || tried(() => formOf(withOneExpertLess(config), "padded")).why === null,
  };
}

function tried<T>(make: () => T): { result: T | null; why: WhyNot } {
  try {
    return { result: make(), why: null };
  } catch (error) {
    return { result: null, why: (error as Error).message };
  }
}

function withOneExpertLess(config: DeepSeekConfig): DeepSeekConfig {
  const { moeIntermediateSize: width, nRoutedExperts, numHiddenLayers } = config;
  const left = Array.from({ length: nRoutedExperts - 1 }, () => width);
  const layers = Array.from({ length: numHiddenLayers }, (_, i) =>
    isExpertLayer(config, i) ? { expertIntermediateSizes: left } : {},
  );
  return { ...config, layers };
}
