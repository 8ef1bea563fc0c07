// TRL: rows of prompt and completion, a program of 50 lines, settings for each run, accelerate's file with DeepSpeed.

import { writeYaml } from "../../formats/yaml.ts";
import { lookEvery, type ToolFiles } from "./tool.ts";
import type { Tuning } from "./tuning.ts";

export const trl: ToolFiles = {
  title: "TRL",
  folder: "trl",
  dataPath: (purpose) => `data/${purpose}.jsonl`,
  line: ({ prompt, target }) => ({ prompt, completion: target }),
  files: (tunings) => ({
    "train.py": PROGRAM,
    ...Object.fromEntries(tunings.map((tuning) => [`${tuning.name}.json`, settings(tuning)])),
    "accelerate.yaml": writeYaml({
      compute_environment: "LOCAL_MACHINE",
      distributed_type: "DEEPSPEED",
      mixed_precision: "bf16",
      num_machines: 1,
      num_processes: 1,
      deepspeed_config: { zero_stage: 2, gradient_clipping: "auto", gradient_accumulation_steps: "auto" },
    }),
    "requirements.txt":
      "trl==1.13.0\npeft==0.21.0\ntransformers==5.18.0\naccelerate==1.15.0\ndatasets==5.0.1\ndeepspeed>=0.16\n",
  }),
  commands: (tunings) => [
    "pip install -r requirements.txt",
    ...tunings.map(
      ({ name }) => `accelerate launch --config_file accelerate.yaml --num_processes 1 train.py ${name}.json`,
    ),
  ],
  differences: [
    "`train.py` cuts prompt and completion into tokens by itself, as is done here: TRL would add a second begin token.",
  ],
};

function settings(tuning: Tuning): object {
  const { name, after, lora, optimizer } = tuning;
  return {
    base: !lora && after ? `out/${after}/merged` : "../base",
    adapter: lora && after ? `out/${after}` : null,
    data: `data/${name}.jsonl`,
    validation: "data/validation.jsonl",
    lora: lora && { r: lora.rank, lora_alpha: lora.alpha, lora_dropout: 0, target_modules: lora.modules },
    training: {
      output_dir: `out/${name}`,
      max_steps: tuning.steps,
      per_device_train_batch_size: tuning.atATime,
      per_device_eval_batch_size: tuning.atATime,
      gradient_accumulation_steps: tuning.batch / tuning.atATime,
      gradient_checkpointing: tuning.recompute,
      max_length: tuning.maxLength,
      packing: false,
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
      logging_steps: 1,
      eval_strategy: "steps",
      eval_steps: lookEvery(tuning),
      save_steps: lookEvery(tuning),
      report_to: "none",
    },
  };
}

const PROGRAM = `"""Tune by TRL: accelerate launch --config_file accelerate.yaml train.py SETTINGS.json"""

import json
import sys

from datasets import load_dataset
from peft import LoraConfig, PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import SFTConfig, SFTTrainer

with open(sys.argv[1], encoding="utf-8") as file:
    settings = json.load(file)

tokenizer = AutoTokenizer.from_pretrained(settings["base"])
if tokenizer.pad_token is None:
    tokenizer.pad_token = tokenizer.eos_token  # Loss is masked by place, so the end is learned all the same.


def encode(row):
    """Both texts hold every control token that is wanted: none is added. Loss is on the completion alone."""
    prompt = tokenizer(row["prompt"], add_special_tokens=False)["input_ids"]
    completion = tokenizer(row["completion"], add_special_tokens=False)["input_ids"]
    return {
        "input_ids": prompt + completion,
        "completion_mask": [0] * len(prompt) + [1] * len(completion),
        "labels": [-100] * len(prompt) + completion,
    }


def rows(path):
    data = load_dataset("json", data_files=path, split="train")
    return data.map(encode, remove_columns=data.column_names)


lora = settings["lora"]
# What is trained is kept in float32; a base that stays as it is can be smaller.
model = AutoModelForCausalLM.from_pretrained(settings["base"], dtype="bfloat16" if lora else "float32")
if settings["adapter"]:
    model = PeftModel.from_pretrained(model, settings["adapter"], is_trainable=True)

trainer = SFTTrainer(
    model=model,
    args=SFTConfig(**settings["training"]),
    train_dataset=rows(settings["data"]),
    eval_dataset=rows(settings["validation"]),
    processing_class=tokenizer,
    peft_config=LoraConfig(task_type="CAUSAL_LM", **lora) if lora and not settings["adapter"] else None,
)
trainer.train()
trainer.save_model()
`;
