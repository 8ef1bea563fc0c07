// A pruned model whose layers are all alike is one that any program can load: its sizes are those of the config.

import { isExpertLayer, type ModelConfig } from "../formats/hfConfig.ts";
import { layerSizes } from "../models/weights.ts";

/** The config without sizes for each layer. Throws a sentence where layers differ. */
export function uniformConfig(config: ModelConfig): ModelConfig {
  const { layers, ...common } = config;
  if (!layers) return config;
  const sizes = layers.map((_, i) => layerSizes(config, i));
  const experts = config.family === "deepseek" ? sizes.filter((_, i) => isExpertLayer(config, i)) : [];
  const dense = config.family === "deepseek" ? sizes.filter((_, i) => !isExpertLayer(config, i)) : sizes;
  const attention = {
    numAttentionHeads: one(
      "attention heads",
      sizes.map(({ heads }) => heads),
    ),
    numKeyValueHeads: one(
      "key-value heads",
      sizes.map(({ keyValueHeads }) => keyValueHeads),
    ),
    intermediateSize:
      dense.length > 0
        ? one(
            "channels of dense layers",
            dense.map(({ intermediate }) => intermediate),
          )
        : config.intermediateSize,
  };
  if (common.family === "qwen2") return { ...common, ...attention };
  if (experts.length === 0) return { ...common, ...attention };
  const width = one(
    "channels of experts",
    experts.flatMap((layer) => layer.experts),
  );
  const shared = one(
    "channels of shared experts",
    experts.map((layer) => layer.shared),
  );
  if (shared % width !== 0) {
    throw refused(`shared experts have ${shared} channels, which is no multiple of the ${width} of a routed one`);
  }
  return {
    ...common,
    ...attention,
    moeIntermediateSize: width,
    nSharedExperts: shared / width,
    nRoutedExperts: one(
      "experts",
      experts.map((layer) => layer.experts.length),
    ),
  };
}

/** The one size that all have. */
function one(what: string, sizes: number[]): number {
  const [least, most] = [Math.min(...sizes), Math.max(...sizes)];
  if (least === most) return least;
  throw refused(`layers have ${least} to ${most} ${what}`);
}

function refused(why: string): Error {
  return new Error(
    `The pruned model cannot be exported as uniform: ${why}. Ask for the shape "padded", which loads everywhere, or "perLayer".`,
  );
}
