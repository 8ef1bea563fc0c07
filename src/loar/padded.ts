// A pruned model at its original sizes: zeros in place of what was removed. It computes what the pruned model computes,
// loads wherever the original does, and gains nothing there.
//
// A head, a channel, an expert or a whole layer whose last matrix (o_proj, down_proj) is zero adds nothing to the stream. What
// is left comes first, what is padded last. A padded expert must not be chosen in place of one that is there: its bias
// (e_score_correction_bias, which takes part in the choice alone) lies far below all others.

import type { DeepSeekConfig, ModelConfig } from "../formats/hfConfig.ts";
import type { Adapter, LoraPair } from "../formats/peftAdapter.ts";
import { type CheckpointTensor, layerSizes } from "../models/weights.ts";

/** The config without sizes for each layer. Throws a sentence where padding would change what the model computes. */
export function paddedConfig(config: ModelConfig): ModelConfig {
  const { layers, ...original } = config;
  if (config.family === "deepseek") layers?.forEach((_, i) => checkExperts(config, i));
  return layers ? original : config;
}

/** The checkpoint's tensors at their original sizes, those of removed experts too. To be read once, in this order. */
export function padTensors(tensors: CheckpointTensor[], config: ModelConfig): CheckpointTensor[] {
  if (!config.layers) return tensors;
  return tensors.flatMap((tensor) => [padTensor(tensor, config), ...missingAfter(tensor.name, config)]);
}

/** An adapter of the pruned model as one of the padded model: what it adds to a padded weight is zero. */
export function padAdapter(adapter: Adapter, config: ModelConfig): Adapter {
  if (!config.layers) return adapter;
  const modules = [...adapter.modules].map(([name, pair]) => [name, padPair(name, pair, config)] as const);
  return { ...adapter, modules: new Map(modules) };
}

/** How far below the lowest bias that of a padded expert is; scores lie between 0 and 1. */
const FAR_BELOW = 1e4;

function checkExperts(config: DeepSeekConfig, index: number): void {
  const { nRoutedExperts, numExpertsPerTok, nGroup, scoringFunc, topkMethod } = config;
  const left = layerSizes(config, index).experts.length;
  if (left === nRoutedExperts) return;
  const because =
    scoringFunc === "softmax" || topkMethod !== "noaux_tc"
      ? "its router compares every expert with all others and has no bias, so a padded expert would be chosen or change the others' weights"
      : nGroup > 1
        ? `its router chooses among ${nGroup} groups, to which the experts that are left would no longer belong`
        : left < numExpertsPerTok
          ? `tokens go to ${numExpertsPerTok} experts and ${left} are left, so padded ones would be chosen`
          : null;
  if (because === null) return;
  throw new Error(
    `The pruned model cannot be padded: layer ${index} lost ${nRoutedExperts - left} of ${nRoutedExperts} experts, and ${because}. ` +
      'Ask for the shape "perLayer".',
  );
}

function padTensor({ name, shape, values }: CheckpointTensor, config: ModelConfig): CheckpointTensor {
  const full = fullShape(name, shape, config);
  if (full.join() === shape.join()) return { name, shape, values };
  const bias = name.endsWith("e_score_correction_bias");
  return {
    name,
    shape: full,
    values: async () => {
      const own = await values();
      return pad(own, shape, full, bias ? own.reduce((least, x) => Math.min(least, x), 0) - FAR_BELOW : 0);
    },
  };
}

function padPair(module: string, pair: LoraPair, config: ModelConfig): LoraPair {
  const [out, width] = fullShape(`${module}.weight`, [pair.out, pair.in], config);
  return {
    ...pair,
    in: width,
    out,
    a: pad(pair.a, [pair.rank, pair.in], [pair.rank, width]),
    b: pad(pair.b, [pair.out, pair.rank], [out, pair.rank]),
  };
}

/** The values in the upper left of a larger matrix (or at the beginning of a longer vector). */
function pad(values: Float32Array, [rows, columns = 1]: number[], [fullRows, fullColumns = 1]: number[], rest = 0) {
  const all = new Float32Array(fullRows * fullColumns).fill(rest);
  for (let row = 0; row < rows; row++) {
    all.set(values.subarray(row * columns, (row + 1) * columns), row * fullColumns);
  }
  return all;
}

const IN_LAYER = /^model\.layers\.(\d+)\.(self_attn|mlp)\.(.+)\.\w+$/;

/** The shape that the model's own config gives a tensor. */
function fullShape(name: string, shape: number[], config: ModelConfig): number[] {
  const [, layer, , module = name] = IN_LAYER.exec(name) ?? [];
  if (layer === undefined) return shape;
  const sizes = originalSizes(config, Number(layer));
  const outputs = outputsOf(module, sizes, config) ?? shape[0];
  return shape.length === 1 ? [outputs] : [outputs, inputsOf(module, sizes, config) ?? shape[1]];
}

type Sizes = ReturnType<typeof layerSizes>;

const originalSizes = (config: ModelConfig, layer: number): Sizes =>
  layerSizes({ ...config, layers: undefined }, layer);

/** Of what pruning may have made smaller; else undefined. */
function outputsOf(module: string, sizes: Sizes, config: ModelConfig): number | undefined {
  switch (lastOf(module)) {
    case "q_proj":
    case "q_b_proj":
      return sizes.heads * widths(config).query;
    case "kv_b_proj":
      return sizes.heads * widths(config).keyValue;
    case "k_proj":
    case "v_proj":
      return sizes.keyValueHeads * widths(config).keyValue;
    case "gate_proj":
    case "up_proj":
      return channels(module, sizes);
    case "gate": // The router, and its bias.
      return sizes.experts.length;
    default:
      return undefined;
  }
}

function inputsOf(module: string, sizes: Sizes, config: ModelConfig): number | undefined {
  switch (lastOf(module)) {
    case "o_proj":
      return sizes.heads * widths(config).value;
    case "down_proj":
      return channels(module, sizes);
    default:
      return undefined;
  }
}

const lastOf = (module: string): string => module.slice(module.lastIndexOf(".") + 1);

function channels(module: string, sizes: Sizes): number {
  const [, part, expert] = /^(?:(shared_experts|experts\.(\d+))\.)?\w+$/.exec(module) ?? [];
  if (expert !== undefined) return sizes.experts[Number(expert)];
  return part ? sizes.shared : sizes.intermediate;
}

/** What a head takes of each projection. */
function widths(config: ModelConfig): { query: number; keyValue: number; value: number } {
  if (config.family === "qwen2") return { query: config.headDim, keyValue: config.headDim, value: config.headDim };
  const { qkNopeHeadDim: N, qkRopeHeadDim: P, vHeadDim: V } = config;
  return { query: N + P, keyValue: N + V, value: V };
}

/** Tensors that the pruned checkpoint lacks, where they have their place in the order: behind those of their kind. */
function missingAfter(name: string, config: ModelConfig): CheckpointTensor[] {
  const [, at, layer, module] = /^(model\.layers\.(\d+)\.mlp)\.(.+)\.weight$/.exec(name) ?? [];
  if (!at) return [];
  const [left, all] = [layerSizes(config, Number(layer)), originalSizes(config, Number(layer))];
  const [, expert, projection] = /^experts\.(\d+)\.(\w+)$/.exec(module) ?? [];
  if (projection && Number(expert) === left.experts.length - 1) {
    return all.experts
      .map((width, e) => zeros(`${at}.experts.${e}.${projection}.weight`, width, config))
      .slice(left.experts.length);
  }
  if (module !== "gate" || left.shared > 0 || all.shared === 0) return [];
  return ["gate_proj", "up_proj", "down_proj"].map((each) =>
    zeros(`${at}.shared_experts.${each}.weight`, all.shared, config),
  );
}

function zeros(name: string, width: number, { hiddenSize: D }: ModelConfig): CheckpointTensor {
  const shape = name.endsWith("down_proj.weight") ? [D, width] : [width, D];
  return { name, shape, values: async () => new Float32Array(shape[0] * shape[1]) };
}
