import * as v from "valibot";
import { describe, expect, it } from "vitest";
import { reportHtml, reportTable } from "../../src/evaluation/report.ts";
import { compact, duration, figures, fileSize } from "../../src/evaluation/reportMarkup.ts";
import { scoreMap } from "../../src/evaluation/reportPlots.ts";
import type { Report } from "../../src/protocol/report.ts";
import { ReportSchema } from "../../src/protocol/report.ts";
import { exampleReport } from "./exampleReport.ts";

/** A run that was stopped before its first stage was done. */
function emptyReport(): Report {
  const nothing = { scores: null, plan: null, latency: null, stages: [], evaluations: [], files: [] };
  return { ...exampleReport(), ...nothing };
}

/** The count of `pattern` in `text`. */
function times(text: string, pattern: RegExp): number {
  return [...text.matchAll(pattern)].length;
}

it("the example is a report", () => {
  expect(v.parse(ReportSchema, exampleReport())).toEqual(exampleReport());
});

describe("reportHtml", () => {
  const page = reportHtml(exampleReport());

  it("is one page that loads nothing and runs nothing", () => {
    expect(page).toMatch(/^<!doctype html>/);
    expect(page).not.toMatch(/<script|<link|<img|<iframe|\ssrc=|\shref=|url\(|@import|\son\w+=/i);
    expect(page).toContain("default-src 'none'");
  });

  it("opens and closes the same tags", () => {
    const [void_, tags] = [new Set(["meta", "br", "!doctype"]), /<(\/?)([a-z!]+)[^<>]*?(\/?)>/gi];
    const open: string[] = [];
    for (const [, closes, name, selfCloses] of page.matchAll(tags)) {
      if (void_.has(name) || selfCloses) continue;
      if (closes) expect(open.pop()).toBe(name);
      else open.push(name);
    }
    expect(open).toEqual([]);
  });

  it("has every evaluation, a curve for every stage that trained, and every file's hash", () => {
    const report = exampleReport();
    expect(times(page, /class="bar (chain|direct)"/g)).toBe(report.evaluations.length);
    expect(times(page, /class="strong"/g)).toBe(report.stages.filter(({ curve }) => curve.length > 0).length);
    for (const { sha256 } of report.files) expect(page).toContain(sha256);
    for (const text of ["81.0 %", "−40.0 %", "1,030,400", "618,240", "CPU (SIMD)", "no GPU was found", "0.87"]) {
      expect(page).toContain(text);
    }
  });

  it("quotes the recipe so that it can be run again", () => {
    const quoted = /<pre>([\s\S]*)<\/pre>/.exec(page)?.[1].replaceAll("&quot;", '"') ?? "";
    expect(JSON.parse(quoted)).toEqual(exampleReport().recipe);
  });

  it("escapes every name, wherever it stands", () => {
    const report = exampleReport();
    const name = `<script>alert("x")</script>'&`;
    report.recipe.name = report.model.name = report.environment.device = report.environment.host = name;
    report.files[0].name = report.evaluations[0].slices[0].name = report.environment.reason = name;
    const hostile = reportHtml(report);
    expect(hostile).not.toContain("<script");
    expect(times(hostile, /&lt;script&gt;alert\(&quot;x&quot;\)&lt;\/script&gt;&#39;&amp;/g)).toBeGreaterThanOrEqual(7);
  });

  it("is a page too when there is little to tell", () => {
    const empty = reportHtml(emptyReport());
    expect(empty).toContain("To repeat this run");
    expect(empty).not.toMatch(/NaN|Infinity|undefined|null/);
  });

  it("draws no number that is not one", () => {
    const report = exampleReport();
    report.stages[2].curve[3][1] = Number.NaN; // A step that diverged.
    report.stages[3].curve = [[1, 2.5]];
    report.stages[4].curve = report.stages[4].curve.map(([step]) => [step, 1]); // Flat.
    expect(reportHtml(report)).not.toMatch(/NaN|Infinity|undefined/);
  });
});

describe("scoreMap", () => {
  it("strikes what the plan cuts and nothing else", () => {
    const { scores } = exampleReport();
    if (!scores) throw new Error("The example should have scores.");
    const few = scores.layers.map((layer) => ({
      ...layer,
      channels: layer.channels.slice(0, 8),
      expertChannels: layer.expertChannels.map((channels) => channels.slice(0, 4)),
    }));
    // Of 6 heads 4 go, of 8 channels 5; of 8 experts 6 with their 4 channels each, and 1 channel of each that stays.
    const plan = few.map(({ experts }) => ({
      heads: [0, 5],
      channels: [0, 1, 2],
      experts: experts.length > 0 ? [1, 7] : [],
      expertChannels:
        experts.length > 0
          ? [
              [0, 1, 2],
              [1, 2, 3],
            ]
          : [],
    }));
    const perExpertLayer = 4 + 5 + 6 + (6 * 4 + 2);
    expect(times(scoreMap(few, plan).markup, /class="cut"/g)).toBe(4 + 5 + 3 * perExpertLayer);
    expect(times(scoreMap(few, null).markup, /class="cut"/g)).toBe(0);
  });
});

describe("reportTable", () => {
  it("sets every figure under its head", () => {
    expect(reportTable(exampleReport())).toMatchInlineSnapshot(`
      "hospital · deepseek-nano · seed 7 · wasm, CPU (SIMD) · 10 min 42 s

      Test cases       chain  95 % interval     F1  direct  95 % interval     F1
      ──────────────────────────────────────────────────────────────────────────
      Before           3.0 %      0.0–8.5 %  0.028   8.0 %     2.5–13.5 %  0.074
      After pruning    0.0 %      0.0–5.5 %  0.000   1.0 %      0.0–6.5 %  0.009
      After recovery  18.0 %    12.5–23.5 %  0.167  21.0 %    15.5–26.5 %  0.195
      Direct control       –                        43.0 %    37.5–48.5 %  0.400
      After chains    81.0 %    75.5–86.5 %  0.753  30.0 %    24.5–35.5 %  0.279
      After SFT       84.0 %    78.5–89.5 %  0.781  46.0 %    40.5–51.5 %  0.428

      Parameters         before    after   change
      ───────────────────────────────────────────
      Embedding         304,864  181,216  −40.6 %
      Attention         206,080  123,648  −40.0 %
      Dense FFN         103,040   61,824  −40.0 %
      Shared experts    103,040   61,824  −40.0 %
      Routed experts    309,120  185,472  −40.0 %
      Router              3,072    3,072    0.0 %
      Norms               1,184    1,184    0.0 %
      Total           1,030,400  618,240  −40.0 %

      Latency, ms      before  after   change
      ───────────────────────────────────────
      Reading prompts     142   88.9  −37.5 %
        spread           6.10   4.20
      One more token     9.80   6.40  −34.7 %
        spread          0.700  0.500

      Stage              steps   time  tokens/s  trainable  loss at start  at end
      ───────────────────────────────────────────────────────────────────────────
      Score                  0  0.0 s     6,421          0              –       –
      Prune                  0  0.0 s     6,421          0              –       –
      Recover               80   33 s     6,421    618,240          3.200   1.900
      Direct control       160   66 s     6,421     73,728          2.400   1.100
      Chains of thought    160   66 s     6,421     73,728          1.800   0.210
      SFT                   60   25 s     6,421     73,728          0.400   0.240

      File                           size                                                           SHA-256
      ─────────────────────────────────────────────────────────────────────────────────────────────────────
      adapter_model.safetensors  295.6 kB  abababababababababababababababababababababababababababababababab
      model.safetensors            1.2 MB  cdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcd
      "
    `);
  });

  it("leaves out what is not known", () => {
    const table = reportTable(emptyReport());
    expect(table).not.toMatch(/NaN|undefined|null|SHA-256|Latency/);
    expect(table).toContain("Parameters");
  });
});

describe("numbers in words", () => {
  it.each([
    [0.04, "0.0 s"],
    [83.4, "83 s"],
    [412, "6 min 52 s"],
    [7260, "2 h 1 min"],
  ])("%d seconds are %s", (seconds, words) => expect(duration(seconds)).toBe(words));

  it.each([
    [950, "950"],
    [1034, "1.0 k"],
    [99_999, "100 k"],
    [999_999, "1.00 M"],
    [1_030_400, "1.03 M"],
  ])("%d is %s for short", (count, words) => expect(compact(count)).toBe(words));

  it.each([
    [0, "0"],
    [0.00001234, "1.2e-5"],
    [0.1234, "0.123"],
    [12.34, "12.3"],
    [1234.5, "1235"],
  ])("%d is %s to three figures", (value, words) => expect(figures(value)).toBe(words));

  it.each([
    [999, "999 B"],
    [1536, "1.5 kB"],
    [2_400_000, "2.4 MB"],
  ])("%d bytes are %s", (bytes, words) => expect(fileSize(bytes)).toBe(words));
});
