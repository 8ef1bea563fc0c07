import { beforeAll, describe, expect, it } from "vitest";
import { parse } from "yaml";
import type { BackendChoice } from "../../src/engine/backend.ts";
import { exampleOf, exampleTexts } from "../../src/data/chat.ts";
import { sourceOf } from "../../src/formats/bytes.ts";
import { openCheckpoint } from "../../src/formats/checkpoint.ts";
import { checkpointTensors, disposeModel, loadModelFrom } from "../../src/models/weights.ts";
import type { AnswerMode } from "../../src/protocol/data.ts";
import { parseRecipe } from "../../src/protocol/recipe.ts";
import { handOver } from "../../src/recipes/handOver.ts";
import type { ModelFiles } from "../../src/recipes/host.ts";
import { runRecipe } from "../../src/recipes/run.ts";
import { learningRateAt } from "../../src/training/schedule.ts";
import { detachLora } from "../../src/training/lora.ts";
import { activate } from "../engine/harness.ts";
import { expectNear, expectNoLeak, logitsOf, tinyIds } from "../models/tiny.ts";
import { jsonOf, QWEN2, recipeWith, sourceFor, textOf } from "./export/source.ts";
import { MemoryHost, tinyModelFiles } from "./host.ts";

const ALL = { tools: ["llamaFactory", "axolotl", "trl"] as ("llamaFactory" | "axolotl" | "trl")[], thenStop: true };
const BACKEND: BackendChoice = { name: "wasm", device: "CPU (SIMD)", reason: "it was asked for" };

type Source = ReturnType<typeof sourceFor>;
let deepseek: ModelFiles;
let pruned: Source;
let qwen2: Source;

beforeAll(async () => {
  await activate("wasm");
  deepseek = await tinyModelFiles();
  pruned = sourceFor(deepseek, {
    exports: { handover: ALL },
    cut: (layers) =>
      void ([layers[0].heads, layers[1].experts] = [
        [0, 2],
        [0, 1, 3],
      ]),
  });
  qwen2 = sourceFor(await tinyModelFiles(QWEN2), { exports: { handover: ALL } });
  for (const source of [pruned, qwen2]) await handOver(source, ALL);
}, 60_000);

const lines = ({ host }: Source, name: string) =>
  textOf(host, `handover/${name}`)
    .trimEnd()
    .split("\n")
    .map((line) => JSON.parse(line));
const yaml = ({ host }: Source, name: string) => parse(textOf(host, `handover/${name}`), { version: "1.1" });

/** What is trained on, in the order of the recipe's two stages. */
function expected({ study, tokenizer }: Source, modes: AnswerMode[], cases = study.train) {
  return cases.flatMap((item) => modes.map((mode) => exampleTexts(tokenizer, item, mode)!));
}

describe("the data that are handed over", () => {
  it.each(["chain", "direct"] as const)("are token by token what is trained on here (%s)", (mode) => {
    const { tokenizer, study } = pruned;
    for (const item of study.train) {
      const { prompt, target } = exampleTexts(tokenizer, item, mode)!;
      const [before, after] = [tokenizer.encodeTemplate(prompt), tokenizer.encodeTemplate(target)];
      const { ids, weights } = exampleOf(tokenizer, item, mode);
      expect([...before, ...after]).toEqual([...ids]);
      expect(weights.indexOf(1)).toBe(before.length);
      expect(prompt.endsWith(mode === "chain" ? "<think>\n" : "<think>\n\n</think>\n\n")).toBe(true);
    }
  });

  it("are in each tool's form, every case in every way that its stage trains on", () => {
    for (const [run, modes] of [
      ["chains", ["chain"]],
      ["sft", ["chain", "direct"]],
    ] as const) {
      const want = expected(pruned, [...modes]);
      expect(lines(pruned, `llamafactory/data/${run}.jsonl`)).toEqual(
        want.map(({ prompt, target }) => ({ instruction: prompt, input: "", output: target })),
      );
      expect(lines(pruned, `axolotl/data/${run}.jsonl`)).toEqual(
        want.map(({ prompt, target }) => ({
          segments: [
            { label: false, text: prompt },
            { label: true, text: target },
          ],
        })),
      );
      expect(lines(pruned, `trl/data/${run}.jsonl`)).toEqual(
        want.map(({ prompt, target }) => ({ prompt, completion: target })),
      );
    }
    expect(lines(pruned, "trl/data/validation.jsonl")).toHaveLength(2 * pruned.study.validation.length);
    const info = jsonOf(pruned.host, "handover/llamafactory/data/dataset_info.json");
    for (const [name, { file_name }] of Object.entries<{ file_name: string }>(info)) {
      expect(file_name).toBe(`${name}.jsonl`);
      expect(pruned.host.files.has(`handover/llamafactory/data/${file_name}`)).toBe(true);
    }
  });

  it("leave out rows whose text those tools would obey, and say how many", async () => {
    const source = sourceFor(deepseek, { exports: { handover: ALL } });
    source.study.train[0].question += " <｜end▁of▁sentence｜>";
    source.study.train[1].chain = `<think>${source.study.train[1].chain}`;
    await handOver(source, { tools: ["trl"], thenStop: true });
    expect(lines(source, "trl/data/chains.jsonl")).toHaveLength(4);
    expect(textOf(source.host, "handover/README.md")).toContain(
      "3 rows are left out: their text spells a control token",
    );
    disposeModel(source.model);
  });
});

describe("the run files that are handed over", () => {
  const common = { steps: 10, rate: 2e-3, warmUp: 1, batch: [6, 2] };

  it("tell LLaMA-Factory what the recipe says", () => {
    const chains = yaml(qwen2, "llamafactory/chains.yaml");
    expect(chains).toMatchObject({
      model_name_or_path: "../base",
      finetuning_type: "lora",
      lora_rank: 2,
      lora_alpha: 4,
      lora_target: "q_proj,k_proj,v_proj,o_proj,gate_proj,up_proj,down_proj",
      template: "empty",
      per_device_train_batch_size: common.batch[0],
      gradient_accumulation_steps: common.batch[1],
      max_steps: common.steps,
      learning_rate: common.rate,
      lr_scheduler_type: "cosine_with_min_lr",
      lr_scheduler_kwargs: { min_lr_rate: 0.1 },
      warmup_steps: common.warmUp,
      adam_beta2: 0.95,
      max_grad_norm: 1,
      bf16: true,
      seed: 1,
      dataset: "chains",
    });
    expect(chains).not.toHaveProperty("adapter_name_or_path");
    expect(yaml(qwen2, "llamafactory/sft.yaml")).toMatchObject({ adapter_name_or_path: "out/chains", dataset: "sft" });
    expect(yaml(pruned, "llamafactory/sft.yaml").lora_target).toBe(
      "q_a_proj,q_b_proj,kv_a_proj_with_mqa,kv_b_proj,o_proj",
    );
  });

  it("tell axolotl the same", () => {
    expect(yaml(qwen2, "axolotl/sft.yaml")).toMatchObject({
      base_model: "../base",
      adapter: "lora",
      lora_model_dir: "out/chains",
      lora_r: 2,
      lora_alpha: 4,
      datasets: [{ path: "data/sft.jsonl", type: "input_output" }],
      micro_batch_size: common.batch[0],
      gradient_accumulation_steps: common.batch[1],
      max_steps: common.steps,
      num_epochs: 10,
      learning_rate: common.rate,
      cosine_min_lr_ratio: 0.1,
      warmup_steps: common.warmUp,
      train_on_inputs: false,
    });
  });

  it("tell TRL the same", () => {
    const settings = jsonOf(qwen2.host, "handover/trl/sft.json");
    expect(settings).toMatchObject({
      base: "../base",
      adapter: "out/chains",
      lora: { r: 2, lora_alpha: 4, lora_dropout: 0 },
      training: { max_steps: common.steps, learning_rate: common.rate, warmup_steps: common.warmUp, packing: false },
    });
    expect(yaml(qwen2, "trl/accelerate.yaml").deepspeed_config.zero_stage).toBe(2);
    const named = [...textOf(qwen2.host, "handover/trl/train.py").matchAll(/settings\["(\w+)"\]/g)].map(
      ([, key]) => key,
    );
    expect([...new Set(named)].toSorted()).toEqual(Object.keys(settings).toSorted());
  });

  it("have a length that cuts no row, and the learning rate's course", () => {
    const { tokenizer, study } = qwen2;
    const lengths = [...study.train, ...study.validation].map((item) => exampleOf(tokenizer, item, "chain").ids.length);
    expect(yaml(qwen2, "llamafactory/chains.yaml").cutoff_len).toBe(Math.max(...lengths));
    // What "cosine_with_min_lr" of transformers gives from its warm-up's end on.
    const { max_steps: steps, warmup_steps: warmUp, learning_rate: peak } = yaml(qwen2, "llamafactory/chains.yaml");
    for (let step = warmUp; step < steps; step++) {
      const cosine = 0.5 * (1 + Math.cos((Math.PI * (step - warmUp)) / (steps - warmUp)));
      expect(peak * (cosine * (1 - 0.1) + 0.1)).toBeCloseTo(learningRateAt(step, steps, peak), 12);
    }
  });
});

describe("the folder", () => {
  it("holds the model before tuning, in a form that the tools load", async () => {
    const inside = [...pruned.host.files].filter(([name]) => name.startsWith("handover/base/"));
    const { config, weights } = openCheckpoint(
      inside.map(([name, bytes]) => sourceOf(bytes, name.slice("handover/base/".length))),
    );
    expect(config.layers).toBeUndefined();
    const base = loadModelFrom(config, weights);
    detachLora(pruned.model);
    const ids = tinyIds(base, [9, 9]);
    expectNear(logitsOf(base, ids), logitsOf(pruned.model, ids), 1e-5);
    expect(checkpointTensors(base)).toHaveLength(deepseek.weights.tensors.size);
    disposeModel(base);
  });

  it("says what it holds, how it is started, and what is done otherwise", () => {
    const text = textOf(pruned.host, "handover/README.md");
    for (const part of [
      "It holds the training data as text",
      "llamafactory-cli train chains.yaml",
      "axolotl train sft.yaml --deepspeed deepspeed.json",
      "AXOLOTL_DO_NOT_TRACK",
      "accelerate launch --config_file accelerate.yaml",
      "bfloat16",
      "Adapters are on attention alone",
      "is written as zeros",
    ]) {
      expect(text).toContain(part);
    }
    expect(textOf(qwen2.host, "handover/README.md")).not.toContain("Adapters are on attention alone");
    expect(pruned.report.notes?.join()).toContain("handover/: it holds the training data as text");
  });

  it("has only the tools that were asked for", async () => {
    const source = sourceFor(deepseek, { exports: { handover: ALL } });
    await handOver(source, { tools: ["axolotl"], thenStop: false });
    const folders = new Set([...source.host.files.keys()].map((name) => name.split("/")[1]));
    expect(folders).toEqual(new Set(["base", "axolotl", "README.md", "SHA256SUMS"]));
    disposeModel(source.model);
  });
});

describe("a run", () => {
  const work = (exports: unknown) =>
    parseRecipe({
      ...recipeWith(undefined),
      stages: [
        { kind: "score", method: "gateFisher", cases: 2 },
        { kind: "prune", removeParameters: 0.05 },
        ...recipeWith(undefined).stages.map((stage) => ({ ...stage, steps: 1, batch: 2 })),
      ],
      ...(exports ? { exports } : {}),
    });

  it("that is to stop there leaves the tuning to the tools, and is finished", async () => {
    const host = new MemoryHost(deepseek);
    await expectNoLeak(async () => {
      const end = await runRecipe(work({ handover: ALL }), host, BACKEND);
      expect(end.type).toBe("finished");
    });
    expect(host.events.filter(({ type }) => type === "step")).toEqual([]);
    const { files, evaluations } = jsonOf(host, "report.json");
    expect(evaluations.map(({ point }: { point: string }) => point)).toEqual(["before", "before", "pruned", "pruned"]);
    expect(files.map(({ name }: { name: string }) => name)).toContain("handover/trl/train.py");
    expect(host.files.has("model/config.json")).toBe(true);
  });

  it("hands nothing over that was not asked to, and never data", async () => {
    const host = new MemoryHost(deepseek);
    await runRecipe(work(undefined), host, BACKEND);
    expect([...host.files.keys()].filter((name) => /handover|jsonl/.test(name))).toEqual([]);
  });

  it("that goes on after it tunes, too, and writes it once, resumed or not", async () => {
    const recipe = work({ handover: { tools: ["trl"], thenStop: false } });
    const first = new MemoryHost(deepseek);
    first.stopping = () => first.events.some(({ type }) => type === "step");
    expect((await runRecipe(recipe, first, BACKEND)).type).toBe("stopped");
    expect(first.files.has("handover/SHA256SUMS")).toBe(true);
    const second = new MemoryHost(deepseek);
    const end = await runRecipe(recipe, second, BACKEND, first.checkpoints.at(-1));
    expect(second.files.has("handover/SHA256SUMS")).toBe(false);
    const names = end.type === "finished" ? end.report.files.map(({ name }) => name) : [];
    expect(names.filter((name) => name === "handover/SHA256SUMS")).toHaveLength(1);
    expect(names).toContain("adapter/adapter_config.json");
  });

  it("without a tuning stage has nothing to hand over, and says so", () => {
    expect(() =>
      parseRecipe({
        ...recipeWith(undefined),
        stages: [{ kind: "recover", steps: 1, batch: 1, learningRate: 1e-3 }],
        exports: { handover: ALL },
      }),
    ).toThrow("the settings of its run files come from a stage chains or sft, and there is none");
  });

  it("that wants a form which the plan does not give ends before it trains", async () => {
    const host = new MemoryHost(deepseek);
    await expectNoLeak(async () => {
      await expect(runRecipe(work({ shape: "uniform" }), host, BACKEND)).rejects.toThrow(
        "cannot be exported as uniform",
      );
    });
    expect(host.events.some(({ type }) => type === "step")).toBe(false);
  });

  it("can be resumed for other exports than it began for", async () => {
    const first = new MemoryHost(deepseek);
    first.stopping = () => first.events.some(({ type }) => type === "step");
    await runRecipe(work(undefined), first, BACKEND);
    const host = new MemoryHost(deepseek);
    const end = await runRecipe(work({ shape: "padded", adapter: false }), host, BACKEND, first.checkpoints.at(-1));
    expect(end.type).toBe("finished");
    expect(jsonOf(host, "model/config.json")).not.toHaveProperty("espalier_layers");
    expect([...host.files.keys()].some((name) => name.startsWith("adapter/"))).toBe(false);
  });

  it.each(["f16", "int8"] as const)(
    "on a base that is stored as %s exports it as what it stands for, merged",
    async (storage) => {
      const files = await tinyModelFiles({ hidden_size: 32, moe_intermediate_size: 32 });
      const host = new MemoryHost(files);
      const stages = recipeWith(undefined).stages.map((stage) => ({ ...stage, steps: 1, batch: 2 }));
      await expectNoLeak(async () => {
        const end = await runRecipe(parseRecipe({ ...recipeWith(undefined), storage, stages }), host, BACKEND);
        expect(end.type).toBe("finished");
      });
      expect(jsonOf(host, "report.json").notes).toEqual([
        `model/: The base is as it was computed with, rounded to ${storage}, not as its own files have it.`,
      ]);
      expect(host.files.get("model/model.safetensors")!.length).toBeGreaterThan(4 * 2048 * 32);
    },
  );
});
