// Qwen2, the architecture of DeepSeek-R1-Distill-Qwen-1.5B: the tree of a checkpoint's tensors.

import type { Qwen2Config } from "../formats/hfConfig.ts";
import type { Layer, Model } from "./decoder.ts";
import { type Linear, ropeTable } from "./layers.ts";
import type { Maker } from "./storage.ts";
import { layerSizes } from "./weights.ts";

/** Build the tree. `make` is asked once for every tensor of the checkpoint, by its name there. The caller owns the tree. */
export function buildQwen2(config: Qwen2Config, make: Maker, positions: number): Model {
  const { vocabSize, hiddenSize } = config;
  return {
    config,
    embedTokens: make.table("model.embed_tokens.weight", [vocabSize, hiddenSize]),
    layers: Array.from({ length: config.numHiddenLayers }, (_, i) => buildLayer(config, make, i)),
    norm: { weight: make.plain("model.norm.weight", [hiddenSize]) },
    lmHead: config.tieWordEmbeddings ? null : make.table("lm_head.weight", [vocabSize, hiddenSize]),
    mtp: [],
    rope: ropeTable(positions, config.headDim, config.ropeTheta, "half", config.ropeScaling),
  };
}

function buildLayer(config: Qwen2Config, make: Maker, index: number): Layer {
  const { hiddenSize, headDim } = config;
  const { heads, keyValueHeads, intermediate } = layerSizes(config, index);
  const at = `model.layers.${index}`;
  const linear = (name: string, out: number, width: number, bias = false): Linear => ({
    weight: make.matrix(`${at}.${name}.weight`, [out, width]),
    ...(bias ? { bias: make.plain(`${at}.${name}.bias`, [out]) } : {}),
  });
  return {
    inputLayernorm: { weight: make.plain(`${at}.input_layernorm.weight`, [hiddenSize]) },
    selfAttn: {
      kind: "grouped",
      qProj: linear("self_attn.q_proj", heads * headDim, hiddenSize, true),
      kProj: linear("self_attn.k_proj", keyValueHeads * headDim, hiddenSize, true),
      vProj: linear("self_attn.v_proj", keyValueHeads * headDim, hiddenSize, true),
      oProj: linear("self_attn.o_proj", hiddenSize, heads * headDim),
    },
    postAttentionLayernorm: { weight: make.plain(`${at}.post_attention_layernorm.weight`, [hiddenSize]) },
    mlp: {
      kind: "dense",
      gateProj: linear("mlp.gate_proj", intermediate, hiddenSize),
      upProj: linear("mlp.up_proj", intermediate, hiddenSize),
      downProj: linear("mlp.down_proj", hiddenSize, intermediate),
    },
  };
}
