// What a person takes away from a run: adapters with the base they fit, the merged model in the forms asked for, the report.

import type { Tokenizer } from "../data/tokenizer.ts";
import { percent, whole } from "../evaluation/reportMarkup.ts";
import { reportHtml } from "../evaluation/report.ts";
import { modelCard } from "../formats/modelCard.ts";
import { writeAdapter } from "../formats/peftAdapter.ts";
import type { Model } from "../models/decoder.ts";
import { checkpointTensors } from "../models/weights.ts";
import type { CaseStudy } from "../protocol/data.ts";
import { type Exports, exportsOf } from "../protocol/recipe.ts";
import type { Report } from "../protocol/report.ts";
import { adapterOf, loraTensors } from "../training/lora.ts";
import { mergedTensors } from "../training/merged.ts";
import { type SharedCard, sharedCard } from "./export/card.ts";
import { writeCheckpoint } from "./export/checkpoint.ts";
import { writeFile, writeFolder } from "./export/folder.ts";
import { type Form, formForOthers, formOf } from "./export/forms.ts";
import { fileName, writeGgufAdapterFile, writeGgufFiles } from "./export/gguf.ts";
import type { ModelFiles, NamedFile, RunHost } from "./host.ts";

/** What is exported, and from where. */
export interface ExportSource {
  model: Model;
  /** The base model's files. */
  files: ModelFiles;
  tokenizer: Tokenizer;
  study: CaseStudy;
  /** Gains the files that are written, and what is to be known of them. */
  report: Report;
  host: RunHost;
}

/**
 * adapter/ in PEFT's form and, where the run changed the model before, base/: what the adapter fits. The adapters stay attached.
 *
 * Does nothing if the model has no adapters, or the recipe does not want them by themselves.
 */
export async function exportAdapter(source: ExportSource): Promise<void> {
  const { model, report, host } = source;
  const { shape, adapter: wanted } = exportsOf(report.recipe);
  if (!wanted || loraTensors(model).length === 0) return;
  const form = formOf(model.config, shape);
  const card = await sharedCard(report, source.study, source.files);
  const ownBase = changesBase(report);
  const baseName = ownBase ? `${card.base.name} (the model in base/)` : card.base.name;
  const adapter = form.adapter(await adapterOf(model, baseName));
  const files = await writeFolder(host, "adapter", async (folder) => {
    const { config, weights } = writeAdapter(adapter);
    await folder.write("adapter_config.json", config);
    await folder.write("adapter_model.safetensors", weights);
    await folder.write(
      "README.md",
      modelCard(adapterCard(card, report, ownBase ? form : null, storageOf(source.files, report))),
    );
  });
  add(report, files, []);
  if (!ownBase) return;
  const base = await writeFolder(host, "base", async (folder) => {
    await writeCheckpoint(folder, written(source, form, checkpointTensors(model)));
    await folder.write("README.md", modelCard(baseCard(card, report, form)));
  });
  add(report, base, notesOf("base/", form));
}

/** model/, the adapters merged in as it is written (the model stays as it is); gguf/; report.json and report.html. */
export async function exportModel(source: ExportSource): Promise<void> {
  const { model, report, host } = source;
  const { shape, gguf } = exportsOf(report.recipe);
  const form = formOf(model.config, shape);
  const card = await sharedCard(report, source.study, source.files);
  const notes = [...(form.note ? [form.note] : []), ...roundingNotes(source)];
  const files = await writeFolder(host, "model", async (folder) => {
    await writeCheckpoint(folder, written(source, form, mergedTensors(model)));
    await folder.write("README.md", modelCard(mergedCard(card, report, form, notes)));
  });
  add(
    report,
    files,
    notes.map((note) => `model/: ${note}`),
  );
  if (gguf.length > 0) await exportGguf(source, gguf);
  await writeFile(host, "report.json", report);
  await writeFile(host, "report.html", reportHtml(report));
}

async function exportGguf(source: ExportSource, types: Exports["gguf"]): Promise<void> {
  const { model, report, host, files: parts, tokenizer } = source;
  const { shape, adapter } = exportsOf(report.recipe);
  const form = formForOthers(model.config, shape);
  const named = { name: report.recipe.name, config: form.config };
  const notes: string[] = [];
  const files = await writeFolder(host, "gguf", async (folder) => {
    const tensors = () => form.tensors(mergedTensors(model));
    notes.push(...(await writeGgufFiles(folder, { ...named, parts, tokenizer, tensors, types })));
    // llama.cpp leaves adapters of DeepSeek's attention out without a word; a base that the run changed nobody has as GGUF.
    if (!adapter || loraTensors(model).length === 0 || model.config.family !== "qwen2" || changesBase(report)) return;
    await writeGgufAdapterFile(folder, named, await adapterOf(model, report.recipe.model));
  });
  add(report, files, [...notesOf("gguf/", form), ...notes.map((note) => `gguf/: ${note}`)]);
}

function written({ files, tokenizer, report }: ExportSource, form: Form, own: ReturnType<typeof checkpointTensors>) {
  return {
    config: form.config,
    tensors: form.tensors(own),
    parts: files,
    tokenizer,
    exports: exportsOf(report.recipe),
  };
}

/** Whether adapters were trained on a model that nobody has but the run: pruned, or trained as a whole. */
export function changesBase({ plan, stages }: Report): boolean {
  return plan !== null || stages.some(({ kind }) => kind === "recover");
}

function add(report: Report, files: NamedFile[], notes: string[]): void {
  report.files.push(...files);
  report.notes = [...new Set([...(report.notes ?? []), ...notes])];
}

const notesOf = (folder: string, { note }: Form): string[] => (note ? [`${folder}: ${note}`] : []);

/** What is lost between the model that was examined and the one that is written. */
function roundingNotes({ files, report }: ExportSource): string[] {
  const { dtype } = exportsOf(report.recipe);
  const stored = storageOf(files, report);
  return [
    ...(stored === "f32"
      ? []
      : [`The base is as it was computed with, rounded to ${stored}, not as its own files have it.`]),
    ...(dtype === "f32" ? [] : [`The weights are rounded to ${dtype}; the results are those of the model before.`]),
  ];
}

/** What the base was computed with. */
function storageOf({ weights }: ModelFiles, { recipe }: Report): string {
  return weights.storage ?? recipe.storage ?? "f32";
}

function mergedCard(card: SharedCard, report: Report, form: Form, notes: string[]) {
  return {
    ...card,
    title: `${card.base.name}, tuned by the recipe "${report.recipe.name}"`,
    about: [...originOf(report), ...notes],
    library: form.loadsEverywhere ? ("transformers" as const) : null,
    tags: tagsOf(report),
    usage: usageOf(report, form),
  };
}

function baseCard(card: SharedCard, report: Report, form: Form) {
  return {
    ...mergedCard(card, report, form, []),
    title: `What the adapter of "${report.recipe.name}" was trained on`,
    about: [
      "The model before tuning, to which the adapter in adapter/ belongs. The results are those of the tuned model.",
      ...originOf(report),
      ...(form.note ? [form.note] : []),
    ],
  };
}

/** `ownBase`: the form of the base that is exported beside it; null where the base is as everybody has it. */
function adapterCard(card: SharedCard, report: Report, ownBase: Form | null, stored: string) {
  const loads = ownBase?.loadsEverywhere ?? true;
  const base = ownBase ? "base" : card.base.name;
  return {
    ...card,
    title: `A LoRA adapter of ${card.base.name}, trained by the recipe "${report.recipe.name}"`,
    about: [
      ...originOf(report),
      ownBase
        ? "It fits the model in base/ and no other: the shapes or the weights of the original are others."
        : `It fits ${card.base.name} as it is.${stored === "f32" ? "" : ` It was trained on the base rounded to ${stored}.`}`,
      ...(ownBase?.note ? [`The base: ${ownBase.note}`] : []),
    ],
    library: loads ? ("peft" as const) : null,
    tags: ["lora", ...tagsOf(report)],
    usage: [
      [
        "How to run it",
        loads
          ? python([
              "from peft import PeftModel",
              "from transformers import AutoModelForCausalLM",
              "",
              `base = AutoModelForCausalLM.from_pretrained(${JSON.stringify(base)})`,
              'model = PeftModel.from_pretrained(base, "adapter")',
            ])
          : "With Espalier, which reads base/ and adapter/; or take the merged model.",
      ] as [string, string],
    ],
  };
}

function originOf({ environment, model, plan, recipe }: Report): string[] {
  const stages = recipe.stages.map(({ kind }) => kind).join(", ");
  const [before, after] = [whole(model.before.total), whole(model.after.total)];
  return [
    `Made with Espalier ${environment.espalier} by the stages ${stages}.`,
    plan
      ? `Pruning removed ${percent(plan.removedShare)} of the parameters: ${before} before, ${after} after.`
      : `It has ${after} parameters; none were removed.`,
  ];
}

function tagsOf({ plan }: Report): string[] {
  return ["espalier", ...(plan ? ["pruned"] : [])];
}

function usageOf(report: Report, form: Form): [string, string][] {
  const { gguf } = exportsOf(report.recipe);
  const file = gguf.length > 0 ? fileName(report.recipe.name, gguf[0]) : null;
  return [
    [
      "How to run it in transformers",
      form.loadsEverywhere
        ? python([
            "from transformers import AutoModelForCausalLM, AutoTokenizer",
            "",
            'tokenizer = AutoTokenizer.from_pretrained("model")',
            'model = AutoModelForCausalLM.from_pretrained("model", dtype="auto")',
            'messages = [{"role": "user", "content": "..."}]',
            'inputs = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True, return_tensors="pt")',
            "reply = model.generate(**inputs, max_new_tokens=512)[0, inputs['input_ids'].shape[1]:]",
            "print(tokenizer.decode(reply))",
          ])
        : 'Not as it is. Run the recipe with `"exports": { "shape": "padded" }` for a form that transformers loads.',
    ],
    [
      "How to run it in llama.cpp and Ollama",
      file
        ? `\`\`\`\nllama-cli -m gguf/${file}\nollama create mine -f gguf/Modelfile && ollama run mine\n\`\`\``
        : 'Run the recipe with `"exports": { "gguf": ["Q8_0"] }` for a file that they load.',
    ],
  ];
}

const python = (lines: string[]): string => ["```python", ...lines, "```"].join("\n");
