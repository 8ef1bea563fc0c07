import * as fc from "fast-check";
import { describe, expect, it } from "vitest";
import { split, textKey } from "../../src/data/splits.ts";

const rows = fc.array(fc.record({ id: fc.nat(), patient: fc.constantFrom(..."abcdefghij".split("")) }), {
  maxLength: 60,
});
const byPatient = (row: { patient: string }): string => row.patient;
const enough = (all: { patient: string }[]): boolean => new Set(all.map(byPatient)).size >= 3;

describe("a split", () => {
  it("has every row once and no group in two parts, and no part is empty", () => {
    const share = fc.double({ min: 0.01, max: 0.49, noNaN: true });
    fc.assert(
      fc.property(rows.filter(enough), share, share, fc.nat(), (all, validation, test, seed) => {
        const parts = split(all, { validation, test, seed }, byPatient);
        const patients = [parts.train, parts.validation, parts.test].map((part) => new Set(part.map(byPatient)));
        const together = new Set(all.map(byPatient)).size;
        expect(patients.reduce((sum, own) => sum + own.size, 0)).toBe(together); // None is counted twice.
        expect(new Set([...parts.train, ...parts.validation, ...parts.test])).toEqual(new Set(all));
        expect(parts.train.length + parts.validation.length + parts.test.length).toBe(all.length);
        expect(Math.min(parts.train.length, parts.validation.length, parts.test.length)).toBeGreaterThan(0);
      }),
    );
  });

  it("has the shares that were asked for", () => {
    const all = Array.from({ length: 200 }, (_, id) => ({ id }));
    const parts = split(all, { validation: 0.1, test: 0.2, seed: 1 }, ({ id }) => String(id));
    expect([parts.train.length, parts.validation.length, parts.test.length]).toEqual([140, 20, 40]);
    expect(split(all, { validation: 0, test: 0, seed: 1 }, ({ id }) => String(id)).train).toHaveLength(200);
  });

  it("is the same for the same seed and another for another", () => {
    const all = Array.from({ length: 50 }, (_, id) => id);
    const test = (seed: number): number[] => split(all, { validation: 0.2, test: 0.2, seed }, String).test;
    expect(test(1)).toEqual(test(1));
    expect(test(1)).not.toEqual(test(2));
  });

  it("is refused where it cannot be made", () => {
    const two = ["a", "a", "b"];
    expect(() => split(two, { validation: 0.1, test: 0.1, seed: 0 }, String)).toThrow(
      "The rows make 2 different groups and 3 are needed.",
    );
    expect(() => split(two, { validation: 0.5, test: 0.5, seed: 0 }, String)).toThrow("together below 1");
    expect(() => split(two, { validation: -0.1, test: 0, seed: 0 }, String)).toThrow("0 or more");
  });
});

it("takes questions for equal that differ in case, width and spaces alone", () => {
  expect(textKey(" Fever，  cough\n")).toBe(textKey("fever, COUGH"));
  expect(textKey("fever, cough")).not.toBe(textKey("fever cough"));
});
