// Learning rates over a run.

/**
 * Linear warm-up over a tenth of the steps (at most 200), then a cosine from the peak to a tenth of it.
 *
 * step: 0..steps-1.
 */
export function learningRateAt(step: number, steps: number, peak: number): number {
  const warmUp = Math.max(1, Math.min(200, Math.round(steps / 10)));
  if (step < warmUp) return (peak * (step + 1)) / warmUp;
  const done = (step - warmUp) / Math.max(1, steps - warmUp);
  return peak * (0.1 + 0.9 * 0.5 * (1 + Math.cos(Math.PI * done)));
}
