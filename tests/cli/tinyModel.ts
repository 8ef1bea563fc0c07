// A base model of random weights, small enough to go through a whole run in seconds, with the tokenizer we ship.

import { copyFileSync, mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import "@tensorflow/tfjs-backend-cpu";
import * as tf from "../../src/engine/tf.ts";
import { readConfig, writeConfig } from "../../src/formats/hfConfig.ts";
import { disposeModel, initModel, saveModel } from "../../src/models/weights.ts";

const SHIPPED = join("public", "models", "deepseek-nano");

const CONFIG = readConfig({
  model_type: "deepseek_v3",
  vocab_size: 2048,
  hidden_size: 32,
  num_hidden_layers: 2,
  num_attention_heads: 2,
  num_key_value_heads: 2,
  q_lora_rank: 16,
  kv_lora_rank: 16,
  qk_nope_head_dim: 8,
  qk_rope_head_dim: 8,
  v_head_dim: 16,
  intermediate_size: 256,
  moe_intermediate_size: 128,
  first_k_dense_replace: 1,
  n_routed_experts: 4,
  n_shared_experts: 1,
  num_experts_per_tok: 2,
  routed_scaling_factor: 1,
  n_group: 1,
  topk_group: 1,
  max_position_embeddings: 512,
  rope_theta: 10_000,
  tie_word_embeddings: true,
  bos_token_id: 0,
  eos_token_id: 1,
});

/** Write the model's four files to `folder`/`name`. */
export async function writeTinyModel(folder: string, name: string): Promise<void> {
  const target = join(folder, name);
  mkdirSync(target, { recursive: true });
  await tf.setBackend("cpu");
  const model = initModel(CONFIG, 1);
  writeFileSync(join(target, "model.safetensors"), await saveModel(model, "F32"));
  disposeModel(model);
  writeFileSync(join(target, "config.json"), JSON.stringify(writeConfig(CONFIG)));
  for (const file of ["tokenizer.json", "tokenizer_config.json"]) copyFileSync(join(SHIPPED, file), join(target, file));
}
