// Sums of whole tensors, element by element; rows added to rows, and rows added up.

import { addScaled, at, clear } from "./math";

/** y = a + b. In place will do. */
export function add(a: usize, b: usize, y: usize, n: i32): void {
  let i = 0;
  for (; i + 4 <= n; i += 4) v128.store(at(y, i), f32x4.add(v128.load(at(a, i)), v128.load(at(b, i))));
  for (; i < n; i++) store<f32>(at(y, i), load<f32>(at(a, i)) + load<f32>(at(b, i)));
}

/** y = factor * x. In place will do. */
export function scale(x: usize, factor: f32, y: usize, n: i32): void {
  const f = f32x4.splat(factor);
  let i = 0;
  for (; i + 4 <= n; i += 4) v128.store(at(y, i), f32x4.mul(f, v128.load(at(x, i))));
  for (; i < n; i++) store<f32>(at(y, i), factor * load<f32>(at(x, i)));
}

/** y = factor[0] * x. In place will do. */
export function scaleBy(x: usize, factor: usize, y: usize, n: i32): void {
  scale(x, load<f32>(factor), y, n);
}

/** Each of the rows of y: [rows, width] gets `row`: [width] added, in place. */
export function addRow(y: usize, row: usize, rows: i32, width: i32): void {
  for (let r = 0; r < rows; r++) addScaled(at(y, r * width), row, 1, width);
}

/** sums: [width], the rows of x: [rows, width] added up in their order. */
export function columnSums(x: usize, sums: usize, rows: i32, width: i32): void {
  clear(sums, width);
  for (let r = 0; r < rows; r++) addScaled(sums, at(x, r * width), 1, width);
}
