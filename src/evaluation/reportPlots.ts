// The plots of a report as SVG, in the colours of the page they stand in (classes, no fixed colours).

import type { Evaluation, LayerPlan, LayerScores } from "../protocol/report.ts";
import type { Markup } from "./reportMarkup.ts";
import { figures, html, percent, percentRange } from "./reportMarkup.ts";

/** One row of bars: both modes at one point of the run. */
export interface BarGroup {
  label: string;
  chain: Evaluation | null;
  direct: Evaluation | null;
}

const BAR = { height: 18, gap: 4, groupGap: 18, left: 170, right: 150, width: 820, top: 26 };

/** Accuracy as bars with 95 % intervals, chain of thought above direct answer, one group per point of the run. */
export function accuracyBars(groups: BarGroup[]): Markup {
  const plotWidth = BAR.width - BAR.left - BAR.right;
  const x = (share: number) => BAR.left + share * plotWidth;
  let y = BAR.top;
  const rows: Markup[] = [];
  for (const { label, chain, direct } of groups) {
    const present = [chain, direct].filter((evaluation) => evaluation !== null);
    const height = present.length * (BAR.height + BAR.gap) - BAR.gap;
    rows.push(
      html`<text class="label" x="${BAR.left - 12}" y="${y + height / 2 + 4}" text-anchor="end">${label}</text>`,
    );
    for (const evaluation of present) {
      rows.push(bar(evaluation, x, y));
      y += BAR.height + BAR.gap;
    }
    y += BAR.groupGap;
  }
  const bottom = y - BAR.groupGap;
  const ticks = [0, 0.25, 0.5, 0.75, 1].map(
    (share) => html`<line class="grid" x1="${x(share)}" x2="${x(share)}" y1="${BAR.top - 8}" y2="${bottom}"/>
      <text class="tick" x="${x(share)}" y="${BAR.top - 12}" text-anchor="middle">${share * 100} %</text>`,
  );
  return html`<svg viewBox="0 0 ${BAR.width} ${bottom + 6}" role="img" aria-label="Accuracy at each point of the run; the table below has the numbers">${ticks}${rows}</svg>`;
}

function bar(evaluation: Evaluation, x: (share: number) => number, y: number): Markup {
  const { accuracy, interval, mode } = evaluation;
  const middle = y + BAR.height / 2;
  const [low, high] = interval;
  return html`<g><title>${mode}: ${percent(accuracy)} (${percentRange(interval)})</title>
    <rect class="bar ${mode}" x="${x(0)}" y="${y}" width="${Math.max(1, x(accuracy) - x(0))}" height="${BAR.height}" rx="2"/>
    <path class="whisker" d="M${x(low)} ${middle}H${x(high)}M${x(low)} ${middle - 4}v8M${x(high)} ${middle - 4}v8"/>
    <text class="value" x="${x(Math.max(high, accuracy)) + 8}" y="${middle + 4}">${percent(accuracy)}<tspan class="soft"> ${mode === "chain" ? "chain" : "direct"}</tspan></text></g>`;
}

const CURVE = { width: 400, height: 190, left: 46, right: 12, top: 12, bottom: 30 };

/** A stage's loss: every step faint, the running mean of a twentieth of the steps strong. */
export function lossCurve(title: string, curve: [number, number][]): Markup {
  const losses = curve.map(([, loss]) => loss).filter(Number.isFinite);
  const lastStep = curve.at(-1)?.[0] ?? 1;
  const firstStep = curve[0]?.[0] ?? 0;
  const [low, high] = niceRange(Math.min(...losses), Math.max(...losses));
  const x = (step: number) =>
    CURVE.left + ((step - firstStep) / Math.max(1, lastStep - firstStep)) * (CURVE.width - CURVE.left - CURVE.right);
  const y = (loss: number) => CURVE.top + ((high - loss) / (high - low)) * (CURVE.height - CURVE.top - CURVE.bottom);
  const line = (points: [number, number][]) =>
    points
      .filter(([, loss]) => Number.isFinite(loss))
      .map(([step, loss], i) => `${i === 0 ? "M" : "L"}${x(step).toFixed(1)} ${y(loss).toFixed(1)}`)
      .join("");
  const levels = [0, 1, 2, 3].map((i) => low + ((high - low) * i) / 3);
  return html`<svg viewBox="0 0 ${CURVE.width} ${CURVE.height}" role="img" aria-label="Loss of stage ${title}, from ${figures(losses[0] ?? 0)} to ${figures(losses.at(-1) ?? 0)} over ${curve.length} steps">
    ${levels.map(
      (
        level,
      ) => html`<line class="grid" x1="${CURVE.left}" x2="${CURVE.width - CURVE.right}" y1="${y(level)}" y2="${y(level)}"/>
      <text class="tick" x="${CURVE.left - 6}" y="${y(level) + 4}" text-anchor="end">${figures(level)}</text>`,
    )}
    <text class="tick" x="${CURVE.left}" y="${CURVE.height - 8}">step ${firstStep}</text>
    <text class="tick" x="${CURVE.width - CURVE.right}" y="${CURVE.height - 8}" text-anchor="end">step ${lastStep}</text>
    <path class="faint" d="${line(curve)}"/><path class="strong" d="${line(runningMean(curve))}"/></svg>`;
}

/** Mean over a window centred on each point, a twentieth of the curve long, one point at least. */
function runningMean(curve: [number, number][]): [number, number][] {
  const reach = Math.floor(curve.length / 40);
  return curve.map(([step], i) => {
    const window = curve.slice(Math.max(0, i - reach), i + reach + 1);
    return [step, window.reduce((total, [, loss]) => total + loss, 0) / window.length];
  });
}

/** The range, a little wider, and never empty. */
function niceRange(least: number, most: number): [number, number] {
  if (!Number.isFinite(least) || !Number.isFinite(most)) return [0, 1];
  const margin = Math.max((most - least) * 0.06, Math.abs(most) * 1e-3, 1e-6);
  return [Math.max(least >= 0 ? 0 : -Infinity, least - margin), most + margin];
}

const MAP = { width: 820, left: 70, cell: 20, top: 40, gap: 26, mostColumns: 96, fewColumns: 24 };

interface Unit {
  score: number;
  kept: boolean;
}

/** Scores of every layer's units, the darker the more important (logarithmic within each kind); what was cut is struck. */
export function scoreMap(layers: LayerScores[], plan: LayerPlan[] | null): Markup {
  const kinds = [
    { name: "Heads", units: layers.map((layer, i) => units(layer.heads, plan?.[i].heads)) },
    { name: "Experts", units: layers.map((layer, i) => units(layer.experts, plan?.[i].experts)) },
    { name: "Channels", units: layers.map((layer, i) => units(layer.channels, plan?.[i].channels)) },
    { name: "Channels of the experts", units: layers.map((layer, i) => expertChannels(layer, plan?.[i])) },
  ].filter(({ units: rows }) => rows.some((row) => row.length > 0));
  const widest = kinds.map(({ units: rows }) => Math.min(MAP.mostColumns, Math.max(...rows.map((row) => row.length))));
  const room = MAP.width - MAP.left - MAP.gap * (kinds.length - 1);
  const widths = cellWidths(widest, room);
  const parts: Markup[] = [];
  let left = MAP.left;
  kinds.forEach(({ name, units: rows }, k) => {
    parts.push(html`<text class="label" x="${left}" y="${MAP.top - 14}">${name}</text>`);
    parts.push(mapOfKind(name, rows, widest[k], left, widths[k]));
    left += widest[k] * widths[k] + MAP.gap;
  });
  const labels = layers.map(
    (_, i) =>
      html`<text class="tick" x="${MAP.left - 8}" y="${MAP.top + (i + 0.5) * MAP.cell + 4}" text-anchor="end">layer ${i}</text>`,
  );
  const height = MAP.top + layers.length * MAP.cell + 8;
  return html`<svg viewBox="0 0 ${MAP.width} ${height}" role="img" aria-label="Importance of heads, experts and channels, layer by layer">${labels}${parts}</svg>`;
}

/** Square cells for kinds with few units; those with many share the room that is left. */
function cellWidths(counts: number[], room: number): number[] {
  const few = counts.filter((count) => count <= MAP.fewColumns).reduce((total, count) => total + count * MAP.cell, 0);
  const many = counts.filter((count) => count > MAP.fewColumns).reduce((total, count) => total + count, 0);
  const scale = Math.min(1, (many > 0 ? room / 2 : room) / Math.max(few, 1));
  const share = (room - few * scale) / Math.max(many, 1);
  return counts.map((count) => (count <= MAP.fewColumns ? MAP.cell * scale : Math.min(MAP.cell, share)));
}

function units(scores: number[], kept: number[] | undefined): Unit[] {
  const keep = new Set(kept);
  return scores.map((score, i) => ({ score, kept: kept === undefined || keep.has(i) }));
}

/** Those of all experts in a row; of an expert that was cut, all are. */
function expertChannels(layer: LayerScores, plan: LayerPlan | undefined): Unit[] {
  return layer.expertChannels.flatMap((scores, expert) => {
    const place = plan?.experts.indexOf(expert) ?? -1;
    return units(scores, plan && (place < 0 ? [] : plan.expertChannels[place]));
  });
}

function mapOfKind(name: string, rows: Unit[][], columns: number, left: number, cellWidth: number): Markup {
  const binned = rows.map((row) => bin(row, columns));
  const logs = binned.flat().map(({ score }) => logScore(score));
  const [least, most] = [Math.min(...logs), Math.max(...logs)];
  const strength = (score: number) => (most > least ? (logScore(score) - least) / (most - least) : 1);
  const cells = binned.flatMap((row, layer) =>
    row.map((cell, i) => {
      const [x, y] = [left + i * cellWidth, MAP.top + layer * MAP.cell];
      const [width, height] = [Math.max(0.5, cellWidth - (cellWidth > 4 ? 1 : 0)), MAP.cell - 2];
      const opacity = (0.06 + 0.94 * strength(cell.score)).toFixed(3);
      const which = cell.count === 1 ? `${cell.first}` : `${cell.first} to ${cell.first + cell.count - 1}`;
      const fate = cell.keptCount === cell.count ? "kept" : cell.keptCount === 0 ? "cut" : `${cell.keptCount} kept`;
      const strike = cell.keptCount === 0 ? html`<path class="cut" d="M${x} ${y + height}L${x + width} ${y}"/>` : null;
      return html`<g><title>layer ${layer}, ${name.toLowerCase()} ${which}: ${figures(cell.score)}, ${fate}</title><rect class="cell" x="${x}" y="${y}" width="${width}" height="${height}" fill-opacity="${opacity}"/>${strike}</g>`;
    }),
  );
  return html`${cells}`;
}

/** Scores span orders of magnitude; zeros sit a little below the smallest that single precision tells apart. */
function logScore(score: number): number {
  return Math.log10(Math.max(Math.abs(score), 1e-12));
}

interface Cell {
  first: number;
  count: number;
  keptCount: number;
  /** Mean of its units. */
  score: number;
}

/** At most `columns` cells; where there are more units, neighbours share one. */
function bin(row: Unit[], columns: number): Cell[] {
  const count = Math.min(columns, row.length);
  return Array.from({ length: count }, (_, i) => {
    const first = Math.floor((i * row.length) / count);
    const members = row.slice(first, Math.floor(((i + 1) * row.length) / count));
    return {
      first,
      count: members.length,
      keptCount: members.filter(({ kept }) => kept).length,
      score: members.reduce((total, { score }) => total + score, 0) / members.length,
    };
  });
}
