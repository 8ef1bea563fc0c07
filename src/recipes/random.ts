// Seeded random numbers for the generators of data: the n-th number of a stream is a pure function of (keys, n).

import { philox2x32, randomUnit } from "../data/shuffle.ts";

export interface Random {
  /** Uniform in [0, 1). */
  next(): number;
  /** Uniform in 0 .. count - 1. */
  integer(count: number): number;
  /** One of the items, each as likely. The list must not be empty. */
  pick<T>(items: readonly T[]): T;
  /** A new list with the items in random order. */
  shuffle<T>(items: readonly T[]): T[];
}

/** A stream of random numbers named by its keys (seed, split, index, ...): the same keys, the same stream. */
export function randomStream(...keys: (number | string)[]): Random {
  let [seed, stream] = [0, 0];
  for (const key of keys) {
    [seed, stream] = philox2x32(typeof key === "string" ? hashText(key) : key, stream, seed);
  }
  let drawn = 0;
  const next = (): number => randomUnit(seed, stream, drawn++);
  const integer = (count: number): number => Math.floor(next() * count);
  return {
    next,
    integer,
    pick: (items) => items[integer(items.length)],
    shuffle: (items) => {
      const list = [...items];
      for (let last = list.length - 1; last > 0; last--) {
        const other = integer(last + 1);
        [list[last], list[other]] = [list[other], list[last]];
      }
      return list;
    },
  };
}

/** One of the entries, each as likely as its weight says. Weights are at least 0 and not all 0. */
export function pickWeighted<T extends { weight: number }>(random: Random, entries: readonly T[]): T {
  const total = entries.reduce((sum, entry) => sum + entry.weight, 0);
  let left = random.next() * total;
  for (const entry of entries) {
    left -= entry.weight;
    if (left < 0) {
      return entry;
    }
  }
  return entries[entries.length - 1]; // Rounding can leave a sliver above the last weight.
}

/** FNV-1a over UTF-16 units. */
function hashText(text: string): number {
  let hash = 0x811c9dc5;
  for (let index = 0; index < text.length; index++) {
    hash = Math.imul(hash ^ text.charCodeAt(index), 0x01000193);
  }
  return hash >>> 0;
}
