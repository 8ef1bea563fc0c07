import { describe, expect, it } from "vitest";
import { CONDITIONS, FINDINGS } from "../../../src/recipes/hospital/facts.ts";

describe("the table of facts", () => {
  it("names every finding and condition once in each language", () => {
    for (const language of ["en", "zh"] as const) {
      const names = [...FINDINGS, ...CONDITIONS].map((one) => one[language]);
      expect(new Set(names).size).toBe(names.length);
      expect(names.every((name) => name === name.trim() && name !== "")).toBe(true);
    }
  });

  it("knows every finding that it gives a condition, and gives none twice", () => {
    const known = new Set(FINDINGS.map(({ en }) => en));
    for (const { en, findings } of CONDITIONS) {
      expect(
        findings.filter((finding) => !known.has(finding)),
        en,
      ).toEqual([]);
      expect(new Set(findings).size, en).toBe(findings.length);
      expect(findings.length, en).toBeGreaterThanOrEqual(4);
    }
  });

  it("has a use for every finding", () => {
    const used = new Set(CONDITIONS.flatMap(({ findings }) => findings));
    expect(FINDINGS.filter(({ en }) => !used.has(en))).toEqual([]);
  });

  it("keeps its words free of the signs that sheets are written with", () => {
    for (const { en, zh } of [...FINDINGS, ...CONDITIONS]) {
      expect(en).toMatch(/^[a-z]+( [a-z]+)?$/);
      expect(zh).toMatch(/^\p{Script=Han}{2,3}$/u);
    }
  });
});
