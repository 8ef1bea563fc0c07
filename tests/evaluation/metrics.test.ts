import { expect, it } from "vitest";
import { macroF1, median, quantile, wilsonInterval } from "../../src/evaluation/metrics.ts";

it.each([
  // Newcombe, 1998, "Two-sided confidence intervals for the single proportion", table I, method 3.
  [81, 263, 0.2553, 0.3662],
  [15, 148, 0.0624, 0.1605],
  [0, 20, 0, 0.1611],
  [1, 29, 0.0061, 0.1718],
  [29, 29, 0.883, 1], // The mirror image of 0 in 29, of the same table: 0 to 0.1170.
])("Wilson's interval for %i in %i is the published one", (correct, n, low, high) => {
  const [from, to] = wilsonInterval(correct, n);
  expect(Math.abs(from - low)).toBeLessThan(1e-4);
  expect(Math.abs(to - high)).toBeLessThan(1e-4);
});

it("Wilson's interval of nothing says nothing", () => {
  expect(wilsonInterval(0, 0)).toEqual([0, 1]);
});

it("macro-F1 is the mean of each class's F1, as in scikit-learn's example", () => {
  // sklearn.metrics.f1_score's own example: average='macro' gives 0.267 (0.26666...).
  expect(macroF1([..."012012"], [..."021001"])).toBeCloseTo(4 / 15, 12);
  expect(macroF1(["a", "a", "b"], ["a", "a", "b"])).toBe(1);
});

it("macro-F1 counts no class that is only predicted, and weighs a rare class like a common one", () => {
  // a: 2 * 1 / (1 + 2), b: 1; "c" is a miss of a and no class of its own.
  expect(macroF1(["a", "a", "b"], ["a", "c", "b"])).toBeCloseTo((2 / 3 + 1) / 2, 12);
  const truth = [...Array.from({ length: 9 }, () => "common"), "rare"];
  expect(
    macroF1(
      truth,
      truth.map(() => "common"),
    ),
  ).toBeCloseTo((18 / 19 + 0) / 2, 12);
});

it("quantiles interpolate between the order statistics, as R's default and NumPy's do", () => {
  // quantile(c(15, 20, 35, 40, 50), c(.05, .3, .4, .5, 1)) in R.
  const values = [35, 50, 15, 40, 20];
  expect([0.05, 0.3, 0.4, 0.5, 1].map((share) => quantile(values, share))).toEqual([16, 23, 29, 35, 50]);
  expect(values).toEqual([35, 50, 15, 40, 20]);
  expect(median([4, 1, 3, 2])).toBe(2.5);
  expect(median([7])).toBe(7);
  expect(median([])).toBeNaN();
});
