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

/**
 * Linear warm-up over 100 steps, then constant, then over the last 30 % of the steps linearly down to a twentieth
 * (the WSD schedule of Hu et al., 2024, section 4): until the decay begins, a run can be made longer or shorter.
 */
export function warmUpStableDecay(step: number, steps: number, peak: number): number {
  const decayFrom = 0.7 * steps;
  const warmUp = Math.min(1, (step + 1) / 100);
  const decay = 1 - (0.95 * Math.max(0, step - decayFrom)) / (steps - decayFrom);
  return peak * Math.min(warmUp, decay); // A short run decays before it is warm.
}
