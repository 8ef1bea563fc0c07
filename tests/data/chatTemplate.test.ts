import { readFileSync } from "node:fs";
import { Template } from "@huggingface/jinja";
import * as fc from "fast-check";
import { describe, expect, it } from "vitest";
import { openTemplate } from "../../src/data/boundedTemplate.ts";
import { openChatFormat } from "../../src/data/chatTemplate.ts";
import { deepseekV3, qwen25 } from "./realTokenizers.ts";
import { shippedJson } from "./shipped.ts";
import { R1_TEMPLATE } from "./templates.ts";

const QUESTION = { messages: [{ role: "user", content: "hello" }] };
const render = (source: string, values: Record<string, unknown> = QUESTION): string =>
  openTemplate(source).render(values);

describe("a conversation is rendered as the reference implementation renders it:", () => {
  const read = (file: string) => JSON.parse(readFileSync(`tests/fixtures/tokenizers/${file}`, "utf8"));
  const { chats } = read("texts.json") as { chats: unknown[] };
  const { chats: wanted } = read("reference.json") as { chats: Record<string, [string, string][]> };
  const names = { bos_token: "<｜begin▁of▁sentence｜>", eos_token: "<｜end▁of▁sentence｜>" };

  it.each([
    ["r1-distill", R1_TEMPLATE, names],
    ["deepseek-v3", String(deepseekV3().config.chat_template), names],
    ["qwen2.5", String(qwen25().config.chat_template), { eos_token: "<|im_end|>" }],
    ["deepseek-nano", String(shippedJson("tokenizer_config.json").chat_template), names],
  ])("%s", (name, source, values) => {
    const template = openTemplate(source);
    const found = chats.map((messages) =>
      [false, true].map((add_generation_prompt) => template.render({ ...values, messages, add_generation_prompt })),
    );
    expect(found).toEqual(wanted[name]);
  });
});

/** A list of 131,072 letters, all one text; and how to write a loop that does something many times over. */
const LONG = "{% set n = namespace(s='a') %}{% for i in range(17) %}{% set n.s = n.s + n.s %}{% endfor %}";
const often = (body: string): string =>
  `{% for i in range(25000) %}{% for j in range(25000) %}${body}{% endfor %}{% endfor %}`;

describe("a template that does not end is stopped within seconds, in a sentence:", () => {
  it.each([
    ["ranges without end", "{% for a in range(10**9) %}{% for b in range(10**9) %}x{% endfor %}{% endfor %}"],
    ["ranges in tiny steps", "{{ range(0, 1, 0.000000001) }}"],
    ["ranges past whole numbers", "{{ range(10**300, 10**301) }}"],
    ["empty loops", often("")],
    [
      "loops with nothing to do",
      "{% for a in range(25000) %}{% for b in range(99) if b > 99 %}{% endfor %}{% endfor %}",
    ],
    ["unknown names", often("{% if unknown %}{% endif %}")],
    ["many loops in one another", `${"{% for i in range(9) %}".repeat(60)}x${"{% endfor %}".repeat(60)}`],
    ["a macro that calls itself", "{% macro f(x) %}{{ f(x) }}{% endmacro %}{{ f(1) }}"],
    [
      "a macro that calls itself twice",
      "{% macro f(x) %}{% if x > 0 %}{{ f(x - 1) }}{{ f(x - 1) }}{% endif %}{% endmacro %}{{ f(60) }}",
    ],
    [
      "macros defined over and over",
      `{% for i in range(25000) %}{% macro f(x) %}${"{{ x }}".repeat(9000)}{% endmacro %}{% endfor %}`,
    ],
    [
      "a text that doubles",
      "{% set n = namespace(s='x') %}{% for a in range(99) %}{% set n.s = n.s + n.s %}{% endfor %}{{ n.s }}",
    ],
    [
      "a list that doubles",
      "{% set n = namespace(s=['x']) %}{% for a in range(99) %}{% set n.s = n.s + n.s %}{% endfor %}",
    ],
    [
      "a list of empty texts that doubles",
      "{% set n = namespace(s=['']) %}{% for a in range(99) %}{% set n.s = n.s + n.s %}{% endfor %}",
    ],
    [
      "a list of itself twice",
      "{% set n = namespace(s=['x']) %}{% for a in range(99) %}{% set n.s = [n.s, n.s] %}{% endfor %}{{ n.s | tojson }}",
    ],
    ["a namespace in itself", "{% set n = namespace() %}{% set n.n = n %}{{ n | tojson }}"],
    [
      "namespaces filled from behind",
      "{% set a = namespace() %}{% set b = namespace() %}{% set a.x = [b, b] %}{% set b.x = [a, a] %}{{ a }}",
    ],
    ["long texts made over and over", `${LONG}${often("{{ n.s | upper }}")}`],
    ["long texts cut over and over", `${LONG}${often("{% if n.s[::-1] %}{% endif %}")}`],
    ["long lists sorted over and over", often("{% set x = range(25000) | sort(reverse=true) %}")],
    ["a list unpacked over and over", `{% macro f() %}{{ varargs }}{% endmacro %}${often("{{ f(*range(25000)) }}")}`],
    [
      "blocks called over and over",
      `{% macro f() %}{{ caller() }}{% endmacro %}${often("{% call f() %}x{% endcall %}")}`,
    ],
    ["a long sum", `{{ 1${"+1".repeat(90_000)} }}`],
  ])("%s", (_, source) => {
    const startedMs = performance.now();
    expect(() => render(source)).toThrow(/^The chat template (was stopped, as it|cannot be used).*\.$/su);
    expect(performance.now() - startedMs).toBeLessThan(5000); // A tenth of it where nothing else runs.
  });

  it.each([
    ["replace as a method", `${LONG}{{ n.s.replace('a', n.s) }}`],
    ["replace by another name", `${LONG}{% set f = n.s['replace'] %}{{ f('a', n.s) }}`],
    ["replace as a filter", `${LONG}{{ n.s | replace('a', n.s) }}`],
    ["replace around a block", `${LONG}{% filter replace('a', n.s) %}{{ n.s }}{% endfilter %}`],
    ["replace with arguments unpacked", `${LONG}{{ n.s | replace(*['a', n.s]) }}`],
    ["join", `${LONG}{{ range(25000) | join(n.s) }}`],
    ["join with a named separator", `${LONG}{{ range(25000) | join(separator=n.s) }}`],
    ["indent", "{{ 'a\n\n\nb' | indent(10**8, true, true) }}"],
    ["tojson", "{{ [[[1]]] | tojson(indent=10**8) }}"],
  ])("%s, before it has written too much", (_, source) => {
    expect(() => render(source)).toThrow("The chat template was stopped, as it writes too much.");
  });

  it.each([
    ["brackets", `{{ ${"(".repeat(90_000)}1${")".repeat(90_000)} }}`],
    ["lists", `{{ ${"[".repeat(90_000)}1${"]".repeat(90_000)} }}`],
    ["negations", `{{ ${"not ".repeat(45_000)}1 }}`],
    ["conditions", "{% if 1 %}".repeat(15_000)],
    ["tags", "{%".repeat(90_000)],
    ["spaces", `{% generation${" ".repeat(150_000)}`],
    ["text", "x".repeat(200_001)],
    ["an open text", `{{ '${"a".repeat(150_000)}`],
  ])("of nothing but %s", (_, source) => {
    expect(() => render(source)).toThrow(/^The chat template .*\. Choose the one that came with the model\.$/su);
  });

  it("any that is made at random, unless it ends: then with the text that the library alone gives", () => {
    const name = fc.constantFrom(
      "messages",
      "m",
      "n",
      "n.s",
      "f",
      "loop.index0",
      "[m]",
      "{'k': n.s}",
      "range(99)",
      "namespace()",
    );
    const expression = fc.letrec<{ any: string }>((tie) => ({
      any: fc.oneof(
        { maxDepth: 4 },
        name,
        fc.constantFrom("'a'", "''", "7", "10**9", "none", "-1"),
        fc
          .tuple(tie("any"), fc.constantFrom("+", "~", "*", "**", "in", "==", "and", "/"), tie("any"))
          .map((p) => `(${p.join(" ")})`),
        fc
          .tuple(
            tie("any"),
            fc.constantFrom(
              "tojson",
              "length",
              "upper",
              "list",
              "sort",
              "reverse",
              "first",
              "string",
              "items",
              "join(n.s)",
              "replace('a', n.s)",
              "indent(9999)",
              "tojson(indent=99)",
              "default(m)",
              "map(attribute='k')",
            ),
          )
          .map((p) => `(${p.join(" | ")})`),
        fc
          .tuple(
            tie("any"),
            fc.constantFrom("[0]", "[::-1]", "[1:]", ".split('a')", ".replace('', n.s)", ".items()", ".content"),
          )
          .map((p) => p.join("")),
        tie("any").map((inner) => `range(${inner})`),
        tie("any").map((inner) => `f(${inner}, ${inner})`),
      ),
    })).any;
    const statement = fc.letrec<{ any: string }>((tie) => ({
      any: fc.oneof(
        { maxDepth: 5 },
        expression.map((e) => `{{ ${e} }}`),
        fc.tuple(fc.constantFrom("n.s", "m", "x"), expression).map(([to, e]) => `{% set ${to} = ${e} %}`),
        fc.tuple(expression, tie("any"), tie("any")).map(([e, a, b]) => `{% for m in ${e} %}${a}${b}{% endfor %}`),
        fc.tuple(expression, tie("any")).map(([e, a]) => `{% if ${e} %}${a}{% endif %}`),
        tie("any").map((a) => `{% macro f(m, x) %}${a}{% endmacro %}`),
        fc.tuple(tie("any"), tie("any")).map(([a, b]) => a + b),
      ),
    })).any;
    let slowestMs = 0;
    fc.assert(
      fc.property(fc.array(statement, { maxLength: 6 }), (statements) => {
        const source = `{% set n = namespace(s='ab') %}${statements.join("")}`;
        const startedMs = performance.now();
        const text = attempt(() => render(source));
        slowestMs = Math.max(slowestMs, performance.now() - startedMs);
        if (text instanceof Error) expect(text.message).toMatch(/^The chat template .*\.$/su);
        else expect(text).toBe(new Template(source).render(QUESTION));
      }),
      { numRuns: 2000 },
    );
    expect(slowestMs).toBeLessThan(5000);
  });
});

function attempt(action: () => string): string | Error {
  try {
    return action();
  } catch (error) {
    return error as Error;
  }
}

describe("a template may", () => {
  it("be given a long conversation", () => {
    const messages = Array.from({ length: 200 }, (_, i) => ({ role: i % 2 ? "assistant" : "user", content: `${i} ` }));
    const text = render(String(qwen25().config.chat_template), { messages, add_generation_prompt: true });
    expect(text.match(/<\|im_end\|>/gu)).toHaveLength(201);
  });

  it("be given a long text", () => {
    const content = "很长的病历。".repeat(100_000);
    const text = render(R1_TEMPLATE, { messages: [{ role: "user", content }], add_generation_prompt: true });
    expect(text).toBe(`<｜User｜>${content}<｜Assistant｜><think>\n`);
  });

  it("use loops, macros, blocks, filters and methods", () => {
    const source =
      "{% macro say(x, y='!') %}{{ x }}{{ y }}{% endmacro %}{% for m in messages if m.role == 'user' %}{{ loop.index }}{{ say(m.content) }}{% else %}-{% endfor %}" +
      "{% filter upper %}a{% endfilter %}{% call say('b') %}{% endcall %}{{ 'a-b'.replace('-', '+') }}{{ [1, 2] | join(', ') }}{{ {'k': 1} | tojson(indent=2) }}" +
      "{% for i in range(2, 9, 3) %}{% if loop.first %}{% continue %}{% elif i > 5 %}{% break %}{% endif %}{{ i }}{% endfor %}{{ 'x\ny' | indent(2) }}{% for k in {'a': 1} %}{{ k }}{% endfor %}";
    expect(render(source)).toBe('1hello!Ab!a+b1, 2{\n  "k": 1\n}5x\n  ya');
  });

  it("refuse a conversation in its own words", () => {
    expect(() => render("{{ raise_exception('Roles must alternate.') }}")).toThrow(
      "The chat template refuses this conversation: Roles must alternate.",
    );
  });

  it("not know the date", () => {
    expect(() => render("{{ strftime_now('%Y') }}")).toThrow("The chat template cannot be used (");
  });
});

describe("the template is looked for", () => {
  const names = { bos: undefined, eos: "</s>" };
  const [a, b, c] = ["a", "b", "c"].map((mark) => `${mark}{% for m in messages %}{{ m.content }}{% endfor %}`);
  const source = (config: Record<string, unknown>, files = {}) =>
    openChatFormat(config, files, names, () => true)?.source;

  it("in chat_template.jinja, then in tokenizer_config.json, then in chat_template.json", () => {
    const files = { chatTemplate: a, chatTemplateJson: { chat_template: c } };
    expect(source({ chat_template: b }, files)).toBe(a);
    expect(source({ chat_template: b }, { ...files, chatTemplate: undefined })).toBe(b);
    expect(source({}, { ...files, chatTemplate: undefined })).toBe(c);
    expect(source({})).toBeUndefined();
  });

  it("by the name default among several", () => {
    const tools = { name: "tool_use", template: a };
    expect(source({ chat_template: [tools, { name: "default", template: b }] })).toBe(b);
    expect(source({ chat_template: [tools] })).toBe(a);
    expect(() => source({ chat_template: [tools, { name: "rag", template: b }] })).toThrow(
      'tokenizer_config.json has the chat templates tool_use, rag, and none of them is "default".',
    );
    for (const chat_template of [7, {}, [], [7], [{ name: "x" }]]) {
      expect(() => source({ chat_template })).toThrow("neither a text nor a list of named texts");
    }
  });
});
