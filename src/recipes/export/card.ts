// What the card of an exported model says, from the report of the run that made it.

import { createSHA256 } from "hash-wasm";
import { licenseOf, type ModelCard } from "../../formats/modelCard.ts";
import type { CaseStudy } from "../../protocol/data.ts";
import type { Report } from "../../protocol/report.ts";
import type { ModelFiles } from "../host.ts";

/** What of a card is the same for all that a run exports. */
export type SharedCard = Omit<ModelCard, "title" | "about" | "library" | "tags" | "usage">;

export async function sharedCard(report: Report, study: CaseStudy, base: ModelFiles): Promise<SharedCard> {
  const { recipe, seed, evaluations } = report;
  const all = [...study.train, ...study.validation, ...study.test];
  return {
    base: {
      name: baseName(recipe.model, base.config),
      license: licenseOf(base.card),
      files: (await base.sources?.()) ?? [],
    },
    languages: [...new Set(all.map(({ language }) => language))].toSorted(),
    data: {
      description:
        recipe.study.kind === "hospital"
          ? 'Generated cases of the study "hospital", a teaching protocol'
          : "Cases imported by the person who ran it",
      train: study.train.length,
      validation: study.validation.length,
      test: study.test.length,
      sha256: await hashOf(study),
    },
    seed,
    results: evaluations.map(({ point, mode, accuracy, interval, macroF1, n }) => ({
      after: point,
      askedFor: mode,
      accuracy,
      interval,
      macroF1,
      cases: n,
    })),
    recipe,
    limits: limitsOf(report),
  };
}

/** The name under which a hub has it, where the config tells; else the recipe's. */
function baseName(model: string, config: unknown): string {
  const { _name_or_path: path } = config as { _name_or_path?: unknown };
  return typeof path === "string" && /^[\w.-]+\/[\w.-]+$/.test(path) && !path.startsWith(".") ? path : model;
}

function limitsOf({ recipe: { study } }: Report): string[] {
  return [
    "The numbers above hold for cases like those that were tested. What is unlike them was not examined.",
    "A chain of thought may be wrong where its answer is right, and the other way round.",
    "Let a person who knows the matter check what it says before anything hangs on it.",
    ...(study.kind === "hospital"
      ? ["The conditions and findings of the teaching protocol are an exercise, not medical advice."]
      : ["It was tuned on data that may be private, and can repeat parts of them: treat it as you treat the data."]),
  ];
}

/** Of the cases as lines of JSON, part after part: the same for the same cases in the same order. */
async function hashOf({ train, validation, test }: CaseStudy): Promise<string> {
  const hash = await createSHA256();
  for (const cases of [train, validation, test]) {
    for (const { question, chain, answer } of cases) hash.update(`${JSON.stringify([question, chain, answer])}\n`);
    hash.update("\n");
  }
  return hash.digest("hex");
}
