// Rows of a table by index: taken, and added back. Whoever calls has every index checked: a wrong one would spoil the heap
// that TensorFlow.js shares with us.

import { addScaled, at, clear, copy } from "./math";
import { unpackRows } from "./packed";
import { COPY_ROWS, evenly, give, given, share } from "./threads";

/** The first of `count` indices outside 0..limit-1, or -1. */
export function firstOutside(indices: usize, count: i32, limit: i32): i32 {
  for (let i = 0; i < count; i++) {
    if (load<u32>(at(indices, i)) >= <u32>limit) return i;
  }
  return -1;
}

/** Element `i` of an array of integers. */
export function integerAt(integers: usize, i: i32): i32 {
  return load<i32>(at(integers, i));
}

/**
 * Of rows: int32 [count], those in a part of the table, [partRows, width] from row `start` on, to their places in
 * y: [count, width]. format -1: float32, else packed.
 */
export function takeRows(
  part: usize,
  format: i32,
  partRows: i32,
  start: i32,
  rows: usize,
  y: usize,
  count: i32,
  width: i32,
): void {
  for (let i = 0; i < count; i++) {
    const row = load<i32>(at(rows, i)) - start;
    if (<u32>row >= <u32>partRows) continue;
    if (format < 0) copy(at(y, i * width), at(part, row * width), width);
    else unpackRows(format, part, partRows, width, row, 1, at(y, i * width));
  }
}

/** dy: [count, width], rows: int32 [count] -> dtable: [tableRows, width]; rows are added in their order in dy. */
export function takeRowsGradient(dy: usize, rows: usize, dtable: usize, count: i32, width: i32, tableRows: i32): void {
  clear(dtable, tableRows * width);
  for (let i = 0; i < count; i++) {
    addScaled(at(dtable, load<i32>(at(rows, i)) * width), at(dy, i * width), 1, width);
  }
}

/** `count` rows of `width` elements, from rows `fromLd` apart to rows `toLd` apart. */
export function copyRows(from: usize, fromLd: i32, to: usize, toLd: i32, count: i32, width: i32): void {
  give<usize>(0, from);
  give<i32>(1, fromLd);
  give<usize>(2, to);
  give<i32>(3, toLd);
  give<i32>(4, width);
  share(COPY_ROWS, count, evenly(count, 1), <f64>count * <f64>width * COPY_TAKES, true);
}

const COPY_TAKES = 0.3; // Nanoseconds for an element.

export function copyRowsPiece(first: i32, last: i32): void {
  const from = given<usize>(0);
  const fromLd = given<i32>(1);
  const to = given<usize>(2);
  const toLd = given<i32>(3);
  const width = given<i32>(4);
  for (let i = first; i < last; i++) copy(at(to, i * toLd), at(from, i * fromLd), width);
}
