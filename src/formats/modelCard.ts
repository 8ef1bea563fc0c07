// The card of a model (README.md) as Hugging Face reads it: facts for programs between "---", then text for people.

import { writeYaml, type YamlValue } from "./yaml.ts";

export interface ModelCard {
  title: string;
  /** What it is and how it came about, a paragraph each. */
  about: string[];
  base: { name: string; license: License; files: { name: string; sha256: string }[] };
  /** The program that loads it, as Hugging Face calls it; null if none but Espalier does. */
  library: "transformers" | "peft" | null;
  tags: string[];
  /** "en", "zh". */
  languages: string[];
  data: { description: string; train: number; validation: number; test: number; sha256: string };
  seed: number;
  results: CardResult[];
  recipe: object;
  /** How to run it: a heading, then Markdown. */
  usage: [heading: string, text: string][];
  /** What it is not for, a sentence each. */
  limits: string[];
}

export interface CardResult {
  after: string;
  askedFor: string;
  /** From 0 to 1. */
  accuracy: number;
  interval: [number, number];
  macroF1: number;
  cases: number;
}

/** The keys by which a card tells a licence; none of them if it tells none. */
export type License = Partial<Record<(typeof LICENSE_KEYS)[number], string>>;

const LICENSE_KEYS = ["license", "license_name", "license_link"] as const;

/** The licence that another model's card tells in its facts. */
export function licenseOf(card: string | null): License {
  const [, facts = ""] = /^---\r?\n([\s\S]*?)\r?\n---/.exec(card ?? "") ?? [];
  const found = LICENSE_KEYS.map((key) => {
    const [, text] =
      new RegExp(`^${key}:[ \\t]*(?:"([^"\\n]+)"|'([^'\\n]+)'|([^\\s#"'\\[{|>][^\\n#]*))`, "m")
        .exec(facts)
        ?.filter((part, i) => i === 0 || part !== undefined) ?? [];
    return [key, text?.trim()] as const;
  });
  return Object.fromEntries(found.filter(([, text]) => text));
}

export function modelCard(card: ModelCard): string {
  return `---\n${writeYaml(factsOf(card))}---\n\n${textOf(card).join("\n\n")}\n`;
}

function factsOf({ base, library, tags, languages }: ModelCard): { [key: string]: YamlValue } {
  return {
    base_model: base.name,
    ...base.license,
    ...(library ? { library_name: library } : {}),
    pipeline_tag: "text-generation",
    ...(languages.length > 0 ? { language: languages } : {}),
    tags,
  };
}

function textOf(card: ModelCard): string[] {
  const { title, about, base, data, seed, results, recipe, usage, limits } = card;
  return [
    `# ${title}`,
    ...about,
    "## Base",
    `${base.name}. ${licenseSentence(base.license)}`,
    ...(base.files.length > 0
      ? [
          table(
            ["file", "SHA-256"],
            base.files.map(({ name, sha256 }) => [name, `\`${sha256}\``]),
          ),
        ]
      : []),
    "## Data",
    `${data.description}: ${data.train} cases to train on, ${data.validation} to validate, ${data.test} to test. ` +
      `Their SHA-256 is \`${data.sha256}\`. Nothing of their text is here; a model can repeat parts of what it was trained on.`,
    ...(results.length > 0 ? ["## Results", resultTable(results)] : []),
    ...usage.flatMap(([heading, text]) => [`## ${heading}`, text]),
    "## Limits",
    limits.map((limit) => `- ${limit}`).join("\n"),
    "## Recipe",
    `Seed ${seed}. The same recipe on the same machine gives the same model.`,
    `\`\`\`json\n${JSON.stringify(recipe, null, 2)}\n\`\`\``,
  ];
}

function licenseSentence({ license, license_name: name, license_link: link }: License): string {
  if (!license) return "Its files say nothing of a licence: find out what it allows before this model is passed on.";
  return `Its card names the licence ${name ?? license}${link ? ` (${link})` : ""}, which holds for this model, too.`;
}

function resultTable(results: CardResult[]): string {
  const percent = (share: number) => `${(100 * share).toFixed(1)} %`;
  return table(
    ["after", "asked for", "accuracy", "95 % interval", "macro-F1", "cases"],
    results.map(({ after, askedFor, accuracy, interval, macroF1, cases }) => [
      after,
      askedFor,
      percent(accuracy),
      `${percent(interval[0])} to ${percent(interval[1])}`,
      macroF1.toFixed(3),
      String(cases),
    ]),
  );
}

function table(head: string[], rows: string[][]): string {
  const line = (cells: string[]) => `| ${cells.map((cell) => cell.replaceAll("|", "\\|")).join(" | ")} |`;
  return [line(head), line(head.map(() => "---")), ...rows.map(line)].join("\n");
}
