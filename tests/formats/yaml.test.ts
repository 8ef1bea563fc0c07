import * as fc from "fast-check";
import { describe, expect, it } from "vitest";
import { parse } from "yaml";
import { writeYaml, type YamlValue } from "../../src/formats/yaml.ts";

const { value } = fc.letrec<{ value: YamlValue }>((tie) => ({
  value: fc.oneof(
    { depthSize: "small", withCrossShrink: true },
    fc.oneof(
      fc.string({ unit: "grapheme" }),
      fc.string({ unit: "binary" }),
      fc.constantFrom(
        "yes",
        "No",
        "null",
        "~",
        "1e5",
        "0x1f",
        "2001-12-14",
        "a: b",
        "- a",
        "#",
        "a #b",
        " a",
        "12:30:45",
      ),
    ),
    fc.double({ noNaN: true, noDefaultInfinity: true }).map((x) => (Object.is(x, -0) ? 0 : x)),
    fc.integer(),
    fc.boolean(),
    fc.constant(null),
    fc.array(tie("value"), { maxLength: 4 }),
    fc.dictionary(fc.string({ minLength: 1 }), tie("value"), { maxKeys: 4, noNullPrototype: true }),
  ),
}));

describe("YAML", () => {
  it.each(["1.1", "1.2"] as const)("says the same to a reader of version %s", (version) => {
    fc.assert(
      fc.property(fc.dictionary(fc.string({ minLength: 1 }), value, { noNullPrototype: true }), (record) => {
        fc.pre(!JSON.stringify(record).includes('"__proto__"') && !JSON.stringify(record).includes('"<<"'));
        expect(parse(writeYaml(record), { version, uniqueKeys: false }) ?? {}).toEqual(record);
      }),
      { numRuns: 300 },
    );
  });

  it("is what a person would write", () => {
    const record: Record<string, YamlValue> = {
      base_model: "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B",
      learning_rate: 1e-7,
      tags: ["one thing", "no"],
      datasets: [
        { path: "data/chains.jsonl", segments: [1, 2.5] },
        { path: "none", empty: [] },
      ],
      kwargs: { min_lr_rate: 0.1 },
    };
    expect(writeYaml(record)).toBe(
      [
        "base_model: deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B",
        "learning_rate: 1.0e-7",
        "tags:",
        "  - one thing",
        '  - "no"',
        "datasets:",
        "  - path: data/chains.jsonl",
        "    segments:",
        "      - 1",
        "      - 2.5",
        "  - path: none",
        "    empty: []",
        "kwargs:",
        "  min_lr_rate: 0.1",
        "",
      ].join("\n"),
    );
  });

  it("has no word for what is no number", () => {
    expect(() => writeYaml({ rate: Number.NaN })).toThrow("NaN cannot be written as YAML");
  });
});
