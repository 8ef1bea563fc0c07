// Numbers that sum up graded answers, with how far they can be trusted.

/** Wilson's score interval (Wilson, 1927) for a share of `correct` in `n`, at 95 %. */
export function wilsonInterval(correct: number, n: number): [number, number] {
  if (n === 0) return [0, 1];
  const z = 1.959963984540054;
  const share = correct / n;
  const centre = share + (z * z) / (2 * n);
  const spread = z * Math.sqrt((share * (1 - share)) / n + (z * z) / (4 * n * n));
  const scale = 1 + (z * z) / n;
  return [Math.max(0, (centre - spread) / scale), Math.min(1, (centre + spread) / scale)];
}

/**
 * Macro-averaged F1 over the classes that occur in `truth`; a predicted class that never occurs only costs recall.
 *
 * truth, predicted: one class per item.
 */
export function macroF1(truth: string[], predicted: string[]): number {
  const classes = [...new Set(truth)];
  const scores = classes.map((name) => {
    let [right, claimed, actual] = [0, 0, 0];
    truth.forEach((own, i) => {
      if (predicted[i] === name) claimed += 1;
      if (own === name) actual += 1;
      if (own === name && predicted[i] === name) right += 1;
    });
    return right === 0 ? 0 : (2 * right) / (claimed + actual);
  });
  return scores.reduce((total, score) => total + score, 0) / Math.max(1, classes.length);
}

/** The middle value; the mean of the two in the middle if there are two. */
export function median(values: number[]): number {
  return quantile(values, 0.5);
}

/** Linear interpolation between the order statistics. */
export function quantile(values: number[], share: number): number {
  if (values.length === 0) return Number.NaN;
  const sorted = values.toSorted((a, b) => a - b);
  const at = (sorted.length - 1) * share;
  const below = Math.floor(at);
  const above = Math.min(below + 1, sorted.length - 1);
  return sorted[below] + (sorted[above] - sorted[below]) * (at - below);
}
