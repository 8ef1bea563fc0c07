// Where the sequences of a batch lie: one to a row, or several.

export interface Layout {
  rows: number;
  /** Tokens of a row. */
  length: number;
  /** Of each sequence: its row, and where in it the sequence begins. */
  places: { row: number; start: number }[];
}

/** A row for each; rows are as long as the longest, rounded up to `multiple`. */
export function onePerRow(sizes: number[], multiple: number): Layout {
  const places = sizes.map((_, row) => ({ row, start: 0 }));
  return { rows: sizes.length, length: roundUp(Math.max(...sizes), multiple), places };
}

/**
 * Several to a row of at most `most` tokens, in as few tokens as can be found: for every number of rows the longest sequence
 * first, each into the row that holds least (Graham, 1969, "Bounds on multiprocessing timing anomalies"), and of all these
 * layouts the smallest, with the more rows where two are alike. The same sizes give the same layout.
 */
export function severalPerRow(sizes: number[], multiple: number, most: number): Layout {
  const total = sizes.reduce((sum, size) => sum + size, 0);
  let best = onePerRow(sizes, multiple);
  for (let rows = sizes.length - 1; rows * most >= total; rows--) {
    const layout = inRows(sizes, rows, multiple);
    if (layout.length <= most && areaOf(layout) < areaOf(best)) best = layout;
  }
  return best;
}

function inRows(sizes: number[], rows: number, multiple: number): Layout {
  const held = new Array<number>(rows).fill(0);
  const places: Layout["places"] = [];
  const longestFirst = sizes.map((_, i) => i).toSorted((a, b) => sizes[b] - sizes[a]);
  for (const i of longestFirst) {
    const row = held.indexOf(Math.min(...held));
    places[i] = { row, start: held[row] };
    held[row] += sizes[i];
  }
  return { rows, length: roundUp(Math.max(...held), multiple), places };
}

function areaOf({ rows, length }: Layout): number {
  return rows * length;
}

export function roundUp(count: number, multiple: number): number {
  return Math.ceil(count / multiple) * multiple;
}
