// A run's report for people: one HTML page that needs nothing else, and a table for the terminal.

import type {
  Evaluation,
  EvaluationPoint,
  Latency,
  ModelSize,
  Report,
  StageResult,
  StageResultKind,
} from "../protocol/report.ts";
import type { Content, Markup } from "./reportMarkup.ts";
import { change, compact, duration, figures, fileSize, html, percent, percentRange, whole } from "./reportMarkup.ts";
import type { BarGroup } from "./reportPlots.ts";
import { accuracyBars, lossCurve, scoreMap } from "./reportPlots.ts";
import { REPORT_STYLE } from "./reportStyle.ts";

const POINTS: Record<EvaluationPoint, string> = {
  before: "Before",
  pruned: "After pruning",
  recovered: "After recovery",
  directControl: "Direct control",
  chains: "After chains",
  sft: "After SFT",
};

const STAGES: Record<StageResultKind, string> = {
  score: "Score",
  prune: "Prune",
  recover: "Recover",
  directControl: "Direct control",
  chains: "Chains of thought",
  sft: "SFT",
};

const KINDS: Record<keyof ModelSize, string> = {
  embedding: "Embedding",
  attention: "Attention",
  denseFfn: "Dense FFN",
  sharedExperts: "Shared experts",
  routedExperts: "Routed experts",
  router: "Router",
  norms: "Norms",
  total: "Total",
};

/** In a cell that has no value. */
const NONE = "–";

const POINT_ORDER = Object.keys(POINTS) as EvaluationPoint[];

/** The evaluations, chain beside direct, in the order of a run. */
function groups({ evaluations }: Report): BarGroup[] {
  const find = (point: EvaluationPoint, mode: Evaluation["mode"]) =>
    evaluations.find((one) => one.point === point && one.mode === mode) ?? null;
  return POINT_ORDER.map((point) => ({
    label: POINTS[point],
    chain: find(point, "chain"),
    direct: find(point, "direct"),
  })).filter(({ chain, direct }) => chain !== null || direct !== null);
}

/** The report as one HTML page: no script, nothing loaded, readable on screen and on paper. */
export function reportHtml(report: Report): string {
  const { recipe, environment } = report;
  const page = html`<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>${recipe.name} · Espalier report</title>
<style>${{ markup: REPORT_STYLE }}</style>
</head>
<body>
<header>
  <p class="brand">Espalier · report of a run</p>
  <h1>${recipe.name}</h1>
  <p class="soft">${report.model.name}, seed ${report.seed}, ${duration(report.seconds)} on ${environment.device} (${environment.backend})</p>
</header>
<main>
${tiles(report)}
${answers(report)}
${curves(report)}
${importance(report)}
${sizes(report)}
${stages(report)}
${about(report)}
</main>
</body>
</html>
`;
  return page.markup;
}

/** The four figures to look at first. */
function tiles(report: Report): Markup {
  const { before, after } = report.model;
  const best = report.evaluations
    .filter(({ point }) => point !== "before" && point !== "pruned")
    .toSorted((a, b) => b.accuracy - a.accuracy)[0];
  const control = report.evaluations.find(({ point }) => point === "directControl");
  const chains = report.evaluations.find(({ point, mode }) => point === "chains" && mode === "chain");
  const { latency } = report;
  return html`<section class="tiles" aria-label="In short">
  ${tile("Parameters", change(before.total, after.total), `${compact(before.total)} → ${compact(after.total)}`)}
  ${latency && tile("Time per token", change(latency.before.decodeMs, latency.after.decodeMs), `${figures(latency.before.decodeMs)} → ${figures(latency.after.decodeMs)} ms`)}
  ${chains && control ? tile("Chain against direct", percent(chains.accuracy), `direct, same cases and steps: ${percent(control.accuracy)}`) : null}
  ${best ? tile("Best accuracy", percent(best.accuracy), `${POINTS[best.point]}, ${best.mode}, n = ${whole(best.n)}`) : null}
</section>`;
}

function tile(name: string, value: string, note: string): Markup {
  return html`<div class="tile"><p class="soft">${name}</p><p class="figure">${value}</p><p class="soft">${note}</p></div>`;
}

/** Heads that start with ">" stand over columns of numbers, set to the right. */
function table(heads: string[], rows: Content[][]): Markup {
  const right = heads.map((head) => head.startsWith(">"));
  const name = (i: number) => (right[i] ? "n" : "");
  return html`<table><thead><tr>${heads.map((head, i) => html`<th class="${name(i)}">${head.replace(/^>/, "")}</th>`)}</tr></thead>
<tbody>${rows.map((row) => html`<tr>${row.map((cell, i) => html`<td class="${name(i)}">${cell}</td>`)}</tr>`)}</tbody></table>`;
}

function answers(report: Report): Markup | null {
  if (report.evaluations.length === 0) return null;
  const slices = report.evaluations.flatMap((one) =>
    one.slices.map(({ name, n, accuracy }) => [POINTS[one.point], one.mode, name, whole(n), percent(accuracy)]),
  );
  return html`<section><h2>Answers before and after</h2>
<p>Test cases that no training stage saw, answered by generation and graded. Whiskers: Wilson's 95 % interval.
<span class="key chain">with a chain of thought</span> <span class="key direct">answering at once</span></p>
<figure>${accuracyBars(groups(report))}</figure>
${table(
  [
    "Point",
    "Mode",
    ">n",
    ">Right",
    ">Accuracy",
    ">95 % interval",
    ">Macro F1",
    ">Chains right",
    ">Tokens per reply",
    ">Loss",
  ],
  report.evaluations.map((one) => [
    POINTS[one.point],
    one.mode,
    whole(one.n),
    whole(one.correct),
    html`<strong>${percent(one.accuracy)}</strong>`,
    percentRange(one.interval),
    one.macroF1.toFixed(3),
    one.chainsRight === null ? NONE : percent(one.chainsRight),
    figures(one.tokensPerReply),
    one.loss.toFixed(3),
  ]),
)}
${slices.length > 0 ? details("By kind of case", table(["Point", "Mode", "Cases", ">n", ">Accuracy"], slices)) : null}</section>`;
}

function details(summary: string, content: Markup): Markup {
  return html`<details><summary>${summary}</summary>${content}</details>`;
}

function curves(report: Report): Markup | null {
  const trained = report.stages.filter(({ curve }) => curve.length > 1);
  if (trained.length === 0) return null;
  return html`<section><h2>Loss</h2><p>Mean nats per trained token. Faint: every step. Strong: running mean.</p>
<div class="curves">${trained.map(
    ({ kind, curve }) =>
      html`<figure><figcaption>${STAGES[kind]}</figcaption>${lossCurve(STAGES[kind], curve)}</figure>`,
  )}</div></section>`;
}

function importance({ scores, plan }: Report): Markup | null {
  if (!scores) return null;
  const method = scores.method === "gateFisher" ? "mean squared gate gradient" : "mean absolute gradient";
  const cut =
    plan && `Struck through: cut (${whole(plan.removedParameters)} parameters, ${percent(plan.removedShare)}).`;
  const rows = scores.layers.map((layer, i) => {
    const kept = plan?.layers[i] ?? layer;
    const left = (["heads", "experts", "channels"] as const).map((kind) =>
      outOf(kept[kind].length, layer[kind].length),
    );
    return [i, figures(layer.attention), figures(layer.ffn), figures(layer.layer), ...left];
  });
  return html`<section><h2>What matters, and what was cut</h2>
<p>Score of each unit: ${method} over ${whole(scores.cases)} cases, shaded on a logarithmic scale within each kind; a narrow cell is the mean of
neighbours.
The two halves of the cases agree with a rank correlation of ${scores.splitHalfCorrelation.toFixed(2)}. ${cut}</p>
<figure>${scoreMap(scores.layers, plan?.layers ?? null)}</figure>
${details(
  "Layers in numbers",
  table([">Layer", ">Attention", ">FFN", ">Whole layer", ">Heads left", ">Experts left", ">Channels left"], rows),
)}</section>`;
}

function outOf(count: number, all: number): string {
  return all === 0 ? NONE : `${count} of ${all}`;
}

function sizes({ model, latency }: Report): Markup {
  const heads = [">Before", ">After", ">Change"];
  return html`<section><h2>Size and speed</h2><div class="pair">
${table(["Parameters", ...heads], sizeRows(model))}
${latency && table(["Latency, ms", ...heads], latencyRows(latency))}</div>
${
  latency &&
  html`<p class="soft">Medians of ${latency.before.repeats} interleaved repetitions; spread: between the quartiles.</p>`
}</section>`;
}

function sizeRows({ before, after }: Report["model"]): string[][] {
  const kinds = (Object.keys(KINDS) as (keyof ModelSize)[]).filter((kind) => before[kind] > 0);
  return kinds.map((kind) => [KINDS[kind], whole(before[kind]), whole(after[kind]), change(before[kind], after[kind])]);
}

function latencyRows({ before, after }: NonNullable<Report["latency"]>): string[][] {
  const row = (name: string, key: keyof Latency, compared: boolean) => {
    const difference = compared ? change(before[key], after[key]) : "";
    return [name, figures(before[key]), figures(after[key]), difference];
  };
  return [
    row("Reading prompts", "prefillMs", true),
    row("  spread", "prefillSpreadMs", false),
    row("One more token", "decodeMs", true),
    row("  spread", "decodeSpreadMs", false),
  ];
}

function stages(report: Report): Markup | null {
  if (report.stages.length === 0) return null;
  const heads = [
    "Stage",
    ">Steps",
    ">Time",
    ">Tokens per second",
    ">Trainable parameters",
    ">Loss at start",
    ">At end",
  ];
  return html`<section><h2>Stages</h2>${table(heads, report.stages.map(stageRow))}</section>`;
}

function stageRow({ kind, steps, seconds, tokensPerSecond, trainableParameters, lossStart, lossEnd }: StageResult) {
  return [
    STAGES[kind],
    whole(steps),
    duration(seconds),
    whole(tokensPerSecond),
    whole(trainableParameters),
    lossStart?.toFixed(3) ?? NONE,
    lossEnd?.toFixed(3) ?? NONE,
  ];
}

function about({ environment, files, recipe }: Report): Markup {
  const facts = [
    ["Backend", `${environment.backend}: ${environment.reason}`],
    ["Device", environment.device],
    ["Host", environment.host],
    ["Espalier", environment.espalier],
    ["TensorFlow.js", environment.tensorflowJs],
  ];
  const rows = files.map((file) => [file.name, fileSize(file.sizeBytes), html`<code>${file.sha256}</code>`]);
  return html`<section><h2>To repeat this run</h2>
<table class="facts"><tbody>${facts.map(([name, value]) => html`<tr><th>${name}</th><td>${value}</td></tr>`)}</tbody></table>
${files.length > 0 ? html`<h3>Files</h3>${table(["Name", ">Size", "SHA-256"], rows)}` : null}
<h3>Recipe</h3><pre>${JSON.stringify(recipe, null, 2)}</pre></section>`;
}

/** The report as plain text for a terminal, about 100 columns wide. */
export function reportTable(report: Report): string {
  const { model, latency, environment, recipe } = report;
  const answered = groups(report).map(({ label, chain, direct }) => [label, ...cells(chain), ...cells(direct)]);
  const stageHeads = ["Stage", "steps", "time", "tokens/s", "trainable", "loss at start", "at end"];
  const files = report.files.map((file) => [file.name, fileSize(file.sizeBytes), file.sha256]);
  const sections = [
    `${recipe.name} · ${model.name} · seed ${report.seed} · ${environment.backend}, ${environment.device} · ${duration(report.seconds)}`,
    columns(["Test cases", "chain", "95 % interval", "F1", "direct", "95 % interval", "F1"], answered),
    columns(["Parameters", "before", "after", "change"], sizeRows(model)),
    latency && columns(["Latency, ms", "before", "after", "change"], latencyRows(latency)),
    columns(stageHeads, report.stages.map(stageRow)),
    files.length > 0 && columns(["File", "size", "SHA-256"], files),
  ];
  return `${sections.filter(Boolean).join("\n\n")}\n`;
}

function cells(evaluation: Evaluation | null): string[] {
  if (!evaluation) return [NONE, "", ""];
  return [percent(evaluation.accuracy), percentRange(evaluation.interval), evaluation.macroF1.toFixed(3)];
}

/** Text in columns: the first to the left, the others to the right, a line below the heads. */
function columns(heads: string[], rows: string[][]): string {
  const widths = heads.map((_, i) => Math.max(...[heads, ...rows].map((row) => row[i].length)));
  const lines = [heads, ...rows].map((row) =>
    row
      .map((text, i) => (i === 0 ? text.padEnd(widths[i]) : text.padStart(widths[i])))
      .join("  ")
      .trimEnd(),
  );
  return [lines[0], "─".repeat(widths.reduce((total, width) => total + width + 2, -2)), ...lines.slice(1)].join("\n");
}
