// Rows to train on and rows held out, with nothing in common.

import { shuffled } from "./shuffle.ts";

export interface SplitShares {
  /** Shares of the groups that are held out, 0 to 1; together below 1. */
  validation: number;
  test: number;
  seed: number;
}

export interface Splits<Row> {
  train: Row[];
  validation: Row[];
  test: Row[];
}

/**
 * Split rows at random, by seed. Rows of one group (a patient, a contract) stay together; without `groupOf` equal
 * texts do. Every share above 0 gets at least one group; so does training.
 */
export function split<Row>(rows: Row[], shares: SplitShares, groupOf: (row: Row) => string): Splits<Row> {
  const { validation, test, seed } = shares;
  if (!(validation >= 0 && test >= 0 && validation + test < 1)) {
    throw new Error(
      `Held-out shares of ${validation} and ${test} were asked for; from 0 up and together below 1 is wanted.`,
    );
  }
  const groups = new Map<string, Row[]>();
  for (const row of rows) {
    const key = groupOf(row);
    const group = groups.get(key);
    if (group) group.push(row);
    else groups.set(key, [row]);
  }
  const wanted = 1 + Math.sign(validation) + Math.sign(test);
  if (groups.size < wanted) {
    throw new Error(
      `There are ${groups.size} different groups of rows and ${wanted} are needed for the splits. Add rows or hold out fewer.`,
    );
  }
  return deal([...groups.values()], shares);

  function deal(all: Row[][], { validation, test }: SplitShares): Splits<Row> {
    const order = shuffled(all.length, seed, 0).map((index) => all[index]);
    const count = (share: number): number => (share === 0 ? 0 : Math.max(1, Math.round(share * all.length)));
    const testCount = Math.min(count(test), all.length - wanted + Math.sign(test));
    const validationCount = Math.min(count(validation), all.length - testCount - 1);
    return {
      test: order.slice(0, testCount).flat(),
      validation: order.slice(testCount, testCount + validationCount).flat(),
      train: order.slice(testCount + validationCount).flat(),
    };
  }
}
