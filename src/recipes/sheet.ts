// Rules written in the question, and facts to match them with: the shape that the case study and the drills share.
//
// A candidate is kept when all it needs is present and what excludes it is not. What is not named as present counts as
// absent. On a sheet of several candidates exactly one is kept. The chain takes the candidates in the order of the sheet:
//
//   gout: swelling+, redness+, not fever-, keep
//   flu: fever-, out

import type { Random } from "./random.ts";

export type Language = "en" | "zh";

export interface Candidate {
  name: string;
  needs: string[];
  /** Its presence rules the candidate out. */
  excludedBy?: string;
}

export interface Sheet {
  candidates: Candidate[];
  present: string[];
  /** Said to be absent. Some of what is absent is not mentioned at all. */
  denied: string[];
}

/** The words around a sheet. */
export interface Frame {
  opening: string;
  present: string;
  denied: string;
  ask: string;
}

/** What a candidate of a sheet may be made of. */
export interface CandidateSource {
  name: string;
  /** Each entry is one possible list of needs. */
  needs: string[][];
  /** What may exclude it; nothing that is in its needs. */
  excludedBy: string[];
}

export interface SheetShape {
  /** Whether candidates have something that excludes them. */
  exclusion: boolean;
  /** How many of the wrong candidates, 0 to 1, have nothing they need. The others fail in one point. */
  easyShare: number;
  /** At most this many absent properties are denied in words. */
  denied: number;
  /** At most this many properties are present that no candidate asks for. */
  unrelated: number;
}

const SIGNS = {
  en: { colon: ": ", comma: ", ", not: "not ", keep: "keep", out: "out" },
  // A sign on both sides of every name: a tokenizer that knows no Chinese words then cuts the name alike everywhere.
  zh: { colon: "：", comma: "，", not: "忌：", keep: "保留", out: "排除" },
};

const TRIES = 200;

/**
 * Draw rules and facts such that only the candidate at `right` is kept.
 *
 * `properties` are all that may be present. Undefined when the sources allow no such sheet within some tries.
 */
export function drawSheet(
  random: Random,
  sources: CandidateSource[],
  right: number,
  properties: string[],
  shape: SheetShape,
): Sheet | undefined {
  const shared = sources.map((source) => neededByOthers(source, sources));
  for (let attempt = 0; attempt < TRIES; attempt++) {
    const candidates = sources.map((source, place) => drawCandidate(random, source, shared[place], shape));
    const status = drawStatus(random, candidates, right, shape.easyShare);
    if (status) {
      return withFacts(random, candidates, status, properties, shape);
    }
  }
  return undefined;
}

function drawCandidate(random: Random, source: CandidateSource, shared: string[], shape: SheetShape): Candidate {
  const candidate: Candidate = { name: source.name, needs: random.shuffle(random.pick(source.needs)) };
  if (shape.exclusion) {
    // Half of the exclusions are what other candidates need, so that one finding speaks for one and against another.
    candidate.excludedBy = random.pick(shared.length > 0 && random.next() < 0.5 ? shared : source.excludedBy);
  }
  return candidate;
}

/** What may exclude this source and may be needed by another. */
function neededByOthers(source: CandidateSource, all: CandidateSource[]): string[] {
  const needed = new Set(all.filter((other) => other !== source).flatMap((other) => other.needs.flat()));
  return source.excludedBy.filter((property) => needed.has(property));
}

/** Which properties are present, so that the right candidate is kept and each other fails in its own way. */
function drawStatus(
  random: Random,
  candidates: Candidate[],
  right: number,
  easyShare: number,
): Map<string, boolean> | undefined {
  const status = new Map<string, boolean>();
  const set = (property: string | undefined, value: boolean): boolean => {
    if (property === undefined || (status.get(property) ?? value) !== value) {
      return property === undefined;
    }
    status.set(property, value);
    return true;
  };
  const needed = (candidate: Candidate, missing: (index: number) => boolean): boolean =>
    candidate.needs.every((need, index) => set(need, !missing(index)));

  const chosen = candidates[right];
  if (!(needed(chosen, () => false) && set(chosen.excludedBy, false))) {
    return undefined;
  }
  for (const candidate of random.shuffle(candidates.filter((other) => other !== chosen))) {
    const absent = random.integer(candidate.needs.length);
    const excluded = candidate.excludedBy !== undefined && random.next() < 0.5;
    const possible =
      random.next() < easyShare
        ? needed(candidate, () => true) && set(candidate.excludedBy, false)
        : excluded
          ? needed(candidate, () => false) && set(candidate.excludedBy, true)
          : needed(candidate, (index) => index === absent) && set(candidate.excludedBy, false);
    if (!possible) {
      return undefined;
    }
  }
  return status;
}

function withFacts(
  random: Random,
  candidates: Candidate[],
  status: Map<string, boolean>,
  properties: string[],
  shape: SheetShape,
): Sheet {
  const named = (value: boolean): string[] =>
    [...status].filter(([, present]) => present === value).map(([property]) => property);
  const unrelated = random.shuffle(properties.filter((property) => !status.has(property)));
  const present = [...named(true), ...unrelated.slice(0, random.integer(shape.unrelated + 1))];
  const denied = random.shuffle(named(false)).slice(0, 1 + random.integer(shape.denied));
  return { candidates, present: random.shuffle(present), denied };
}

/** Whether the facts keep this candidate. */
export function isKept(candidate: Candidate, present: readonly string[]): boolean {
  const excluded = candidate.excludedBy !== undefined && present.includes(candidate.excludedBy);
  return candidate.needs.every((need) => present.includes(need)) && !excluded;
}

/** The sheet in words: the opening, a line for each candidate, the facts in two lines, and the question. */
export function writeQuestion(sheet: Sheet, frame: Frame, language: Language): string {
  return [
    frame.opening,
    ...sheet.candidates.map((candidate) => writeRule(candidate, language)),
    writeList(frame.present, sheet.present, language),
    writeList(frame.denied, sheet.denied, language),
    frame.ask,
  ].join("\n");
}

/** "Has: fever, cough" */
export function writeList(lead: string, properties: readonly string[], language: Language): string {
  return `${lead}${language === "en" ? " " : ""}${joinList(properties, language)}`;
}

/** "fever, cough" */
export function joinList(properties: readonly string[], language: Language): string {
  return properties.join(SIGNS[language].comma);
}

/** "gout: swelling, redness, not fever" */
export function writeRule(candidate: Candidate, language: Language): string {
  const { colon, comma, not } = SIGNS[language];
  const parts = [...candidate.needs, ...(candidate.excludedBy === undefined ? [] : [not + candidate.excludedBy])];
  return `${candidate.name}${colon}${parts.join(comma)}`;
}

/** One line of the chain: what is needed in order, up to the first that is absent; what excludes; the verdict. */
export function writeStep(candidate: Candidate, present: readonly string[], language: Language): string {
  const { colon, comma, not } = SIGNS[language];
  const failed = candidate.needs.findIndex((need) => !present.includes(need));
  const checks = markPresence(failed < 0 ? candidate.needs : candidate.needs.slice(0, failed + 1), present);
  if (failed < 0 && candidate.excludedBy !== undefined) {
    checks.push(not + markPresence([candidate.excludedBy], present)[0]);
  }
  return `${candidate.name}${colon}${[...checks, verdict(isKept(candidate, present), language)].join(comma)}`;
}

/** "fever+" for what is present, "fever-" for the rest. */
export function markPresence(properties: readonly string[], present: readonly string[]): string[] {
  return properties.map((property) => `${property}${present.includes(property) ? "+" : "-"}`);
}

/** The word that ends a step. */
export function verdict(kept: boolean, language: Language): string {
  return SIGNS[language][kept ? "keep" : "out"];
}

/** The whole chain, a line for each candidate in the order of the sheet. */
export function writeChain(sheet: Sheet, language: Language): string {
  return sheet.candidates.map((candidate) => writeStep(candidate, sheet.present, language)).join("\n");
}

/** Read a question of writeQuestion's back. Throws when it is not laid out so. */
export function readQuestion(question: string, language: Language): Sheet {
  const lines = question.split("\n");
  if (lines.length < 5) {
    throw new Error(
      `A sheet has an opening, rules, two lines of facts and a question; this text has only ${lines.length} lines.`,
    );
  }
  const [present, denied] = lines.slice(-3, -1).map((line) => readFacts(line, language));
  return { candidates: lines.slice(1, -3).map((line) => readRule(line, language)), present, denied };
}

function readRule(line: string, language: Language): Candidate {
  const { comma, not } = SIGNS[language];
  const [name, properties] = cutAtColon(line, language);
  const parts = properties.split(comma);
  const exclusion = parts.find((part) => part.startsWith(not));
  const needs = parts.filter((part) => part !== exclusion);
  return exclusion === undefined ? { name, needs } : { name, needs, excludedBy: exclusion.slice(not.length) };
}

function readFacts(line: string, language: Language): string[] {
  return cutAtColon(line, language)[1].split(SIGNS[language].comma);
}

function cutAtColon(line: string, language: Language): [head: string, rest: string] {
  const { colon } = SIGNS[language];
  const at = line.indexOf(colon);
  if (at < 0) {
    throw new Error(`A line of a sheet reads "name${colon}..."; this one is "${line}".`);
  }
  return [line.slice(0, at), line.slice(at + colon.length)];
}
