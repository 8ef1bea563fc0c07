// Loss curves of several stages as one chart's data: the stages in a row along one axis of steps.

import type { Curve } from "../view.ts";

export interface LossSeries {
  /** Steps, counted through all stages. */
  x: number[];
  /** One list per curve, as long as x; null outside its stage. */
  raw: (number | null)[][];
  smooth: (number | null)[][];
  /** Where each stage begins. */
  starts: number[];
}

/** Curves in the order of the work. A curve takes all its planned steps along the axis, done or not. */
export function lossSeries(curves: Curve[]): LossSeries {
  const length = curves.reduce((sum, curve) => sum + curve.points.length, 0);
  const series: LossSeries = { x: [], raw: [], smooth: [], starts: [] };
  let start = 0;
  for (const { points, steps } of curves) {
    const before = series.x.length;
    series.starts.push(start);
    series.raw.push(
      placed(
        points.map(([, loss]) => loss),
        before,
        length,
      ),
    );
    series.smooth.push(placed(smoothed(points.map(([, loss]) => loss)), before, length));
    for (const [step] of points) series.x.push(start + step);
    start += Math.max(steps, points.at(-1)?.[0] ?? 0);
  }
  return series;
}

function placed(values: number[], at: number, length: number): (number | null)[] {
  const list = Array.from({ length }, (): number | null => null);
  values.forEach((value, index) => {
    list[at + index] = value;
  });
  return list;
}

/** Exponential mean over about a twentieth of the values, corrected for its beginning (Kingma & Ba, 2015, section 3). */
export function smoothed(values: number[]): number[] {
  const keep = 1 - 1 / Math.max(2, Math.min(50, values.length / 20));
  let [mean, weight] = [0, 0];
  return values.map((value) => {
    mean = keep * mean + (1 - keep) * value;
    weight = keep * weight + (1 - keep);
    return mean / weight;
  });
}
