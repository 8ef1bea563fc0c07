import * as fc from "fast-check";
import { describe, expect, it } from "vitest";
import { pythonPattern } from "../../src/formats/pythonPattern.ts";

const NAME = "model.layers.12.self_attn.q_proj";

describe("a pattern of Python's", () => {
  it.each([
    [String.raw`.*\.(q|k|v)_proj`, true],
    [String.raw`.*\.(k|v)_proj`, false],
    [String.raw`model\.layers\.(1[0-3]|2\d)\.self_attn\.[qkv]_proj`, true],
    [String.raw`model\.layers\.\d\.self_attn\.[qkv]_proj`, false],
    [String.raw`^(?:.*\.)?layers.12.[^.]+.q_proj$`, true],
    ["q_proj", false], // The whole name, not its end.
    [String.raw`.{10,40}`, true],
    [String.raw`.{,10}`, false],
    [String.raw`\w+(\.\w+){4}`, true],
    [String.raw`[\w.]*?[\]q]_proj`, true],
    [String.raw`(.*)*x`, false],
    ["", false],
  ])("%s matches %s", (pattern, whole) => {
    expect(pythonPattern(pattern)(NAME)).toBe(whole);
  });

  it.each([
    ["(?!model).*", 'has "(?!"'],
    [String.raw`(a)\1`, String.raw`has "\1"`],
    [String.raw`\bq`, String.raw`has "\b"`],
    ["a++", 'has a possessive "+"'],
    ["a**", "has a quantifier of a quantifier"],
    ["*a", 'has "*" with nothing to repeat'],
    ["(a", 'has a "(" without its ")"'],
    ["a)", 'has a ")" without its "("'],
    ["[a", 'has a "[" without its "]"'],
    ["a\\", String.raw`has "\"`],
  ])("%s is refused by what is not read", (pattern, message) => {
    expect(() => pythonPattern(pattern)).toThrow(message);
  });

  it("agrees with JavaScript's own matcher wherever the two languages are one", () => {
    const letter = fc.constantFrom("a", "b", ".", "[ab]", "[^a]", String.raw`\.`, String.raw`\w`);
    const { pattern } = fc.letrec<{ pattern: string }>((tie) => ({
      pattern: fc.oneof(
        { maxDepth: 4 },
        letter,
        fc.tuple(letter, fc.constantFrom("*", "+", "?", "{2}", "{1,2}", "{1,}", "*?")).map((parts) => parts.join("")),
        fc.tuple(tie("pattern"), tie("pattern")).map((parts) => parts.join("")),
        fc.tuple(tie("pattern"), tie("pattern")).map(([a, b]) => `(${a}|${b})`),
        fc.tuple(tie("pattern"), fc.constantFrom("*", "+", "?", "")).map(([a, count]) => `(?:${a})${count}`),
      ),
    }));
    const text = fc.string({ unit: fc.constantFrom("a", "b", "."), maxLength: 8 });
    fc.assert(
      fc.property(pattern, text, (source, name) => {
        expect(pythonPattern(source)(name)).toBe(new RegExp(`^(?:${source})$`).test(name));
      }),
      { numRuns: 2000 },
    );
  });

  it("ends in a moment whatever it is: an answer or a sentence", () => {
    const started = performance.now();
    for (const pattern of ["(a+)+b", "(a|aa)+b", "(a*)*b", "((a{1,50}){1,50}){1,50}b", "(()*)*b", ".*.*.*.*.*.*b"]) {
      try {
        expect(pythonPattern(pattern)("a".repeat(200))).toBe(false);
      } catch (error) {
        expect((error as Error).message).toContain("takes too long to match. Name the modules instead.");
      }
    }
    fc.assert(
      fc.property(fc.string({ unit: fc.constantFrom(..."ab()[]*+?{}|\\.,1-^$"), maxLength: 20 }), (pattern) => {
        try {
          pythonPattern(pattern)("ab.a");
        } catch (error) {
          expect((error as Error).message).toMatch(/^The pattern .+ (has .+ is not read|takes too long .+)\. /s);
        }
      }),
    );
    expect(performance.now() - started).toBeLessThan(10_000);
  });
});
