import { describe, expect, it } from "vitest";
import type { Case } from "../../../src/protocol/data.ts";
import { CONDITIONS, FINDINGS } from "../../../src/recipes/hospital/facts.ts";
import {
  checkChain,
  combinations,
  gradeAnswer,
  hospitalStudy,
  labels,
} from "../../../src/recipes/hospital/generate.ts";
import { HELD_OUT_WORDING, TRAINING_WORDING } from "../../../src/recipes/hospital/wording.ts";
import { type Candidate, isKept, readQuestion, type Sheet } from "../../../src/recipes/sheet.ts";

const study = hospitalStudy({ seed: 5, train: 1500, validation: 100, test: 600 });
const every = [...study.train, ...study.validation, ...study.test];
const sheetOf = (one: Case): Sheet => readQuestion(one.question, one.language);
const share = (cases: Case[], holds: (one: Case) => boolean): number => cases.filter(holds).length / cases.length;

describe("the hospital study", () => {
  it("leaves exactly one condition on every sheet, and that is the answer", () => {
    for (const one of every) {
      const { candidates, present, denied } = sheetOf(one);
      expect(candidates.filter((candidate) => isKept(candidate, present)).map(({ name }) => name)).toEqual([
        one.answer,
      ]);
      expect(denied.filter((finding) => present.includes(finding))).toEqual([]);
    }
  });

  it("is the same for the same options, and keeps its test when it grows", () => {
    const options = { seed: 5, train: 20, validation: 10, test: 30 };
    expect(hospitalStudy(options)).toEqual(hospitalStudy(options));
    expect(hospitalStudy({ ...options, train: 60 }).test).toEqual(hospitalStudy(options).test);
    expect(study.test.slice(0, 30)).toEqual(hospitalStudy(options).test);
    expect(hospitalStudy({ ...options, seed: 6 }).test[0].question).not.toBe(study.test[0].question);
  });

  it("asks no case twice, in whatever words, order or language", () => {
    const english = new Map(CONDITIONS.map(({ en, zh }) => [zh, en]));
    const key = (one: Case): string => {
      const sheet = sheetOf(one);
      const rules = sheet.candidates.map((rule) => `${english.get(rule.name) ?? rule.name}${rule.needs.length}`);
      return `${rules.toSorted().join()}|${one.language}|${JSON.stringify([rulesOf(sheet), sheet.present.toSorted()])}`;
    };
    expect(new Set(every.map(key)).size).toBe(every.length);
    expect(new Set(every.map(({ id }) => id)).size).toBe(every.length);
  });

  it("keeps wordings and combinations out of training that its slices call unseen", () => {
    for (const one of [...study.train, ...study.validation]) {
      expect(one.slices).toEqual(expect.arrayContaining(["seen wording", "seen combination"]));
      expect(isWorded(one, TRAINING_WORDING)).toBe(true);
      expect(heldOut(one)).not.toContain(true);
    }
    for (const one of study.test) {
      const unseen = one.slices.includes("unseen wording");
      expect(isWorded(one, unseen ? HELD_OUT_WORDING : TRAINING_WORDING)).toBe(true);
      const places = heldOut(one).flatMap((is, place) => (is ? [sheetOf(one).candidates[place].name] : []));
      expect(places).toEqual(one.slices.includes("unseen combination") ? [one.answer] : []);
    }
    expect(share(study.test, (one) => one.slices.includes("unseen wording"))).toBeCloseTo(0.5, 1);
    expect(share(study.test, (one) => one.slices.includes("unseen combination"))).toBeCloseTo(0.5, 1);
  });

  it("puts the right condition anywhere, asks for every condition, and speaks both languages", () => {
    for (const count of [3, 4]) {
      const some = every.filter((one) => sheetOf(one).candidates.length === count);
      for (let place = 0; place < count; place++) {
        const there = share(some, (one) => sheetOf(one).candidates[place].name === one.answer);
        expect(Math.abs(there - 1 / count)).toBeLessThan(0.05); // Three standard deviations are 0.04.
      }
    }
    expect(labels(study)).toHaveLength(2 * CONDITIONS.length);
    for (const label of labels(study)) {
      expect(
        share(every, (one) => one.answer === label),
        label,
      ).toBeLessThan(0.03); // 1 in 72 is 0.014.
    }
    expect(Math.abs(share(every, (one) => one.language === "zh") - 0.5)).toBeLessThan(0.03);
  });

  it("stays short enough for a tiny model", () => {
    // In characters; with the project's tokenizer a question is about 58 tokens and a chain about 31 in either language.
    for (const one of every) {
      expect(one.question.length).toBeLessThan(one.language === "zh" ? 160 : 400);
      expect(one.chain.length).toBeLessThan(one.language === "zh" ? 110 : 230);
    }
  });

  it("refuses numbers that make no study", () => {
    const options = { seed: 1, train: 1, validation: 1, test: 1 };
    expect(() => hospitalStudy({ ...options, train: -1 })).toThrow("number of train cases");
    expect(() => hospitalStudy({ ...options, candidates: [4, 3] })).toThrow("they are 4 and 3");
    expect(() => hospitalStudy({ ...options, needs: 0 })).toThrow("needs is 0");
    expect(() => hospitalStudy({ ...options, easyShare: 1.5 })).toThrow("easyShare is a share");
  });
});

describe("what counting can reach", () => {
  it.each([
    // easyShare, at random, counting present needs, counting all that is present
    [0, 0.29, 0.5, 0.17],
    [0.3, 0.29, 0.64, 0.38],
    [0.6, 0.29, 0.81, 0.65],
  ])("at an easy share of %f is %f by chance, %f by needs, %f by all that is present", (easyShare, ...expected) => {
    const cases = hospitalStudy({ seed: 9, train: 4000, validation: 0, test: 0, easyShare }).train;
    const measured = [nothing, needsPresent, anyPresent].map((count) => countingAccuracy(cases, count));
    console.log(`easy share ${easyShare}: chance, needs, all = ${measured.map((one) => one.toFixed(3)).join(", ")}`);
    measured.forEach((one, index) => expect(Math.abs(one - expected[index])).toBeLessThan(0.03));
  });
});

describe("gradeAnswer", () => {
  it("looks past width, case, spaces and a full stop, and at nothing else", () => {
    const one = { ...study.test[0], answer: "Throat  pain" };
    expect(gradeAnswer(one, " throat pain.\n")).toBe(true);
    expect(gradeAnswer(one, "ｔｈｒｏａｔ pain。")).toBe(true);
    for (const wrong of ["", "throat", "throat pain or flu", "The throat pain"]) {
      expect(gradeAnswer(one, wrong)).toBe(false);
    }
  });
});

describe("checkChain", () => {
  it("accepts every chain of the study", () => {
    for (const one of every) {
      const checked = checkChain(one, one.chain);
      expect(checked.allRight).toBe(true);
      expect(checked.steps).toHaveLength(sheetOf(one).candidates.length);
    }
  });

  it("does not look at the case's own chain or answer", () => {
    for (const one of study.test.slice(0, 20)) {
      expect(checkChain({ ...one, chain: "", answer: "" }, one.chain).allRight).toBe(true);
    }
  });

  it("names the step that a change makes wrong", () => {
    const changes: ((line: string, one: Case) => string)[] = [
      (line) => swap(line, "+", "-"),
      (line, { language }) => (language === "en" ? swap(line, "keep", "out") : swap(line, "保留", "排除")),
      (line, { language }) => `cholera${line.slice(line.indexOf(language === "en" ? ":" : "："))}`,
      (line, { language }) => line.slice(0, line.lastIndexOf(language === "en" ? "," : "，")),
      (line) => `${line}.`,
    ];
    for (const one of study.test.slice(0, 100)) {
      const lines = one.chain.split("\n");
      changes.forEach((change, index) => {
        const place = index % lines.length;
        const changed = lines.map((line, at) => (at === place ? change(line, one) : line));
        const checked = checkChain(one, changed.join("\n"));
        expect(checked.steps.map((step) => step.right)).toEqual(lines.map((_, at) => at !== place));
        expect(checked.allRight).toBe(false);
      });
    }
  });

  it("misses a candidate that is left out, and counts one that is judged twice as wrong the second time", () => {
    const [one] = study.test;
    const lines = one.chain.split("\n");
    const short = checkChain(one, lines.slice(1).join("\n"));
    expect(short.steps.every((step) => step.right)).toBe(true);
    expect(short.allRight).toBe(false);
    const twice = checkChain(one, [...lines, lines[0]].join("\n"));
    expect(twice.steps.map((step) => step.right)).toEqual([...lines.map(() => true), false]);
    expect(twice.allRight).toBe(false);
    expect(checkChain(one, "")).toEqual({ steps: [], allRight: false });
  });
});

/** Rules in a form that does not depend on the order of anything. */
function rulesOf(sheet: Sheet): string[] {
  return sheet.candidates
    .map(({ name, needs, excludedBy }) => `${name}:${needs.toSorted().join()}!${excludedBy}`)
    .toSorted();
}

/** English names of findings by their Chinese ones. */
const ENGLISH = new Map(FINDINGS.map(({ en, zh }) => [zh, en]));

function isHeldOut({ name, needs }: Candidate): boolean {
  const condition = CONDITIONS.find(({ en, zh }) => en === name || zh === name);
  if (!condition) {
    throw new Error(`${name} is no condition of the table`);
  }
  const english = needs.map((need) => ENGLISH.get(need) ?? need).toSorted();
  return combinations(condition, needs.length).heldOut.some((list) => list.toSorted().join() === english.join());
}

/** Which candidates of a sheet need what no training case does. */
function heldOut(one: Case): boolean[] {
  return sheetOf(one).candidates.map(isHeldOut);
}

/** Whether all words around the sheet are from `wording`. */
function isWorded(one: Case, wording: typeof TRAINING_WORDING): boolean {
  const lines = one.question.split("\n");
  const { openings, facts, asks } = wording[one.language];
  const pair = facts.some(([present, denied]) => lines.at(-3)?.startsWith(present) && lines.at(-2)?.startsWith(denied));
  return openings.includes(lines[0]) && asks.includes(lines.at(-1) ?? "") && pair;
}

/** The share of cases in which the condition with the highest count is the right one; ties are shared out. */
function countingAccuracy(cases: Case[], count: (rule: Candidate, present: string[]) => number): number {
  const points = cases.map((one) => {
    const { candidates, present } = sheetOf(one);
    const counts = candidates.map((rule) => count(rule, present));
    const best = candidates.filter((_, place) => counts[place] === Math.max(...counts));
    return best.some((rule) => rule.name === one.answer) ? 1 / best.length : 0;
  });
  return points.reduce((sum, point) => sum + point, 0) / points.length;
}

function nothing(): number {
  return 0;
}

function needsPresent(rule: Candidate, present: string[]): number {
  return rule.needs.filter((need) => present.includes(need)).length;
}

function anyPresent(rule: Candidate, present: string[]): number {
  return needsPresent(rule, present) + (present.includes(rule.excludedBy ?? "") ? 1 : 0);
}

function swap(text: string, a: string, b: string): string {
  return text.includes(a) ? text.replace(a, b) : text.replace(b, a);
}
