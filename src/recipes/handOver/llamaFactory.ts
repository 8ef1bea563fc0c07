// LLaMA-Factory: alpaca rows, dataset_info.json, a YAML file for each run.

import { writeYaml, type YamlValue } from "../../formats/yaml.ts";
import { DEEPSPEED, lookEvery, type ToolFiles } from "./tool.ts";
import type { Tuning } from "./tuning.ts";

export const llamaFactory: ToolFiles = {
  title: "LLaMA-Factory",
  folder: "llamafactory",
  dataPath: (purpose) => `data/${purpose}.jsonl`,
  line: ({ prompt, target }) => ({ instruction: prompt, input: "", output: target }),
  files: (tunings) => ({
    "data/dataset_info.json": datasetInfo(["validation", ...tunings.map(({ name }) => name)]),
    ...Object.fromEntries(tunings.map((tuning) => [`${tuning.name}.yaml`, writeYaml(settings(tuning))])),
    "deepspeed.json": DEEPSPEED,
    "requirements.txt": "llamafactory==0.9.5\ndeepspeed>=0.16\n",
  }),
  commands: (tunings) => [
    "pip install -r requirements.txt",
    ...tunings.map(({ name }) => `FORCE_TORCHRUN=1 llamafactory-cli train ${name}.yaml deepspeed=deepspeed.json`),
  ],
  differences: [
    'The template is "empty": the rows hold every token of the conversation already, as the model\'s own template writes them.',
    "Where a run works on adapters, LLaMA-Factory's own setting for thoughts (enable_thinking) has no effect.",
  ],
};

function datasetInfo(names: string[]): object {
  const columns = { prompt: "instruction", query: "input", response: "output" };
  return Object.fromEntries(names.map((name) => [name, { file_name: `${name}.jsonl`, formatting: "alpaca", columns }]));
}

function settings(tuning: Tuning): { [key: string]: YamlValue } {
  const { name, after, lora, optimizer } = tuning;
  return {
    model_name_or_path: !lora && after ? `out/${after}-merged` : "../base",
    trust_remote_code: false,
    stage: "sft",
    do_train: true,
    ...(lora
      ? {
          finetuning_type: "lora",
          lora_rank: lora.rank,
          lora_alpha: lora.alpha,
          lora_dropout: 0,
          lora_target: lora.modules.join(","),
          ...(after ? { adapter_name_or_path: `out/${after}` } : {}),
        }
      : { finetuning_type: "full" }),
    dataset: name,
    dataset_dir: "data",
    template: "empty",
    cutoff_len: tuning.maxLength,
    overwrite_cache: true,
    packing: false,
    output_dir: `out/${name}`,
    logging_steps: 1,
    save_steps: lookEvery(tuning),
    plot_loss: true,
    report_to: "none",
    per_device_train_batch_size: tuning.atATime,
    gradient_accumulation_steps: tuning.batch / tuning.atATime,
    gradient_checkpointing: tuning.recompute,
    max_steps: tuning.steps,
    learning_rate: tuning.learningRate,
    lr_scheduler_type: "cosine_with_min_lr",
    lr_scheduler_kwargs: { min_lr_rate: tuning.leastShare },
    warmup_steps: tuning.warmUpSteps,
    optim: "adamw_torch",
    adam_beta1: optimizer.beta1,
    adam_beta2: optimizer.beta2,
    adam_epsilon: optimizer.eps,
    weight_decay: optimizer.weightDecay,
    max_grad_norm: optimizer.clipNorm,
    bf16: true,
    seed: tuning.seed,
    eval_dataset: "validation",
    eval_strategy: "steps",
    eval_steps: lookEvery(tuning),
    per_device_eval_batch_size: tuning.atATime,
  };
}
