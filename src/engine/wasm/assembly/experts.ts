// The routed experts: slots (one per token and choice) are sorted by expert, each expert multiplies its own rows and no
// others, and the results are added up token by token. Expert e has the channels offsets[e]..offsets[e+1]-1.

// n tokens, d hidden size, e experts, s all experts' channels, widest the widest expert.

import { gemm } from "./gemm";
import { addScaled, at, clear, copy, dot } from "./math";
import { DOWN, GATE, multiplyByPart, UP } from "./stored";
import { swiGlu, swiGluGradient } from "./swiGlu";
import { evenly, EXPERTS, EXPERTS_GRADIENT, forEachThread, give, given, ownPart, share, SLOT_SUMS } from "./threads";

const ROWS = 256; // Rows of one expert at a time.

// Nanoseconds: of a multiplication and addition in a product, in a sum over slots.
const PRODUCTS_TAKE = 0.05;
const SUMS_TAKE = 0.4;

/** Bytes of working memory for `experts`. */
export function expertsBytes(slots: i32, d: i32, widest: i32): i32 {
  return ((slots * d) << 2) + forEachThread(actBytes(widest));
}

function actBytes(widest: i32): i32 {
  return (ROWS * widest) << 2;
}

/**
 * Sort the slots by expert, stably: order: int32 [slots], the slot of each row; starts: int32 [e + 1], where each expert's
 * rows begin; places: int32 [slots], the row of each slot.
 */
function sortByExpert(chosen: usize, order: usize, starts: usize, places: usize, slots: i32, e: i32): void {
  clear(starts, e + 1);
  for (let i = 0; i < slots; i++) {
    const count = at(starts, load<i32>(at(chosen, i)) + 1);
    store<i32>(count, load<i32>(count) + 1);
  }
  for (let i = 0; i < e; i++) store<i32>(at(starts, i + 1), load<i32>(at(starts, i + 1)) + load<i32>(at(starts, i)));
  for (let i = 0; i < slots; i++) {
    const next = at(starts, load<i32>(at(chosen, i)));
    const row = load<i32>(next);
    store<i32>(at(order, row), i);
    store<i32>(at(places, i), row);
    store<i32>(next, row + 1);
  }
  // Every start has moved to the next one's place: move them back.
  for (let i = e; i > 0; i--) store<i32>(at(starts, i), load<i32>(at(starts, i - 1)));
  store<i32>(starts, 0);
}

// The unit of work found last: rows of one expert.
let expert = 0;
let firstRow = 0;
let lastRow = 0;

/** Find unit `i` of those of at most `rows` rows. */
function findUnit(starts: usize, e: i32, rows: i32, i: i32): void {
  for (expert = 0; expert < e; expert++) {
    const start = load<i32>(at(starts, expert));
    const end = load<i32>(at(starts, expert + 1));
    const units = (end - start + rows - 1) / rows;
    if (i < units) {
      firstRow = start + i * rows;
      lastRow = min(firstRow + rows, end);
      return;
    }
    i -= units;
  }
}

function countUnits(starts: usize, e: i32, rows: i32): i32 {
  let units = 0;
  for (let i = 0; i < e; i++) units += (load<i32>(at(starts, i + 1)) - load<i32>(at(starts, i)) + rows - 1) / rows;
  return units;
}

/** Units of a piece: of fewer than there are threads none is done beside another, but the products in them are shared. */
function unitsOfPiece(units: i32): i32 {
  return units < forEachThread(1) ? units : evenly(units, 1);
}

/** The rows of x that the tokens of `count` slots have. */
function gather(x: usize, order: usize, to: usize, count: i32, d: i32, topK: i32): void {
  for (let i = 0; i < count; i++) copy(at(to, i * d), at(x, (load<i32>(at(order, i)) / topK) * d), d);
}

/** y: [n, d] = for each token the sum over its slots of their rows, each times its weight (1 if weights is 0). */
function sumSlots(
  rows: usize,
  places: usize,
  weights: usize,
  y: usize,
  n: i32,
  d: i32,
  topK: i32,
  accumulate: bool,
): void {
  give<usize>(0, rows);
  give<usize>(1, places);
  give<usize>(2, weights);
  give<usize>(3, y);
  give<i32>(4, d);
  give<i32>(5, topK);
  give<i32>(6, accumulate ? 1 : 0);
  share(SLOT_SUMS, n, evenly(n, 1), <f64>n * <f64>topK * <f64>d * SUMS_TAKE, !accumulate);
}

/** Tokens `first` to `last`. */
export function slotSumsPiece(first: i32, last: i32): void {
  const rows = given<usize>(0);
  const places = given<usize>(1);
  const weights = given<usize>(2);
  const y = given<usize>(3);
  const d = given<i32>(4);
  const topK = given<i32>(5);
  const accumulate = given<i32>(6) != 0;
  if (!accumulate) clear(at(y, first * d), (last - first) * d);
  for (let slot = first * topK; slot < last * topK; slot++) {
    const weight: f32 = weights ? load<f32>(at(weights, slot)) : 1;
    addScaled(at(y, (slot / topK) * d), at(rows, load<i32>(at(places, slot)) * d), weight, d);
  }
}

/**
 * x: [n, d], chosen: int32 [n, topK], weights: [n, topK], matrices: gate, up: [s, d], down: [d, s], offsets: int32 [e + 1]
 * -> y: [n, d], added to what it holds if `accumulate`; order: int32 [n * topK + e + 1 + n * topK], the slots by expert,
 * where each expert's begin, and the place of each slot; hidden: [n * topK, 2, widest], the products with gate and with up
 * of each slot, in this order.
 */
export function experts(
  x: usize,
  chosen: usize,
  weights: usize,
  matrices: usize,
  offsets: usize,
  y: usize,
  hidden: usize,
  order: usize,
  n: i32,
  d: i32,
  topK: i32,
  e: i32,
  s: i32,
  widest: i32,
  accumulate: bool,
  work: usize,
): void {
  const slots = n * topK;
  const starts = at(order, slots);
  const places = at(starts, e + 1);
  const rows = work; // [slots, d]: the inputs, then the outputs.
  sortByExpert(chosen, order, starts, places, slots, e);
  give<usize>(0, x);
  give<usize>(1, matrices);
  give<usize>(2, offsets);
  give<usize>(3, order);
  give<usize>(4, starts);
  give<usize>(5, hidden);
  give<usize>(6, rows);
  give<usize>(7, at(rows, slots * d));
  give<i32>(8, d);
  give<i32>(9, topK);
  give<i32>(10, e);
  give<i32>(11, s);
  give<i32>(12, widest);
  const units = countUnits(starts, e, ROWS);
  share(EXPERTS, units, unitsOfPiece(units), <f64>slots * 3 * <f64>d * <f64>widest * PRODUCTS_TAKE, true);
  sumSlots(rows, places, weights, y, n, d, topK, accumulate);
}

/** Units `first` to `last`. */
export function expertsPiece(first: i32, last: i32): void {
  const x = given<usize>(0);
  const matrices = given<usize>(1);
  const offsets = given<usize>(2);
  const order = given<usize>(3);
  const starts = given<usize>(4);
  const hidden = given<usize>(5);
  const allRows = given<usize>(6);
  const d = given<i32>(8);
  const topK = given<i32>(9);
  const e = given<i32>(10);
  const s = given<i32>(11);
  const widest = given<i32>(12);
  const act = ownPart(given<usize>(7), actBytes(widest)); // [ROWS, widest]
  const ld = 2 * widest;
  for (let unit = first; unit < last; unit++) {
    findUnit(starts, e, ROWS, unit);
    const channel = load<i32>(at(offsets, expert));
    const width = load<i32>(at(offsets, expert + 1)) - channel;
    const count = lastRow - firstRow;
    const rows = at(allRows, firstRow * d);
    if (width == 0) {
      clear(rows, count * d);
      continue;
    }
    const gates = at(hidden, firstRow * ld);
    const ups = at(gates, widest);
    gather(x, at(order, firstRow), rows, count, d, topK);
    multiplyByPart(at(matrices, GATE), channel * d, d, true, count, width, d, rows, d, gates, ld, false);
    multiplyByPart(at(matrices, UP), channel * d, d, true, count, width, d, rows, d, ups, ld, false);
    for (let i = 0; i < count; i++) swiGlu(at(gates, i * ld), at(ups, i * ld), at(act, i * width), width);
    multiplyByPart(at(matrices, DOWN), channel, s, true, count, d, width, act, width, rows, d, false);
  }
}

/** Bytes of working memory for `expertsGradient`. */
export function expertsGradientBytes(slots: i32, d: i32, widest: i32): i32 {
  return ((slots * d) << 2) + forEachThread(unitBytes(d, widest));
}

function unitBytes(d: i32, widest: i32): i32 {
  return (ROWS * (2 * d + 3 * widest)) << 2;
}

/**
 * dy: [n, d] and what the forward saw and gave -> dx: [n, d], dweights: [n, topK]; and dgate, dup, ddown, shaped like the
 * weights, unless dgate is 0.
 *
 * For a slot of weight w with act = silu(g) * u: da = downᵀ·dy, dweight = act·da, dact = w * da, from it dg and du as in
 * SwiGLU, dx += gateᵀ·dg + upᵀ·du; dgate += dg xᵀ, dup += du xᵀ, ddown += dy (w act)ᵀ.
 */
export function expertsGradient(
  dy: usize,
  x: usize,
  weights: usize,
  matrices: usize,
  offsets: usize,
  hidden: usize,
  order: usize,
  dx: usize,
  dweights: usize,
  dgate: usize,
  dup: usize,
  ddown: usize,
  n: i32,
  d: i32,
  topK: i32,
  e: i32,
  s: i32,
  widest: i32,
  work: usize,
): void {
  const slots = n * topK;
  const starts = at(order, slots);
  const places = at(starts, e + 1);
  const rows = work; // [slots, d]: dx of each slot.
  clear(dweights, slots);
  give<usize>(0, dy);
  give<usize>(1, x);
  give<usize>(2, weights);
  give<usize>(3, matrices);
  give<usize>(4, offsets);
  give<usize>(5, hidden);
  give<usize>(6, order);
  give<usize>(7, starts);
  give<usize>(8, rows);
  give<usize>(9, at(rows, slots * d));
  give<usize>(10, dweights);
  give<usize>(11, dgate);
  give<usize>(12, dup);
  give<usize>(13, ddown);
  give<i32>(14, d);
  give<i32>(15, topK);
  give<i32>(16, e);
  give<i32>(17, s);
  give<i32>(18, widest);
  // The sums that the weights' gradients are go over all rows of an expert.
  const units = dgate ? e : countUnits(starts, e, ROWS);
  const products: f64 = dgate ? 6 : 3;
  const nanoseconds = <f64>slots * products * <f64>d * <f64>widest * PRODUCTS_TAKE;
  share(EXPERTS_GRADIENT, units, unitsOfPiece(units), nanoseconds, true);
  sumSlots(rows, places, 0, dx, n, d, topK, false);
}

/** Units `first` to `last`; with gradients of weights, experts. */
export function expertsGradientPiece(first: i32, last: i32): void {
  const dy = given<usize>(0);
  const x = given<usize>(1);
  const weights = given<usize>(2);
  const matrices = given<usize>(3);
  const offsets = given<usize>(4);
  const hidden = given<usize>(5);
  const order = given<usize>(6);
  const starts = given<usize>(7);
  const rows = given<usize>(8);
  const work = given<usize>(9);
  const dweights = given<usize>(10);
  const dgate = given<usize>(11);
  const dup = given<usize>(12);
  const ddown = given<usize>(13);
  const d = given<i32>(14);
  const topK = given<i32>(15);
  const e = given<i32>(16);
  const s = given<i32>(17);
  const widest = given<i32>(18);
  const inputs = ownPart(work, unitBytes(d, widest)); // [ROWS, d]: x.
  const outputs = at(inputs, ROWS * d); // [ROWS, d]: dy.
  const act = at(outputs, ROWS * d); // [ROWS, widest] each: weight * act, then du; da; dg.
  const dact = at(act, ROWS * widest);
  const dgates = at(dact, ROWS * widest);
  const ld = 2 * widest;
  for (let unit = first; unit < last; unit++) {
    if (dgate) {
      expert = unit;
      firstRow = load<i32>(at(starts, expert));
      lastRow = load<i32>(at(starts, expert + 1));
    } else findUnit(starts, e, ROWS, unit);
    const channel = load<i32>(at(offsets, expert));
    const width = load<i32>(at(offsets, expert + 1)) - channel;
    const start = firstRow;
    const end = lastRow;
    if (width == 0) {
      clear(at(rows, start * d), (end - start) * d);
      continue;
    }
    if (dgate && start == end) {
      clear(at(dgate, channel * d), width * d);
      clear(at(dup, channel * d), width * d);
      for (let i = 0; i < d; i++) clear(at(ddown, i * s + channel), width);
    }
    for (let r0 = start; r0 < end; r0 += ROWS) {
      const count = min(ROWS, end - r0);
      const more = r0 > start;
      const slot0 = at(order, r0);
      const own = at(rows, r0 * d);
      gather(dy, slot0, outputs, count, d, topK);
      multiplyByPart(at(matrices, DOWN), channel, s, false, count, width, d, outputs, d, dact, width, false);
      for (let i = 0; i < count; i++) {
        const slot = load<i32>(at(slot0, i));
        const gates = at(hidden, (r0 + i) * ld);
        const overlap = weighAct(
          gates,
          at(gates, widest),
          at(act, i * width),
          at(dact, i * width),
          width,
          load<f32>(at(weights, slot)),
        );
        store<f32>(at(dweights, slot), overlap);
      }
      if (dgate) gemm(true, false, d, width, count, outputs, d, act, width, at(ddown, channel), s, more);
      for (let i = 0; i < count; i++) {
        const gates = at(hidden, (r0 + i) * ld);
        const row = i * width;
        swiGluGradient(at(dact, row), gates, at(gates, widest), at(dgates, row), at(act, row), width);
      }
      if (dgate) {
        gather(x, slot0, inputs, count, d, topK);
        gemm(true, false, width, d, count, dgates, width, inputs, d, at(dgate, channel * d), d, more);
        gemm(true, false, width, d, count, act, width, inputs, d, at(dup, channel * d), d, more);
      }
      multiplyByPart(at(matrices, GATE), channel * d, d, false, count, d, width, dgates, width, own, d, false);
      multiplyByPart(at(matrices, UP), channel * d, d, false, count, d, width, act, width, own, d, true);
    }
  }
}
/** act = weight * silu(gate) * up and da *= weight, over a row. Returns what the weight's gradient is: silu(gate) * up · da. */
function weighAct(gate: usize, up: usize, act: usize, da: usize, width: i32, weight: f32): f32 {
  swiGlu(gate, up, act, width);
  const overlap = dot(act, da, width);
  scaleRow(act, weight, width);
  scaleRow(da, weight, width);
  return overlap;
}

function scaleRow(x: usize, factor: f32, n: i32): void {
  const factors = f32x4.splat(factor);
  let i = 0;
  for (; i + 4 <= n; i += 4) v128.store(at(x, i), f32x4.mul(v128.load(at(x, i)), factors));
  for (; i < n; i++) store<f32>(at(x, i), load<f32>(at(x, i)) * factor);
}
