// Sums of whole tensors, element by element; rows added to rows, and rows added up.

import { addScaled, at, clear } from "./math";
import { ADD, ADD_ROW, COLUMN_SUMS, evenly, give, given, LANES, SCALE, share } from "./threads";

const TAKES = 0.3; // Nanoseconds for an element.

/** y = a + b. In place will do. */
export function add(a: usize, b: usize, y: usize, n: i32): void {
  give<usize>(0, a);
  give<usize>(1, b);
  give<usize>(2, y);
  share(ADD, n, evenly(n, LANES), <f64>n * TAKES, y != a && y != b);
}

export function addPiece(first: i32, last: i32): void {
  const a = given<usize>(0);
  const b = given<usize>(1);
  const y = given<usize>(2);
  let i = first;
  for (; i + 4 <= last; i += 4) v128.store(at(y, i), f32x4.add(v128.load(at(a, i)), v128.load(at(b, i))));
  for (; i < last; i++) store<f32>(at(y, i), load<f32>(at(a, i)) + load<f32>(at(b, i)));
}

/** y = factor * x. In place will do. */
export function scale(x: usize, factor: f32, y: usize, n: i32): void {
  give<usize>(0, x);
  give<f32>(1, factor);
  give<usize>(2, y);
  share(SCALE, n, evenly(n, LANES), <f64>n * TAKES, y != x);
}

export function scalePiece(first: i32, last: i32): void {
  const x = given<usize>(0);
  const factor = given<f32>(1);
  const y = given<usize>(2);
  const f = f32x4.splat(factor);
  let i = first;
  for (; i + 4 <= last; i += 4) v128.store(at(y, i), f32x4.mul(f, v128.load(at(x, i))));
  for (; i < last; i++) store<f32>(at(y, i), factor * load<f32>(at(x, i)));
}

/** y = factor[0] * x. In place will do. */
export function scaleBy(x: usize, factor: usize, y: usize, n: i32): void {
  scale(x, load<f32>(factor), y, n);
}

/** Each of the rows of y: [rows, width] gets `row`: [width] added, in place. */
export function addRow(y: usize, row: usize, rows: i32, width: i32): void {
  give<usize>(0, y);
  give<usize>(1, row);
  give<i32>(2, width);
  share(ADD_ROW, rows, evenly(rows, 1), <f64>rows * <f64>width * TAKES, false);
}

export function addRowPiece(first: i32, last: i32): void {
  const y = given<usize>(0);
  const row = given<usize>(1);
  const width = given<i32>(2);
  for (let r = first; r < last; r++) addScaled(at(y, r * width), row, 1, width);
}

/** sums: [width], the rows of x: [rows, width] added up in their order. */
export function columnSums(x: usize, sums: usize, rows: i32, width: i32): void {
  give<usize>(0, x);
  give<usize>(1, sums);
  give<i32>(2, rows);
  give<i32>(3, width);
  share(COLUMN_SUMS, width, evenly(width, LANES), <f64>rows * <f64>width * TAKES, true);
}

/** Columns `first` to `last`. */
export function columnSumsPiece(first: i32, last: i32): void {
  const x = given<usize>(0);
  const sums = given<usize>(1);
  const rows = given<i32>(2);
  const width = given<i32>(3);
  clear(at(sums, first), last - first);
  for (let r = 0; r < rows; r++) addScaled(at(sums, first), at(x, r * width + first), 1, last - first);
}
