// Rows to train on and rows held out, with nothing in common.

import { shuffled } from "./shuffle.ts";

export interface SplitOptions {
  /** Shares of the groups that are held out, from 0 up and together below 1. */
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
 * Split rows at random, by seed. Rows of one group (a patient, a contract, equal questions) stay together.
 *
 * Every share above 0 gets at least one group, and so does training. Throws if there are too few groups for that.
 */
export function split<Row>(rows: Row[], options: SplitOptions, groupOf: (row: Row) => string): Splits<Row> {
  const { validation, test, seed } = options;
  if (!(validation >= 0 && test >= 0 && validation + test < 1)) {
    throw new Error(
      `Held-out shares of ${validation} and ${test} were asked for; they must be 0 or more and together below 1.`,
    );
  }
  const groups = [...gather(rows, groupOf).values()];
  const [fewestTest, fewestValidation] = [Math.ceil(test), Math.ceil(validation)]; // 1 where a share is wanted.
  if (groups.length < 1 + fewestValidation + fewestTest) {
    throw new Error(
      `The rows make ${groups.length} different groups and ${1 + fewestValidation + fewestTest} are needed. Add rows, or hold out fewer parts.`,
    );
  }
  const count = (share: number, fewest: number, most: number): number =>
    Math.min(Math.max(Math.round(share * groups.length), fewest), most);
  const testCount = count(test, fewestTest, groups.length - 1 - fewestValidation);
  const validationCount = count(validation, fewestValidation, groups.length - 1 - testCount);

  const order = shuffled(groups.length, seed, 0).map((index) => groups[index]);
  return {
    test: order.slice(0, testCount).flat(),
    validation: order.slice(testCount, testCount + validationCount).flat(),
    train: order.slice(testCount + validationCount).flat(),
  };
}

/** A text without what does not tell rows apart: width of characters, case, spaces. */
export function textKey(text: string): string {
  return text.normalize("NFKC").toLowerCase().replace(/\s+/g, " ").trim();
}

function gather<Row>(rows: Row[], keyOf: (row: Row) => string): Map<string, Row[]> {
  const groups = new Map<string, Row[]>();
  for (const row of rows) {
    const key = keyOf(row);
    const group = groups.get(key);
    if (group) group.push(row);
    else groups.set(key, [row]);
  }
  return groups;
}
