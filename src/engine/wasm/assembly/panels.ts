// Packing for the matrix product: stored matrices -> panels of 4 or 8 rows or columns, which its innermost loop reads from
// front to back. Element (i, p) of a panel of `panel` goes to p * panel + i; the last panel is filled up with zeros.

import { at } from "./math";
import { decode } from "./packed";

/** Panels of rows of a stored [count, depth] matrix. */
export function packAcross(from: usize, ld: i32, count: i32, depth: i32, to: usize, panel: i32): void {
  const step = (<usize>panel) << 2;
  const filled = (count + panel - 1) & ~(panel - 1);
  for (let i = 0; i < filled; i += 4) {
    const start = at(to, (i & ~(panel - 1)) * depth + (i & (panel - 1)));
    if (i + 4 <= count) transpose4(at(from, i * ld), ld, depth, start, step);
    else packRest(at(from, i * ld), ld, count - i, depth, start, step);
  }
}

/** 4 rows of `depth` elements -> `depth` groups of 4, `step` bytes apart. */
function transpose4(from: usize, ld: i32, depth: i32, to: usize, step: usize): void {
  let r0 = from;
  let r1 = at(r0, ld);
  let r2 = at(r1, ld);
  let r3 = at(r2, ld);
  let p = 0;
  for (; p + 4 <= depth; p += 4) {
    const x0 = v128.load(r0);
    const x1 = v128.load(r1);
    const x2 = v128.load(r2);
    const x3 = v128.load(r3);
    const low01 = v128.shuffle<f32>(x0, x1, 0, 4, 1, 5);
    const high01 = v128.shuffle<f32>(x0, x1, 2, 6, 3, 7);
    const low23 = v128.shuffle<f32>(x2, x3, 0, 4, 1, 5);
    const high23 = v128.shuffle<f32>(x2, x3, 2, 6, 3, 7);
    v128.store(to, v128.shuffle<f32>(low01, low23, 0, 1, 4, 5));
    v128.store(to + step, v128.shuffle<f32>(low01, low23, 2, 3, 6, 7));
    v128.store(to + 2 * step, v128.shuffle<f32>(high01, high23, 0, 1, 4, 5));
    v128.store(to + 3 * step, v128.shuffle<f32>(high01, high23, 2, 3, 6, 7));
    r0 += 16;
    r1 += 16;
    r2 += 16;
    r3 += 16;
    to += 4 * step;
  }
  for (; p < depth; p++) {
    store<f32>(to, load<f32>(r0));
    store<f32>(to, load<f32>(r1), 4);
    store<f32>(to, load<f32>(r2), 8);
    store<f32>(to, load<f32>(r3), 12);
    r0 += 4;
    r1 += 4;
    r2 += 4;
    r3 += 4;
    to += step;
  }
}

/** The same for the last rows, with zeros in place of those that are not there. */
function packRest(from: usize, ld: i32, rows: i32, depth: i32, to: usize, step: usize): void {
  for (let p = 0; p < depth; p++) {
    for (let i = 0; i < 4; i++) store<f32>(at(to, i), i < rows ? load<f32>(at(from, i * ld + p)) : <f32>0);
    to += step;
  }
}

/** Panels of columns of a stored [depth, count] matrix. */
export function packAlong(from: usize, ld: i32, count: i32, depth: i32, to: usize, panel: i32): void {
  const step = (<usize>panel) << 2;
  for (let i = 0; i < count; i += panel) {
    const width = min(panel, count - i);
    let source = at(from, i);
    for (let p = 0; p < depth; p++) {
      if (width == panel) {
        v128.store(to, v128.load(source));
        if (panel == 8) v128.store(to, v128.load(source, 16), 16);
      } else {
        for (let j = 0; j < panel; j++) store<f32>(at(to, j), j < width ? load<f32>(at(source, j)) : <f32>0);
      }
      source = at(source, ld);
      to += step;
    }
  }
}

const PANEL = 8; // Decoded matrices are packed in panels of 8 only.

/**
 * Panels of 8 rows of a matrix stored small, of which `first` is the first element taken. `scratch` holds
 * [8, depth].
 */
export function packAcrossDecoded(
  format: i32,
  words: usize,
  scales: usize,
  ld: i32,
  first: i32,
  count: i32,
  depth: i32,
  to: usize,
  scratch: usize,
): void {
  for (let i = 0; i < count; i += PANEL) {
    const rows = min(PANEL, count - i);
    for (let r = 0; r < rows; r++) {
      decode(format, words, scales, first + (i + r) * ld, depth, at(scratch, r * depth));
    }
    packAcross(scratch, depth, rows, depth, at(to, i * depth), PANEL);
  }
}

const GROUP = 32; // Columns that are decoded at a time: one block, 4 panels.

/** Panels of 8 columns of the same. `scratch` holds [32]. */
export function packAlongDecoded(
  format: i32,
  words: usize,
  scales: usize,
  ld: i32,
  first: i32,
  count: i32,
  depth: i32,
  to: usize,
  scratch: usize,
): void {
  for (let i = 0; i < count; i += GROUP) {
    const width = min(GROUP, count - i);
    const filled = (width + PANEL - 1) & ~(PANEL - 1);
    for (let j = width; j < filled; j++) store<f32>(at(scratch, j), 0);
    for (let p = 0; p < depth; p++) {
      decode(format, words, scales, first + p * ld + i, width, scratch);
      for (let j = 0; j < filled; j += PANEL) {
        const target = at(to, (i + j) * depth + p * PANEL);
        v128.store(target, v128.load(at(scratch, j)));
        v128.store(target, v128.load(at(scratch, j), 16), 16);
      }
    }
  }
}
