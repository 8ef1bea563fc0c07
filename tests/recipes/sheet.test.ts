import { describe, expect, it } from "vitest";
import { randomStream } from "../../src/recipes/random.ts";
import {
  type CandidateSource,
  drawSheet,
  isKept,
  readQuestion,
  type Sheet,
  writeChain,
  writeQuestion,
  writeStep,
} from "../../src/recipes/sheet.ts";

const FRAME = { opening: "Rules:", present: "Has:", denied: "Lacks:", ask: "Which?" };

const SHEET: Sheet = {
  candidates: [
    { name: "oak", needs: ["leaves", "bark"], excludedBy: "fruit" },
    { name: "pine", needs: ["cones", "sap"], excludedBy: "thorns" },
    { name: "rose", needs: ["leaves", "thorns"], excludedBy: "bark" },
  ],
  present: ["bark", "thorns", "leaves"],
  denied: ["cones"],
};

describe("a sheet in words", () => {
  it("reads as rules, facts and a question, and its chain stops at the first thing that is missing", () => {
    expect(writeQuestion(SHEET, FRAME, "en")).toBe(
      [
        "Rules:",
        "oak: leaves, bark, not fruit",
        "pine: cones, sap, not thorns",
        "rose: leaves, thorns, not bark",
        "Has: bark, thorns, leaves",
        "Lacks: cones",
        "Which?",
      ].join("\n"),
    );
    expect(writeChain(SHEET, "en")).toBe(
      ["oak: leaves+, bark+, not fruit-, keep", "pine: cones-, out", "rose: leaves+, thorns+, not bark+, out"].join(
        "\n",
      ),
    );
  });

  it("judges what is not mentioned as absent", () => {
    const [oak] = SHEET.candidates;
    expect(writeStep(oak, ["leaves"], "en")).toBe("oak: leaves+, bark-, out");
    expect(writeStep({ name: "松树", needs: ["松果"] }, ["松果"], "zh")).toBe("松树：松果+，保留");
  });

  it.each(["en", "zh"] as const)("can be read back from its question in %s", (language) => {
    expect(readQuestion(writeQuestion(SHEET, FRAME_OF[language], language), language)).toEqual(SHEET);
  });

  it("is refused in a sentence when the text is no sheet", () => {
    expect(() => readQuestion("Hello?", "en")).toThrow("has only 1 lines");
    expect(() => readQuestion("Rules:\noak leaves\nHas: bark\nLacks: sap\nWhich?", "en")).toThrow('"oak leaves"');
  });
});

const FRAME_OF = { en: FRAME, zh: { opening: "规则：", present: "有：", denied: "无：", ask: "哪个？" } };

describe("drawSheet", () => {
  const properties = Array.from({ length: 20 }, (_, index) => `p${index}`);
  const sources: CandidateSource[] = ["a", "b", "c", "d"].map((name, index) => ({
    name,
    needs: [properties.slice(3 * index, 3 * index + 2), properties.slice(3 * index + 1, 3 * index + 3)],
    excludedBy: properties.slice(10),
  }));
  const draw = (index: number, easyShare: number): Sheet => {
    const shape = { exclusion: true, easyShare, denied: 3, unrelated: 2 };
    const sheet = drawSheet(randomStream("test", index), sources, index % 4, properties, shape);
    if (!sheet) {
      throw new Error("These sources allow a sheet.");
    }
    return sheet;
  };
  it("keeps the candidate it was told to, alone, and never says both yes and no", () => {
    for (let index = 0; index < 500; index++) {
      const sheet = draw(index, 0.5);
      const kept = sheet.candidates.map((candidate) => isKept(candidate, sheet.present));
      expect(kept).toEqual([0, 1, 2, 3].map((place) => place === index % 4));
      expect(sheet.denied.some((property) => sheet.present.includes(property))).toBe(false);
      expect(sheet.denied.length).toBeGreaterThan(0);
    }
  });

  it("makes every wrong candidate fail in one point only when none may be easy, and in all needs when all are", () => {
    for (let index = 0; index < 200; index++) {
      const wrong = [0, 1, 2, 3].filter((place) => place !== index % 4);
      const near = draw(index, 0);
      expect(wrong.map((place) => failures(near, place))).toEqual([1, 1, 1]);
      const easy = draw(index, 1);
      expect(wrong.map((place) => failures(easy, place))).toEqual([2, 2, 2]);
    }
  });

  it("gives up in peace where no sheet is possible", () => {
    const same = sources.slice(0, 2).map((source) => ({ ...source, needs: [["p0", "p1"]], excludedBy: ["p2"] }));
    const shape = { exclusion: false, easyShare: 0, denied: 1, unrelated: 0 };
    expect(drawSheet(randomStream("none"), same, 0, properties, shape)).toBeUndefined();
  });
});

/** How many of its points a wrong candidate fails in. */
function failures(sheet: Sheet, index: number): number {
  const { needs, excludedBy } = sheet.candidates[index];
  const missing = needs.filter((need) => !sheet.present.includes(need)).length;
  return missing + (excludedBy !== undefined && sheet.present.includes(excludedBy) ? 1 : 0);
}
