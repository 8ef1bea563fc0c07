import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { en } from "../../src/app/i18n/en.ts";
import { formatsOf } from "../../src/app/i18n/format.ts";
import { zh } from "../../src/app/i18n/zh.ts";
import { notesForLlamaCpp } from "../../src/formats/ggufConfig.ts";
import { type DeepSeekConfig, readConfig } from "../../src/formats/hfConfig.ts";
import { formOf } from "../../src/recipes/export/forms.ts";

type Words = { [key: string]: unknown };

/** Every message with its path; those that take words are given recognisable ones. */
function said(words: Words, path = ""): [string, string | null, number][] {
  return Object.entries(words).flatMap(([key, value]): [string, string | null, number][] => {
    const at = path ? `${path}.${key}` : key;
    if (typeof value === "function") {
      const given = Array.from({ length: value.length }, (_, index) => `word${index}`);
      return [[at, String(value(...given)), value.length]];
    }
    return value && typeof value === "object" ? said(value as Words, at) : [[at, value as string | null, 0]];
  });
}

describe.each([
  ["English", en],
  ["Chinese", zh],
] as const)("the %s messages", (_, messages) => {
  it("are none of them empty", () => {
    for (const [path, text] of said(messages)) expect(text, path).not.toBe("");
  });

  it("say every word they are given", () => {
    for (const [path, text, count] of said(messages)) {
      for (let index = 0; index < count; index++) expect(text?.toLowerCase(), path).toContain(`word${index}`);
    }
  });
});

it("leaves nothing in English for Chinese readers but names", () => {
  const names = [
    "results.sliceName",
    "title",
    "engine.ready",
    "files.sha",
    "files.note",
    "results.none",
    "results.spread",
    "progress.lossFromTo",
    "stage.alpha",
  ];
  const english = new Map(said(en).map(([path, text]) => [path, text]));
  const same = said(zh).filter(([path, text]) => text !== null && english.get(path) === text);
  expect(same.map(([path]) => path).filter((path) => !names.includes(path) && !path.endsWith(".ffn"))).toEqual([]);
});

it("has no words on the page but those of the messages", () => {
  const folders = ["src/app", "src/app/panels", "src/app/widgets"];
  const files = folders.flatMap((folder) =>
    readdirSync(folder)
      .filter((name) => name.endsWith(".tsx"))
      .map((name) => join(folder, name)),
  );
  const written = files.flatMap((file) =>
    [
      ...readFileSync(file, "utf8").matchAll(
        /(?:>|^)\s*([A-Z][a-z]+(?: [a-z]+)*)\s*<\/|(?:aria-label|title|placeholder|label)="([^"]+)"/gm,
      ),
    ].map((match) => `${file}: ${match[1] ?? match[2]}`),
  );
  expect(files.length).toBeGreaterThan(15);
  expect(written.filter((text) => !text.endsWith(": "))).toEqual([]);
});

it("says in Chinese all that the engine enters of written files", () => {
  const config = readConfig(JSON.parse(readFileSync("public/models/deepseek-nano/config.json", "utf8")));
  const pruned = { ...config, layers: Array.from({ length: config.numHiddenLayers }, () => ({})) };
  const notes = [
    ...(["perLayer", "uniform", "padded"] as const).map((shape) => formOf(pruned, shape).note ?? ""),
    ...notesForLlamaCpp({ ...config, rmsNormEps: 1e-5, qLoraRank: null, numNextnPredictLayers: 1 } as DeepSeekConfig),
    ...["src/recipes/exports.ts", "src/recipes/handOver.ts", "src/recipes/export/gguf.ts"].flatMap((file) =>
      [
        ...readFileSync(file, "utf8").matchAll(
          /(?:"handover\/: |`)((?:The (?:base|weights)|it holds|There is) [^"`]+)["`]/g,
        ),
      ].map(([, note]) => note.replaceAll("${stored}", "f16").replaceAll("${dtype}", "bf16")),
    ),
    "3 tensors are F16 because their rows are no whole blocks of 32, the first a.weight with rows of 48.",
  ];
  expect(notes).toHaveLength(11);
  for (const note of notes) expect(zh.files.note(note), note).toMatch(/^[^a-z]*[\u4e00-\u9fff]|^llama\.cpp 在/);
  expect(zh.files.note(notes[10])).toContain("3 个张量");
  expect(zh.files.note("It is new.")).toBe("It is new.");
});

describe("numbers", () => {
  const format = formatsOf("en");
  it.each([
    [format.whole(12345.4), "12,345"],
    [format.percent(0.9333, 1), "93.3%"],
    [format.change(-0.404), "-40%"],
    [format.change(0), "0%"],
    [format.precise(0.00012345), "1.23E-4"],
    [format.precise(12.345), "12.3"],
    [format.precise(0), "0"],
    [format.bytes(999), "999 B"],
    [format.bytes(2_248_736), "2.2 MB"],
    [format.bytes(3.1e9), "3.10 GB"],
    [format.duration(187.4), "3:07"],
    [format.duration(3725), "1:02:05"],
  ])("read %s", (found, wanted) => expect(found).toBe(wanted));
});
