// Learning rates over a run.

/** What the cosine ends at, of the peak. */
export const LEAST_SHARE = 0.1;

/** Steps until the peak: a tenth of all, at most 200. */
export function warmUpSteps(steps: number): number {
  return Math.max(1, Math.min(200, Math.round(steps / 10)));
}

/**
 * Linear warm-up, then a cosine from the peak to a tenth of it.
 *
 * step: 0..steps-1.
 */
export function learningRateAt(step: number, steps: number, peak: number): number {
  const warmUp = warmUpSteps(steps);
  if (step < warmUp) return (peak * (step + 1)) / warmUp;
  const done = (step - warmUp) / Math.max(1, steps - warmUp);
  return peak * (LEAST_SHARE + (1 - LEAST_SHARE) * 0.5 * (1 + Math.cos(Math.PI * done)));
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
