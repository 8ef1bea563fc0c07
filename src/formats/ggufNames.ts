// Which tensors a GGUF file of qwen2 or deepseek2 has, and which of the checkpoint's tensors each is made of.
//
// Rows are never permuted: llama.cpp rotates qwen2 by halves and deepseek2 by pairs, as the checkpoints are laid out.

import { type DeepSeekConfig, isExpertLayer, type ModelConfig, type Qwen2Config } from "./hfConfig.ts";

/** A tensor of the file. */
export interface Placement {
  name: string;
  /** Outermost axis first. */
  shape: number[];
  /**
   * whole: one tensor of the checkpoint; stack: several of one shape, one behind the other; keys, values: the parts of
   * kv_b_proj by head, the keys' transposed so that a query is brought into the latent's space by a product along its rows.
   */
  kind: "whole" | "stack" | "keys" | "values";
  /** The checkpoint's names. */
  from: string[];
  /** The shape of each there. */
  fromShape: number[];
}

export interface LayoutOptions {
  /** Files of 2024 have kv_b_proj whole, as blk.N.attn_kv_b. */
  wholeKvB: boolean;
}

/** Every tensor of a file, multi-token prediction layers included, if the config has any. */
export function placementsOf(config: ModelConfig, options: LayoutOptions = { wholeKvB: false }): Placement[] {
  const { vocabSize: V, hiddenSize: D } = config;
  const layers = config.numHiddenLayers + (config.family === "deepseek" ? config.numNextnPredictLayers : 0);
  return [
    whole("token_embd.weight", "model.embed_tokens.weight", [V, D]),
    whole("output_norm.weight", "model.norm.weight", [D]),
    ...(config.tieWordEmbeddings ? [] : [whole("output.weight", "lm_head.weight", [V, D])]),
    ...Array.from({ length: layers }, (_, i) => i).flatMap((i) => [
      whole(`blk.${i}.attn_norm.weight`, `model.layers.${i}.input_layernorm.weight`, [D]),
      whole(`blk.${i}.ffn_norm.weight`, `model.layers.${i}.post_attention_layernorm.weight`, [D]),
      ...(config.family === "qwen2" ? qwen2Layer(config, i) : deepSeekLayer(config, i, options)),
    ]),
  ];
}

/** Tensors that a file may have beside: copies that every multi-token prediction layer of a released checkpoint carries. */
export function copiesOf(config: ModelConfig): Placement[] {
  if (config.family !== "deepseek") return [];
  const { vocabSize: V, hiddenSize: D, numHiddenLayers: L } = config;
  return Array.from({ length: config.numNextnPredictLayers }, (_, k) => L + k).flatMap((i) => [
    whole(`blk.${i}.nextn.embed_tokens.weight`, `model.layers.${i}.embed_tokens.weight`, [V, D]),
    whole(`blk.${i}.nextn.shared_head_head.weight`, `model.layers.${i}.shared_head.head.weight`, [V, D]),
  ]);
}

/** The tensor of the file that a linear map of the checkpoint is. Null: there is none of its own. */
export function linearName(config: ModelConfig, module: string): string | null {
  const found = placementsOf(config).find(({ kind, from }) => kind === "whole" && from[0] === `${module}.weight`);
  const linear = found?.shape.length === 2 && found.name !== "token_embd.weight";
  return linear ? found.name : null;
}

/** What llama.cpp wants in float32 whatever the rest is: vectors and the router. */
export function staysFloat32({ name, shape }: Placement): boolean {
  return shape.length === 1 || name.endsWith("ffn_gate_inp.weight");
}

function whole(name: string, from: string, shape: number[]): Placement {
  return { name, shape, kind: "whole", from: [from], fromShape: shape };
}

function qwen2Layer(config: Qwen2Config, i: number): Placement[] {
  const { hiddenSize: D, numAttentionHeads: H, numKeyValueHeads: G, headDim, intermediateSize: F } = config;
  const [blk, hf] = [`blk.${i}`, `model.layers.${i}`];
  const projection = (short: string, rows: number) => [
    whole(`${blk}.attn_${short}.weight`, `${hf}.self_attn.${short}_proj.weight`, [rows, D]),
    whole(`${blk}.attn_${short}.bias`, `${hf}.self_attn.${short}_proj.bias`, [rows]),
  ];
  return [
    ...projection("q", H * headDim),
    ...projection("k", G * headDim),
    ...projection("v", G * headDim),
    whole(`${blk}.attn_output.weight`, `${hf}.self_attn.o_proj.weight`, [D, H * headDim]),
    ...mlp(`${blk}.ffn_`, "", `${hf}.mlp`, D, F),
  ];
}

function deepSeekLayer(config: DeepSeekConfig, i: number, options: LayoutOptions): Placement[] {
  const { hiddenSize: D, nRoutedExperts: E, moeIntermediateSize: M, nSharedExperts } = config;
  const [blk, hf] = [`blk.${i}`, `model.layers.${i}`];
  const own = [
    ...latentAttention(config, i, options),
    ...(i < config.numHiddenLayers ? [] : predictionParts(config, i)),
  ];
  if (!isExpertLayer(config, i)) return [...own, ...mlp(`${blk}.ffn_`, "", `${hf}.mlp`, D, config.intermediateSize)];
  const experts = (name: string, shape: number[]): Placement => ({
    name: `${blk}.ffn_${name}_exps.weight`,
    shape: [E, ...shape],
    kind: "stack",
    from: Array.from({ length: E }, (_, e) => `${hf}.mlp.experts.${e}.${name}_proj.weight`),
    fromShape: shape,
  });
  const bias = whole(`${blk}.exp_probs_b.bias`, `${hf}.mlp.gate.e_score_correction_bias`, [E]);
  return [
    ...own,
    whole(`${blk}.ffn_gate_inp.weight`, `${hf}.mlp.gate.weight`, [E, D]),
    ...(config.topkMethod === "noaux_tc" ? [bias] : []),
    experts("gate", [M, D]),
    experts("up", [M, D]),
    experts("down", [D, M]),
    ...(nSharedExperts > 0 ? mlp(`${blk}.ffn_`, "_shexp", `${hf}.mlp.shared_experts`, D, nSharedExperts * M) : []),
  ];
}

function mlp(at: string, suffix: string, hf: string, D: number, F: number): Placement[] {
  return [
    whole(`${at}gate${suffix}.weight`, `${hf}.gate_proj.weight`, [F, D]),
    whole(`${at}up${suffix}.weight`, `${hf}.up_proj.weight`, [F, D]),
    whole(`${at}down${suffix}.weight`, `${hf}.down_proj.weight`, [D, F]),
  ];
}

function latentAttention(config: DeepSeekConfig, i: number, { wholeKvB }: LayoutOptions): Placement[] {
  const { hiddenSize: D, numAttentionHeads: H, qLoraRank: Q, kvLoraRank: R } = config;
  const { qkNopeHeadDim: N, qkRopeHeadDim: P, vHeadDim: V } = config;
  const [blk, hf] = [`blk.${i}`, `model.layers.${i}.self_attn`];
  const kvB = { from: [`${hf}.kv_b_proj.weight`], fromShape: [H * (N + V), R] };
  const query =
    Q === null
      ? [whole(`${blk}.attn_q.weight`, `${hf}.q_proj.weight`, [H * (N + P), D])]
      : [
          whole(`${blk}.attn_q_a.weight`, `${hf}.q_a_proj.weight`, [Q, D]),
          whole(`${blk}.attn_q_a_norm.weight`, `${hf}.q_a_layernorm.weight`, [Q]),
          whole(`${blk}.attn_q_b.weight`, `${hf}.q_b_proj.weight`, [H * (N + P), Q]),
        ];
  const split: Placement[] = [
    { name: `${blk}.attn_k_b.weight`, shape: [H, R, N], kind: "keys", ...kvB },
    { name: `${blk}.attn_v_b.weight`, shape: [H, V, R], kind: "values", ...kvB },
  ];
  return [
    ...query,
    whole(`${blk}.attn_kv_a_mqa.weight`, `${hf}.kv_a_proj_with_mqa.weight`, [R + P, D]),
    whole(`${blk}.attn_kv_a_norm.weight`, `${hf}.kv_a_layernorm.weight`, [R]),
    ...(wholeKvB ? [whole(`${blk}.attn_kv_b.weight`, kvB.from[0], kvB.fromShape)] : split),
    whole(`${blk}.attn_output.weight`, `${hf}.o_proj.weight`, [D, H * V]),
  ];
}

function predictionParts({ hiddenSize: D }: DeepSeekConfig, i: number): Placement[] {
  const [blk, hf] = [`blk.${i}.nextn`, `model.layers.${i}`];
  return [
    whole(`${blk}.eh_proj.weight`, `${hf}.eh_proj.weight`, [D, 2 * D]),
    whole(`${blk}.enorm.weight`, `${hf}.enorm.weight`, [D]),
    whole(`${blk}.hnorm.weight`, `${hf}.hnorm.weight`, [D]),
    whole(`${blk}.shared_head_norm.weight`, `${hf}.shared_head.norm.weight`, [D]),
  ];
}
