// Seeded random numbers for the generators of data: the n-th number of a stream is a pure function of (keys, n).

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
  let state = 0x9e3779b9;
  for (const key of keys) {
    state = mix(state ^ (typeof key === "string" ? hashText(key) : hashNumber(key)));
  }
  const base = state;
  let drawn = 0;
  const next = (): number => mix(base + Math.imul(++drawn, 0x9e3779b9)) / 2 ** 32;
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

/** The finaliser of MurmurHash3: every input bit changes about half of the output bits. */
function mix(value: number): number {
  let bits = value | 0;
  bits = Math.imul(bits ^ (bits >>> 16), 0x85ebca6b);
  bits = Math.imul(bits ^ (bits >>> 13), 0xc2b2ae35);
  return (bits ^ (bits >>> 16)) >>> 0;
}

function hashNumber(value: number): number {
  return mix((value >>> 0) ^ mix(Math.floor(value / 2 ** 32) + 1));
}

/** FNV-1a over UTF-16 units. */
function hashText(text: string): number {
  let hash = 0x811c9dc5;
  for (let index = 0; index < text.length; index++) {
    hash = Math.imul(hash ^ text.charCodeAt(index), 0x01000193);
  }
  return hash >>> 0;
}
