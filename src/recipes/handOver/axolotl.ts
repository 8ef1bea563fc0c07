// axolotl: rows in segments with and without loss, a YAML file for each run.

import { writeYaml, type YamlValue } from "../../formats/yaml.ts";
import { type BaseFacts, DEEPSPEED, lookEvery, type ToolFiles } from "./tool.ts";
import type { Tuning } from "./tuning.ts";

export const axolotl: ToolFiles = {
  title: "axolotl",
  folder: "axolotl",
  dataPath: (purpose) => `data/${purpose}.jsonl`,
  line: ({ prompt, target }) => ({
    segments: [
      { label: false, text: prompt },
      { label: true, text: target },
    ],
  }),
  files: (tunings, facts) => ({
    ...Object.fromEntries(tunings.map((tuning) => [`${tuning.name}.yaml`, writeYaml(settings(tuning, facts))])),
    "deepspeed.json": DEEPSPEED,
    "requirements.txt": "axolotl[deepspeed]==0.18.0\n",
  }),
  commands: (tunings) => [
    "pip install -r requirements.txt",
    "export AXOLOTL_DO_NOT_TRACK=1 # It tells its makers of each run otherwise.",
    ...tunings.map(({ name }) => `axolotl train ${name}.yaml --deepspeed deepspeed.json`),
  ],
  differences: [
    'The rows are of the type "input_output", without a chat template: the one of DeepSeek-R1 would take the thoughts out of what is trained on.',
  ],
};

function settings(tuning: Tuning, { padToken, endToken }: BaseFacts): { [key: string]: YamlValue } {
  const { name, after, lora, optimizer } = tuning;
  const rows = { ds_type: "json", type: "input_output" };
  return {
    base_model: !lora && after ? `out/${after}/merged` : "../base",
    trust_remote_code: false,
    strict: false,
    datasets: [{ path: `data/${name}.jsonl`, ...rows }],
    test_datasets: [{ path: "data/validation.jsonl", split: "train", ...rows }],
    dataset_prepared_path: `prepared/${name}`,
    train_on_inputs: false,
    sequence_len: tuning.maxLength,
    sample_packing: false,
    eval_sample_packing: false,
    pad_to_sequence_len: false,
    ...(lora
      ? {
          adapter: "lora",
          lora_r: lora.rank,
          lora_alpha: lora.alpha,
          lora_dropout: 0,
          lora_target_modules: lora.modules,
          ...(after ? { lora_model_dir: `out/${after}` } : {}),
        }
      : {}),
    ...(padToken === null ? { special_tokens: { pad_token: endToken } } : {}),
    output_dir: `out/${name}`,
    micro_batch_size: tuning.atATime,
    gradient_accumulation_steps: tuning.batch / tuning.atATime,
    gradient_checkpointing: tuning.recompute,
    num_epochs: Math.ceil((tuning.steps * tuning.batch) / tuning.rows),
    max_steps: tuning.steps,
    learning_rate: tuning.learningRate,
    lr_scheduler: "cosine",
    cosine_min_lr_ratio: tuning.leastShare,
    warmup_steps: tuning.warmUpSteps,
    optimizer: "adamw_torch",
    adam_beta1: optimizer.beta1,
    adam_beta2: optimizer.beta2,
    adam_epsilon: optimizer.eps,
    weight_decay: optimizer.weightDecay,
    max_grad_norm: optimizer.clipNorm,
    bf16: true,
    seed: tuning.seed,
    logging_steps: 1,
    eval_steps: lookEvery(tuning),
    save_steps: lookEvery(tuning),
  };
}
