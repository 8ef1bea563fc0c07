// A checkpoint of the 1.5B shape with random weights, as a hub has it: two shards in bf16.

import { closeSync, copyFileSync, mkdirSync, openSync, writeFileSync, writeSync } from "node:fs";
import { join } from "node:path";
import { uniform } from "../../src/engine/random.ts";
import { type StreamedTensor, writeSafetensors } from "../../src/formats/safetensors.ts";
import { splitIntoShards } from "../../src/formats/shards.ts";

/** DeepSeek-R1-Distill-Qwen-1.5B's config.json. */
export const CONFIG = {
  architectures: ["Qwen2ForCausalLM"],
  model_type: "qwen2",
  hidden_act: "silu",
  hidden_size: 1536,
  intermediate_size: 8960,
  num_attention_heads: 12,
  num_hidden_layers: 28,
  num_key_value_heads: 2,
  max_position_embeddings: 131_072,
  rms_norm_eps: 1e-6,
  rope_theta: 10_000,
  tie_word_embeddings: false,
  torch_dtype: "bfloat16",
  bos_token_id: 0,
  eos_token_id: 1,
  vocab_size: 151_936,
};

export type BigConfig = typeof CONFIG;

/** The shipped model's: smaller than the vocabulary, as tokenizers are allowed to be. */
const TOKENIZER = join("public", "models", "deepseek-nano");

/** Write config.json, the shards with their index and a tokenizer. Returns the bytes of the weights. */
export async function writeRandomCheckpoint(folder: string, config: BigConfig): Promise<number> {
  mkdirSync(folder, { recursive: true });
  const tensors = tensorsOf(config);
  const total = tensors.reduce((sum, { shape }) => sum + 2 * shape.reduce((a, b) => a * b, 1), 0);
  const { shards, index } = splitIntoShards(tensors, Math.ceil(total / 2) + 500_000_000);
  for (const { file, tensors: own } of shards) {
    const descriptor = openSync(join(folder, file), "w");
    try {
      await writeSafetensors(own, { write: async (bytes) => void writeSync(descriptor, bytes) });
    } finally {
      closeSync(descriptor);
    }
  }
  const json = (name: string, value: unknown) => writeFileSync(join(folder, name), JSON.stringify(value));
  if (index) json("model.safetensors.index.json", index);
  json("config.json", config);
  for (const name of ["tokenizer.json", "tokenizer_config.json"])
    copyFileSync(join(TOKENIZER, name), join(folder, name));
  return total;
}

function tensorsOf(config: BigConfig): StreamedTensor[] {
  const {
    hidden_size: D,
    intermediate_size: F,
    vocab_size: V,
    num_attention_heads: H,
    num_key_value_heads: G,
  } = config;
  const head = D / H;
  const shapes: [string, number[]][] = [["model.embed_tokens.weight", [V, D]]];
  for (let layer = 0; layer < config.num_hidden_layers; layer++) {
    const at = `model.layers.${layer}`;
    shapes.push([`${at}.input_layernorm.weight`, [D]], [`${at}.post_attention_layernorm.weight`, [D]]);
    for (const [name, out] of Object.entries({ q_proj: D, k_proj: G * head, v_proj: G * head })) {
      shapes.push([`${at}.self_attn.${name}.weight`, [out, D]], [`${at}.self_attn.${name}.bias`, [out]]);
    }
    shapes.push([`${at}.self_attn.o_proj.weight`, [D, D]]);
    shapes.push([`${at}.mlp.gate_proj.weight`, [F, D]], [`${at}.mlp.up_proj.weight`, [F, D]]);
    shapes.push([`${at}.mlp.down_proj.weight`, [D, F]]);
  }
  shapes.push(["model.norm.weight", [D]], ["lm_head.weight", [V, D]]);
  return shapes.map(([name, shape], stream) => ({
    name,
    dtype: "BF16",
    shape,
    bytes: () => randomBytes(name, shape, stream),
  }));
}

const PIECE = 1 << 22; // Values written at a time.

async function* randomBytes(name: string, shape: number[], stream: number): AsyncGenerator<Uint8Array> {
  const count = shape.reduce((a, b) => a * b, 1);
  const norm = name.endsWith("norm.weight");
  let state = 1 + Math.floor(uniform(7, stream, 0) * 0xfffffffe);
  for (let from = 0; from < count; from += PIECE) {
    const values = new Uint16Array(Math.min(PIECE, count - from));
    if (norm) values.fill(ONE);
    else state = fillWithNormals(values, state);
    yield new Uint8Array(values.buffer);
  }
}

/** Returns the state to go on with: xorshift32 (Marsaglia, 2003). */
function fillWithNormals(values: Uint16Array, from: number): number {
  let state = from;
  for (let i = 0; i < values.length; i++) {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    values[i] = NORMALS[state & 0xffff];
  }
  return state;
}

const ONE = 0x3f80; // 1 in bf16.

/** 65,536 values of a normal distribution with standard deviation 0.02, in bf16. */
const NORMALS = Uint16Array.from({ length: 1 << 16 }, (_, i) => {
  const radius = Math.sqrt(-2 * Math.log(1 - uniform(11, 0, 2 * i)));
  const value = 0.02 * radius * Math.cos(2 * Math.PI * uniform(11, 0, 2 * i + 1));
  return new Uint32Array(Float32Array.of(value).buffer)[0] >>> 16;
});
