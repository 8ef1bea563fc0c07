// The case study "hospital": a protocol sheet, a patient, and the one condition that the protocol leaves.
//
// The rules stand in the question. With fixed rules a diagnosis is linear in the findings and is learned without any
// chain; with rules to look up, the answer needs steps that depend on each other.

import type { Case, CaseStudy } from "../../protocol/data.ts";
import { type Random, randomStream } from "../random.ts";
import {
  type CandidateSource,
  drawSheet,
  type Frame,
  type Language,
  readQuestion,
  type Sheet,
  writeChain,
  writeQuestion,
  writeStep,
} from "../sheet.ts";
import { CONDITIONS, type Condition, FINDINGS } from "./facts.ts";
import { HELD_OUT_WORDING, TRAINING_WORDING, type Wording } from "./wording.ts";

export interface HospitalOptions {
  seed: number;
  /** Cases in each split. */
  train: number;
  validation: number;
  test: number;
  /** Fewest and most candidate conditions on a sheet, at least 2. Default [3, 4]. */
  candidates?: [fewest: number, most: number];
  /** Findings that a condition needs, 1 to 3. Default 2. */
  needs?: number;
  /** How many of the wrong candidates, 0 to 1, have none of their findings; the others fail in one point. Default 0.3. */
  easyShare?: number;
  /** How many of the cases, 0 to 1, are in Chinese. Default 0.5. */
  chineseShare?: number;
  /** How many of the test cases, 0 to 1, are worded as no training case is. Default 0.5. */
  unseenWordingShare?: number;
  /** How many of the test cases, 0 to 1, have a right condition with needs it never has in training. Default 0.5. */
  unseenCombinationShare?: number;
}

export interface CheckedChain {
  /** One per line of the chain. Right: the line judges one condition of the sheet as the facts demand, once. */
  steps: { text: string; right: boolean }[];
  /** Every step is right and every condition of the sheet has one. */
  allRight: boolean;
}

type Split = "train" | "validation" | "test";
interface Settings extends Required<HospitalOptions> {
  /** What a rule about a condition is drawn from. */
  sources: { seen: CandidateSource; heldOut: CandidateSource }[];
}

const DEFAULTS = {
  candidates: [3, 4] as [number, number],
  needs: 2,
  easyShare: 0.3,
  chineseShare: 0.5,
  unseenWordingShare: 0.5,
  unseenCombinationShare: 0.5,
};

const FINDING_NAMES = FINDINGS.map((finding) => finding.en);
const CHINESE = new Map([...FINDINGS, ...CONDITIONS].map(({ en, zh }) => [en, zh]));
const MOST_DENIED = 3;
const MOST_UNRELATED = 1;
const MOST_ATTEMPTS = 1000;

/**
 * Generate the study. The same options give the same cases, and a longer split begins with the shorter one's cases.
 *
 * No two cases of a study, whatever their wording and language, have the same sheet and facts.
 */
export function hospitalStudy(options: HospitalOptions): CaseStudy {
  const settings = completeOptions(options);
  const taken = new Set<string>();
  // Test first: its cases stay the same when more training cases are asked for.
  const test = drawSplit(settings, "test", taken);
  const validation = drawSplit(settings, "validation", taken);
  const train = drawSplit(settings, "train", taken);
  return { name: "hospital", seed: settings.seed, train, validation, test };
}

/** Whether the reply is the case's answer, whatever its case, spaces, width of letters and closing full stop. */
export function gradeAnswer(question: Case, reply: string): boolean {
  return normalise(reply) === normalise(question.answer);
}

/** Check a chain against the question, line by line, without looking at the case's own chain or answer. */
export function checkChain({ question, language }: Case, chain: string): CheckedChain {
  const sheet = readQuestion(question, language);
  const wanted = new Map(
    sheet.candidates.map((candidate) => [candidate.name, writeStep(candidate, sheet.present, language)]),
  );
  const open = new Set(wanted.values());
  const lines = chain
    .split("\n")
    .map((line) => line.trim())
    .filter((line) => line !== "");
  const steps = lines.map((text) => ({ text, right: open.delete(text) }));
  return { steps, allRight: open.size === 0 && steps.every((step) => step.right) };
}

/** Every answer of the study, sorted: the classes of a macro-F1. */
export function labels(study: CaseStudy): string[] {
  const answers = [...study.train, ...study.validation, ...study.test].map((one) => one.answer);
  return [...new Set(answers)].toSorted();
}

/**
 * The lists of needs of a condition, and which of them no training case may use: about a quarter, at least one.
 *
 * They depend on the table of facts alone, not on the seed, so that studies of different seeds can be mixed.
 */
export function combinations(condition: Condition, needs: number): { seen: string[][]; heldOut: string[][] } {
  const all = randomStream("combinations", condition.en).shuffle(subsets(condition.findings, needs));
  const count = Math.max(1, Math.floor(all.length / 4));
  return { seen: all.slice(count), heldOut: all.slice(0, count) };
}

function drawSplit(settings: Settings, split: Split, taken: Set<string>): Case[] {
  return Array.from({ length: settings[split] }, (_, index) => {
    for (let attempt = 0; attempt < MOST_ATTEMPTS; attempt++) {
      const random = randomStream("hospital", settings.seed, split, index, attempt);
      const drawn = drawCase(random, settings, split, `hospital-${settings.seed}-${split}-${index}`);
      if (drawn && !taken.has(drawn.key)) {
        taken.add(drawn.key);
        return drawn.case;
      }
    }
    throw new Error(
      `The table of facts gives no ${index + 1} different ${split} cases with these settings. Ask for fewer cases or more candidates.`,
    );
  });
}

/** A case, and a key that two cases share when their facts are the same. */
function drawCase(
  random: Random,
  settings: Settings,
  split: Split,
  id: string,
): { case: Case; key: string } | undefined {
  const language: Language = random.next() < settings.chineseShare ? "zh" : "en";
  const unseenWording = split === "test" && random.next() < settings.unseenWordingShare;
  const unseenCombination = split === "test" && random.next() < settings.unseenCombinationShare;
  const [fewest, most] = settings.candidates;
  const count = fewest + random.integer(most - fewest + 1);
  const right = random.integer(count);
  const sources = random
    .shuffle(settings.sources)
    .slice(0, count)
    .map(({ seen, heldOut }, place) => (unseenCombination && place === right ? heldOut : seen));
  const sheet = drawSheet(random, sources, right, FINDING_NAMES, {
    exclusion: true,
    easyShare: settings.easyShare,
    denied: MOST_DENIED,
    unrelated: MOST_UNRELATED,
  });
  if (!sheet) {
    return undefined;
  }
  const frame = drawFrame(random, (unseenWording ? HELD_OUT_WORDING : TRAINING_WORDING)[language]);
  const shown = language === "zh" ? inChinese(sheet) : sheet;
  return {
    case: {
      id,
      language,
      question: writeQuestion(shown, frame, language),
      chain: writeChain(shown, language),
      answer: shown.candidates[right].name,
      slices: [
        unseenWording ? "unseen wording" : "seen wording",
        unseenCombination ? "unseen combination" : "seen combination",
        `${count} candidates`,
        language,
      ],
    },
    key: caseKey(sheet),
  };
}

function drawFrame(random: Random, wording: Wording): Frame {
  const [present, denied] = random.pick(wording.facts);
  return { opening: random.pick(wording.openings), present, denied, ask: random.pick(wording.asks) };
}

function inChinese(sheet: Sheet): Sheet {
  return {
    candidates: sheet.candidates.map(({ name, needs, excludedBy }) => ({
      name: chineseName(name),
      needs: needs.map(chineseName),
      excludedBy: excludedBy === undefined ? undefined : chineseName(excludedBy),
    })),
    present: sheet.present.map(chineseName),
    denied: sheet.denied.map(chineseName),
  };
}

function chineseName(english: string): string {
  const name = CHINESE.get(english);
  if (name === undefined) {
    throw new Error(`The table of facts has no Chinese name for "${english}".`);
  }
  return name;
}

/** Order is left out of it: a shuffled sheet is the same case. */
function caseKey(sheet: Sheet): string {
  const rules = sheet.candidates.map(
    (candidate) => `${candidate.name}:${candidate.needs.toSorted().join()}!${candidate.excludedBy}`,
  );
  return `${rules.toSorted().join(";")}|${sheet.present.toSorted().join()}`;
}

function subsets(items: string[], size: number): string[][] {
  if (size === 0) {
    return [[]];
  }
  return items.flatMap((item, index) => subsets(items.slice(index + 1), size - 1).map((rest) => [item, ...rest]));
}

export function normalise(text: string): string {
  return text
    .normalize("NFKC")
    .toLowerCase()
    .replace(/\s+/g, " ")
    .trim()
    .replace(/[.。!]+$/, "");
}

/** Throws if the options make no study. */
function completeOptions(options: HospitalOptions): Settings {
  const complete = { ...DEFAULTS, ...options };
  const [fewest, most] = complete.candidates;
  for (const name of ["train", "validation", "test"] as const) {
    if (!Number.isInteger(complete[name]) || complete[name] < 0) {
      throw new Error(`The number of ${name} cases must be a whole number from 0 up; it is ${complete[name]}.`);
    }
  }
  if (!(Number.isInteger(fewest) && Number.isInteger(most) && fewest >= 2 && most >= fewest && most <= 6)) {
    throw new Error(`candidates must be two whole numbers, 2 <= fewest <= most <= 6; they are ${fewest} and ${most}.`);
  }
  if (![1, 2, 3].includes(complete.needs)) {
    throw new Error(`A condition can need 1, 2 or 3 findings; needs is ${complete.needs}.`);
  }
  for (const name of ["easyShare", "chineseShare", "unseenWordingShare", "unseenCombinationShare"] as const) {
    if (!(complete[name] >= 0 && complete[name] <= 1)) {
      throw new Error(`${name} is a share from 0 to 1; it is ${complete[name]}.`);
    }
  }
  return { ...complete, sources: CONDITIONS.map((condition) => candidateSources(condition, complete.needs)) };
}

function candidateSources(condition: Condition, needs: number): Settings["sources"][number] {
  const { seen, heldOut } = combinations(condition, needs);
  // A finding that is typical of the condition would be an odd reason to exclude it.
  const excludedBy = FINDING_NAMES.filter((finding) => !condition.findings.includes(finding));
  const name = condition.en;
  return { seen: { name, needs: seen, excludedBy }, heldOut: { name, needs: heldOut, excludedBy } };
}
