// Timing contestants against each other, and what is said of a list of times.

/** A median with the quartiles around it. */
export interface Spread {
  median: number;
  low: number;
  high: number;
  count: number;
}

export function spreadOf(values: number[]): Spread {
  const sorted = values.toSorted((a, b) => a - b);
  return {
    median: quantile(sorted, 0.5),
    low: quantile(sorted, 0.25),
    high: quantile(sorted, 0.75),
    count: values.length,
  };
}

/** One number that has no spread: a count. */
export function exactly(value: number): Spread {
  return { median: value, low: value, high: value, count: 1 };
}

/** Of sorted values, between neighbours by straight line. */
function quantile(sorted: number[], part: number): number {
  const at = part * (sorted.length - 1);
  const below = Math.floor(at);
  const above = Math.min(below + 1, sorted.length - 1);
  return sorted[below] + (at - below) * (sorted[above] - sorted[below]);
}

/** Milliseconds that `run` takes until it resolves. */
export async function timed(run: () => unknown): Promise<number> {
  const startedMs = performance.now();
  await run();
  return performance.now() - startedMs;
}

export interface Patience {
  /** For all rounds together; `leastRounds` are run however long they take. */
  seconds: number;
  leastRounds: number;
  mostRounds: number;
}

/** Of one contestant in one round, where another takes much longer. */
const MOST_REPEATS = 5;

/**
 * Run the contestants in turn, round by round, so that what else the machine does meets all of them alike. They come
 * warm: compiled, recorded. A quick contestant runs several times in a round. Returns the milliseconds of each run, in
 * the contestants' order.
 */
export async function interleave(
  contestants: (() => Promise<unknown>)[],
  { seconds, leastRounds, mostRounds }: Patience,
): Promise<number[][]> {
  const times: number[][] = contestants.map(() => []);
  let repeats = contestants.map(() => 1);
  const endMs = performance.now() + 1000 * seconds;
  for (let round = 0; round < mostRounds && (round < leastRounds || performance.now() < endMs); round++) {
    for (const [i, run] of contestants.entries()) {
      for (let repeat = 0; repeat < repeats[i]; repeat++) times[i].push(await timed(run));
    }
    const slowest = Math.max(...times.map(([first]) => first));
    repeats = times.map(([first]) => Math.max(1, Math.min(MOST_REPEATS, Math.floor(slowest / first / 2))));
  }
  return times;
}
