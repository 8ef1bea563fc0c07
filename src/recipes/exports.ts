// What a person takes away from a run: the adapter with the base it fits, the merged model, the report.

import { writeConfig } from "../formats/hfConfig.ts";
import { reportHtml } from "../evaluation/report.ts";
import { writeAdapter } from "../formats/peftAdapter.ts";
import type { Model } from "../models/decoder.ts";
import { saveModel } from "../models/weights.ts";
import type { Report } from "../protocol/report.ts";
import type { ModelFiles, RunHost } from "./host.ts";
import { adapterOf, loraTensors, mergeLora } from "../training/lora.ts";

type WrittenFile = Report["files"][number];

/** Collects what is written, with sizes and hashes, for the report. */
interface Parcel {
  files: WrittenFile[];
  write(name: string, content: Uint8Array | string | object): Promise<void>;
}

function openParcel(host: RunHost): Parcel {
  const files: WrittenFile[] = [];
  return {
    files,
    async write(name, content) {
      host.onEvent({ type: "exporting", name });
      const text = typeof content === "string" ? content : null;
      const bytes =
        content instanceof Uint8Array
          ? content
          : new TextEncoder().encode(text ?? `${JSON.stringify(content, null, 2)}\n`);
      await host.writeFile(name, bytes);
      files.push({ name, sizeBytes: bytes.length, sha256: await sha256(bytes) });
    },
  };
}

async function sha256(bytes: Uint8Array): Promise<string> {
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", bytes as Uint8Array<ArrayBuffer>));
  return Array.from(digest, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/**
 * adapter/ in PEFT's form and base/, the pruned and recovered model it was trained on. The adapters stay attached.
 *
 * Does nothing if the model has no adapters.
 */
export async function exportAdapter(
  model: Model,
  base: ModelFiles,
  report: Report,
  host: RunHost,
): Promise<WrittenFile[]> {
  if (loraTensors(model).length === 0) return [];
  const parcel = openParcel(host);
  const adapter = writeAdapter(await adapterOf(model, `${report.recipe.model} (the pruned model in base/)`));
  await parcel.write("adapter/adapter_config.json", adapter.config);
  await parcel.write("adapter/adapter_model.safetensors", adapter.weights);
  await writeModel("base", model, base, parcel);
  return parcel.files;
}

/** model/, the adapters merged in (the model is changed), report.json and report.html. Completes `report.files`. */
export async function exportModel(model: Model, base: ModelFiles, report: Report, host: RunHost): Promise<void> {
  mergeLora(model);
  const parcel = openParcel(host);
  await writeModel("model", model, base, parcel);
  await parcel.write("model/README.md", modelCard(report));
  report.files.push(...parcel.files);
  const last = openParcel(host);
  await last.write("report.json", report);
  await last.write("report.html", reportHtml(report));
}

/** Weights as they are (adapters apart), in float32: what is loaded again computes the same to the last bit. */
async function writeModel(folder: string, model: Model, base: ModelFiles, parcel: Parcel): Promise<void> {
  await parcel.write(`${folder}/config.json`, { ...writeConfig(model.config), torch_dtype: "float32" });
  await parcel.write(`${folder}/model.safetensors`, await saveModel(model, "F32"));
  await parcel.write(`${folder}/tokenizer.json`, base.tokenizer as object);
  await parcel.write(`${folder}/tokenizer_config.json`, base.tokenizerConfig as object);
}

function modelCard(report: Report): string {
  const { model, recipe, plan } = report;
  const percent = (share: number) => `${(100 * share).toFixed(1)} %`;
  const rows = report.evaluations.map(
    ({ point, mode, accuracy, interval, macroF1, n }) =>
      `| ${point} | ${mode} | ${percent(accuracy)} | ${percent(interval[0])} to ${percent(interval[1])} | ${macroF1.toFixed(3)} | ${n} |`,
  );
  const layers = plan
    ? [
        "",
        `${percent(plan.removedShare)} of the parameters were removed. Layers differ in size: \`espalier_layers\` in`,
        "`config.json` says how, and programs that expect equal layers cannot load the weights.",
      ]
    : [];
  return [
    `# ${recipe.model}, tuned by the recipe "${recipe.name}"`,
    "",
    `Made with Espalier ${report.environment.espalier} from ${recipe.model}: ${model.before.total} parameters before,`,
    `${model.after.total} after. Data: ${describeStudy(report)}. Seed ${report.seed}.`,
    ...layers,
    "",
    "| after | asked for | accuracy | 95 % interval | macro-F1 | cases |",
    "| --- | --- | --- | --- | --- | --- |",
    ...rows,
    "",
    "The recipe:",
    "",
    "```json",
    JSON.stringify(recipe, null, 2),
    "```",
    "",
    ...(recipe.study.kind === "hospital"
      ? ["A teaching protocol: its conditions and findings are an exercise, not medical advice.", ""]
      : []),
  ].join("\n");
}

/** Counts, never text: the data stay where they are. */
function describeStudy({ recipe: { study } }: Report): string {
  if (study.kind === "imported") return "cases imported by the person who ran it";
  return `${study.train} generated training cases of the study "hospital", ${study.validation} for validation, ${study.test} for test`;
}
