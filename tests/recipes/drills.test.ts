import { describe, expect, it } from "vitest";
import { type Drill, drill } from "../../src/recipes/drills.ts";
import { CONDITIONS, FINDINGS } from "../../src/recipes/hospital/facts.ts";
import { HELD_OUT_WORDING, TRAINING_WORDING } from "../../src/recipes/hospital/wording.ts";
import { isKept, readQuestion, writeChain } from "../../src/recipes/sheet.ts";

const drills = Array.from({ length: 6000 }, (_, index) => drill(3, index));
const ofKind = (...kinds: Drill["kind"][]): Drill[] => drills.filter(({ kind }) => kinds.includes(kind));

describe("drills", () => {
  it("are a pure function of seed and index", () => {
    expect(drill(3, 4321)).toEqual(drills[4321]);
    expect(drill(4, 4321)).not.toEqual(drills[4321]);
  });

  it("hardly ever repeat, word pairs aside", () => {
    const long = drills.filter(({ kind }) => kind !== "word" && kind !== "copy");
    expect(new Set(long.map(({ question }) => question)).size / long.length).toBeGreaterThan(0.99);
  });

  it("come in every kind and in both languages", () => {
    const kinds = drills.map(({ kind }) => kind);
    for (const kind of [
      "copy",
      "mark",
      "match",
      "matchDirect",
      "member",
      "names",
      "rules",
      "step",
      "verdict",
      "word",
    ]) {
      expect(kinds.filter((other) => other === kind).length, kind).toBeGreaterThan(100);
    }
    expect(Math.abs(drills.filter(({ language }) => language === "zh").length / drills.length - 0.5)).toBeLessThan(
      0.03,
    );
  });

  it("match rules as their chain and answer say, on sheets from easy to hard", () => {
    const shapes = new Set<string>();
    for (const { question, chain, answer, language, kind } of ofKind("match", "matchDirect")) {
      const sheet = readQuestion(question, language);
      const kept = sheet.candidates.filter((candidate) => isKept(candidate, sheet.present));
      expect(kept.map(({ name }) => name)).toEqual([answer]);
      expect(chain).toBe(kind === "match" ? writeChain(sheet, language) : "");
      const [{ needs, excludedBy }] = sheet.candidates;
      shapes.add(`${sheet.candidates.length} ${needs.length} ${excludedBy !== undefined}`);
    }
    expect(shapes.size).toBe(12); // 2 to 4 candidates, 1 or 2 needs, with and without an exclusion.
  });

  it("mark a list as the facts say", () => {
    for (const { question, answer, language } of ofKind("mark")) {
      const [present, , asked] = question.split("\n").map((line) => items(line, language));
      const marks = asked.map((item) => item + (present.includes(item) ? "+" : "-"));
      expect(answer).toBe(marks.join(language === "en" ? ", " : "，"));
    }
  });

  it("say truly what is in a list, and as often yes as no", () => {
    const members = ofKind("member");
    const yes = members.filter(({ question, answer, language }) => {
      const [list, ask] = question.split("\n");
      const item =
        language === "en" ? ask.slice("Is ".length, -" in the list?".length) : ask.slice("其中有没有：".length, -1);
      const inside = items(list, language).includes(item);
      expect(answer).toBe(inside ? YES[language] : NO[language]);
      return inside;
    });
    expect(Math.abs(yes.length / members.length - 0.5)).toBeLessThan(0.1);
  });

  it("answer keep and out about as often", () => {
    const answers = ofKind("step").map(({ answer }) => answer);
    const kept = answers.filter((answer) => answer === "keep" || answer === "保留").length / answers.length;
    expect(kept).toBeGreaterThan(0.3);
    expect(kept).toBeLessThan(0.7);
  });

  it("give rules and names as the sheet has them", () => {
    for (const { kind, question, answer, language } of ofKind("rules", "names")) {
      const lines = question.split("\n");
      const sheet = lines.slice(1, -1);
      const nameOf = (line: string): string => line.slice(0, line.indexOf(language === "en" ? ":" : "："));
      const wanted =
        kind === "names"
          ? sheet.map(nameOf).join(language === "en" ? ", " : "，")
          : items(lines.at(-1) ?? "", language)
              .map((name) => sheet.find((line) => nameOf(line) === name))
              .join("\n");
      expect(answer).toBe(wanted);
    }
  });

  it("name the one that a finished chain keeps", () => {
    for (const { question, answer } of ofKind("verdict")) {
      const kept = question.split("\n").filter((line) => /(keep|保留)$/.test(line));
      expect(kept).toHaveLength(1);
      expect(kept[0]).toMatch(new RegExp(`^${answer}[:：]`));
    }
  });

  it("do not teach which finding goes with which condition, nor use the study's words around a sheet", () => {
    const typical = new Map(
      CONDITIONS.flatMap(({ en, zh, findings }) => [
        [en, findings],
        [zh, findings.map((name) => FINDINGS.find((finding) => finding.en === name)?.zh)],
      ]),
    );
    // Rules are drawn at random: a sheet on which every rule happens to be a typical one is an accident, not a lesson.
    const sheets = ofKind("match", "matchDirect").map(({ question, language }) => readQuestion(question, language));
    const typicalSheets = sheets.filter(({ candidates }) =>
      candidates.every(({ name, needs }) => needs.every((need) => typical.get(name)?.includes(need))),
    );
    expect(typicalSheets.length).toBeLessThan(sheets.length / 200);
    expect(typicalSheets.every(({ candidates }) => candidates.length <= 3)).toBe(true);
    for (const { question, language } of drills) {
      const lines = question.split("\n");
      for (const wording of [TRAINING_WORDING, HELD_OUT_WORDING]) {
        const { openings, facts, asks } = wording[language];
        const frames = [...openings, ...asks].filter((frame) => lines.includes(frame));
        const leads = facts.flat().filter((lead) => lines.some((line) => line.startsWith(lead)));
        expect([...frames, ...leads]).toEqual([]);
      }
    }
  });
});

const YES = { en: "yes", zh: "有" };
const NO = { en: "no", zh: "没有" };

/** What stands behind the first colon of a line. */
function items(line: string, language: "en" | "zh"): string[] {
  const [colon, comma] = language === "en" ? [":", ", "] : ["：", "，"];
  return line
    .slice(line.indexOf(colon) + 1)
    .trim()
    .split(comma);
}
