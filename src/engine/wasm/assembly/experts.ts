// The routed experts: slots (one per token and choice) are sorted by expert, each expert multiplies its own rows and no
// others, and the results are added up token by token. Expert e has the channels offsets[e]..offsets[e+1]-1.

// n tokens, d hidden size, e experts, s all experts' channels, widest the widest expert.

import { gemm } from "./gemm";
import { addScaled, at, clear, copy, dot } from "./math";
import { DOWN, GATE, multiplyByPart, UP } from "./stored";
import { swiGlu, swiGluGradient } from "./swiGlu";

const ROWS = 256; // Rows of one expert at a time.

/** Bytes of working memory for `experts`. */
export function expertsBytes(d: i32, widest: i32): i32 {
  return (ROWS * (d + widest)) << 2;
}

/** Sort the slots by expert, stably: order: int32 [slots], starts: int32 [e + 1]. */
function sortByExpert(chosen: usize, order: usize, starts: usize, slots: i32, e: i32): void {
  clear(starts, e + 1);
  for (let i = 0; i < slots; i++) {
    const count = at(starts, load<i32>(at(chosen, i)) + 1);
    store<i32>(count, load<i32>(count) + 1);
  }
  for (let i = 0; i < e; i++) store<i32>(at(starts, i + 1), load<i32>(at(starts, i + 1)) + load<i32>(at(starts, i)));
  for (let i = 0; i < slots; i++) {
    const next = at(starts, load<i32>(at(chosen, i)));
    store<i32>(at(order, load<i32>(next)), i);
    store<i32>(next, load<i32>(next) + 1);
  }
  // Every start has moved to the next one's place: move them back.
  for (let i = e; i > 0; i--) store<i32>(at(starts, i), load<i32>(at(starts, i - 1)));
  store<i32>(starts, 0);
}

/** The rows of x that the tokens of `count` slots have. */
function gather(x: usize, order: usize, to: usize, count: i32, d: i32, topK: i32): void {
  for (let i = 0; i < count; i++) copy(at(to, i * d), at(x, (load<i32>(at(order, i)) / topK) * d), d);
}

/**
 * x: [n, d], chosen: int32 [n, topK], weights: [n, topK], matrices: gate, up: [s, d], down: [d, s], offsets: int32 [e + 1]
 * -> y: [n, d], added to what it holds if `accumulate`; order: int32 [n * topK + e + 1], the slots by expert and where each
 * expert's begin; hidden: [n * topK, 2, widest], the products with gate and with up of each slot, in this order.
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
  const rows = work; // [ROWS, d]: the inputs, then the outputs.
  const act = at(rows, ROWS * d); // [ROWS, widest]
  sortByExpert(chosen, order, starts, slots, e);
  if (!accumulate) clear(y, n * d);
  const ld = 2 * widest;
  for (let expert = 0; expert < e; expert++) {
    const channel = load<i32>(at(offsets, expert));
    const width = load<i32>(at(offsets, expert + 1)) - channel;
    if (width == 0) continue;
    const end = load<i32>(at(starts, expert + 1));
    for (let r0 = load<i32>(at(starts, expert)); r0 < end; r0 += ROWS) {
      const count = min(ROWS, end - r0);
      const gates = at(hidden, r0 * ld);
      const ups = at(gates, widest);
      gather(x, at(order, r0), rows, count, d, topK);
      multiplyByPart(at(matrices, GATE), channel * d, d, true, count, width, d, rows, d, gates, ld, false);
      multiplyByPart(at(matrices, UP), channel * d, d, true, count, width, d, rows, d, ups, ld, false);
      for (let i = 0; i < count; i++) swiGlu(at(gates, i * ld), at(ups, i * ld), at(act, i * width), width);
      multiplyByPart(at(matrices, DOWN), channel, s, true, count, d, width, act, width, rows, d, false);
      for (let i = 0; i < count; i++) {
        const slot = load<i32>(at(order, r0 + i));
        addScaled(at(y, (slot / topK) * d), at(rows, i * d), load<f32>(at(weights, slot)), d);
      }
    }
  }
}

/** Bytes of working memory for `expertsGradient`. */
export function expertsGradientBytes(d: i32, widest: i32): i32 {
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
  const inputs = work; // [ROWS, d]: x, then dx.
  const outputs = at(inputs, ROWS * d); // [ROWS, d]: dy.
  const act = at(outputs, ROWS * d); // [ROWS, widest] each: weight * act, then du; da; dg.
  const dact = at(act, ROWS * widest);
  const dgates = at(dact, ROWS * widest);
  clear(dx, n * d);
  clear(dweights, slots);
  const ld = 2 * widest;
  for (let expert = 0; expert < e; expert++) {
    const channel = load<i32>(at(offsets, expert));
    const width = load<i32>(at(offsets, expert + 1)) - channel;
    if (width == 0) continue;
    const start = load<i32>(at(starts, expert));
    const end = load<i32>(at(starts, expert + 1));
    if (dgate && start == end) {
      clear(at(dgate, channel * d), width * d);
      clear(at(dup, channel * d), width * d);
      for (let i = 0; i < d; i++) clear(at(ddown, i * s + channel), width);
    }
    for (let r0 = start; r0 < end; r0 += ROWS) {
      const count = min(ROWS, end - r0);
      const more = r0 > start;
      const slot0 = at(order, r0);
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
      multiplyByPart(at(matrices, GATE), channel * d, d, false, count, d, width, dgates, width, inputs, d, false);
      multiplyByPart(at(matrices, UP), channel * d, d, false, count, d, width, act, width, inputs, d, true);
      for (let i = 0; i < count; i++) addScaled(at(dx, (load<i32>(at(slot0, i)) / topK) * d), at(inputs, i * d), 1, d);
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
