// The training loss, live, over all stages in a row.

import { useEffect, useRef } from "preact/hooks";
import uPlot from "uplot";
import "uplot/dist/uPlot.min.css";
import { useFormats, useMessages } from "../context.ts";
import type { Formats } from "../i18n/format.ts";
import type { Messages } from "../i18n/messages.ts";
import type { Curve } from "../view.ts";
import { colorOf, onColorsChange, stageColor } from "./colors.ts";
import { type LossSeries, lossSeries } from "./lossSeries.ts";

const HEIGHT = 260;
const FONT = '12px system-ui, "PingFang SC", "Noto Sans CJK SC", "Microsoft YaHei", sans-serif';

interface LossChartProps {
  curves: Curve[];
  /** Steps of the whole recipe: the right end of the axis. */
  totalSteps: number;
}

export function LossChart({ curves, totalSteps }: LossChartProps) {
  const [t, format] = [useMessages(), useFormats()];
  const place = useRef<HTMLDivElement>(null);
  const chart = useRef<uPlot | null>(null);
  const series = lossSeries(curves);
  const latest = useRef(series);
  latest.current = series;
  const kinds = curves.map((curve) => curve.kind).join();

  // A chart for these stages, in this language; drawn anew when colours change, fitted when the place does.
  useEffect(() => {
    const node = place.current as HTMLDivElement;
    const make = () => {
      chart.current?.destroy();
      chart.current = new uPlot(
        options(node.clientWidth, curves, totalSteps, latest, t, format),
        data(latest.current),
        node,
      );
    };
    make();
    const fit = new ResizeObserver(() => chart.current?.setSize({ width: node.clientWidth, height: HEIGHT }));
    fit.observe(node);
    const stop = onColorsChange(make);
    return () => {
      fit.disconnect();
      stop();
      chart.current?.destroy();
      chart.current = null;
    };
  }, [kinds, totalSteps, t]);

  useEffect(() => {
    chart.current?.setData(data(series));
  }, [curves]);

  const names = curves.map((curve) => t.stageKinds[curve.kind]).join(", ");
  return (
    <figure class="chart">
      <div ref={place} class="chart-canvas" role="img" aria-label={t.progress.chartLabel(names)} />
      <figcaption class="legend">
        {curves.map((curve) => (
          <span key={curve.kind} class={`legend-item ${stageColor(curve.kind)}`}>
            {t.progress.lossFromTo(t.stageKinds[curve.kind], ...ends(curve, format))}
          </span>
        ))}
      </figcaption>
    </figure>
  );
}

const mean = (part: [number, number][]) => part.reduce((sum, [, loss]) => sum + loss, 0) / part.length;

/** Means over the first and the last tenth, as the report has them. */
function ends({ points }: Curve, format: Formats): [string, string] {
  if (points.length === 0) return ["–", "–"];
  const tenth = Math.max(1, Math.round(points.length / 10));
  return [format.decimal(mean(points.slice(0, tenth)), 2), format.decimal(mean(points.slice(-tenth)), 2)];
}

/** Per curve the values themselves, faint, and their running mean. */
function data({ x, raw, smooth }: LossSeries): uPlot.AlignedData {
  return [x, ...raw, ...smooth];
}

const line = (stroke: string, thickness: number): uPlot.Series => ({
  stroke,
  width: thickness,
  points: { show: false },
  spanGaps: false,
});

function options(
  width: number,
  curves: Curve[],
  totalSteps: number,
  latest: { current: LossSeries },
  t: Messages,
  format: Formats,
): uPlot.Options {
  const colors = curves.map((curve) => colorOf(stageColor(curve.kind)));
  const axis: uPlot.Axis = {
    stroke: colorOf("muted"),
    font: FONT,
    labelFont: FONT,
    grid: { stroke: colorOf("line"), width: 1 },
    ticks: { show: false },
  };
  return {
    width,
    height: HEIGHT,
    legend: { show: false },
    cursor: { show: false },
    scales: {
      x: { time: false, range: () => [0, Math.max(totalSteps, latest.current.x.at(-1) ?? 1)] },
      y: { range: (_chart, low, high) => [Math.min(0, low), Math.max(high, 0.1) * 1.05] },
    },
    axes: [
      {
        ...axis,
        label: t.progress.stepAxis,
        labelSize: 24,
        size: 32,
        values: (_, ticks) => ticks.map((tick) => format.whole(tick)),
      },
      { ...axis, label: t.progress.lossUnit, labelSize: 24, size: 44, values: (_, ticks) => ticks.map(format.precise) },
    ],
    series: [{}, ...colors.map((color) => line(`${color}55`, 1)), ...colors.map((color) => line(color, 2))],
    hooks: { drawAxes: [(chart) => drawStarts(chart, latest.current.starts)] },
  };
}

/** A dashed line where a stage begins. */
function drawStarts(chart: uPlot, starts: number[]): void {
  const { ctx, bbox } = chart;
  ctx.save();
  ctx.strokeStyle = colorOf("muted");
  ctx.globalAlpha = 0.5;
  ctx.lineWidth = devicePixelRatio;
  ctx.setLineDash([3 * devicePixelRatio, 4 * devicePixelRatio]);
  for (const start of starts.slice(1)) {
    const x = chart.valToPos(start, "x", true);
    ctx.beginPath();
    ctx.moveTo(x, bbox.top);
    ctx.lineTo(x, bbox.top + bbox.height);
    ctx.stroke();
  }
  ctx.restore();
}
