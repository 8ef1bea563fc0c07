// The study that a recipe names, with what judges its answers.

import type { Grader } from "../evaluation/answers.ts";
import type { CaseStudy } from "../protocol/data.ts";
import type { Study } from "../protocol/recipe.ts";
import type { RunHost } from "./host.ts";
import { checkChain, hospitalStudy, normalise } from "./hospital/generate.ts";

export interface OpenStudy {
  study: CaseStudy;
  grader: Grader;
}

/** Generate a built-in study, or read an imported one. Throws a sentence if it has too few cases to work with. */
export async function openStudy(study: Study, host: RunHost): Promise<OpenStudy> {
  const opened: OpenStudy =
    study.kind === "hospital"
      ? {
          study: hospitalStudy(study),
          grader: { normalize: normalise, chainRight: (item, chain) => checkChain(item, chain).allRight },
        }
      : { study: await host.readStudy(study.datasetId), grader: { normalize: normalise, chainRight: null } };
  const { train, validation, test } = opened.study;
  for (const [name, cases] of Object.entries({ training: train, validation, test })) {
    if (cases.length === 0) {
      throw new Error(`The data set has no ${name} cases left. Import more rows, or hold out a larger share.`);
    }
  }
  return opened;
}
