// The router of a mixture of experts: scores, the choice of the best, their weights; and the gradient of the weights.

import { at, clear, copy, exp1, exp4, sigmoid1, sigmoid4 } from "./math";

const EXCLUDED: f32 = -1e9; // The score of an expert whose group was not kept.
const TAKEN: f32 = -Infinity;

/** logits: [e] -> scores: [e] */
function scoreRow(logits: usize, scores: usize, e: i32, softmax: bool): void {
  let i = 0;
  if (!softmax) {
    for (; i + 4 <= e; i += 4) v128.store(at(scores, i), sigmoid4(v128.load(at(logits, i))));
    for (; i < e; i++) store<f32>(at(scores, i), sigmoid1(load<f32>(at(logits, i))));
    return;
  }
  let most: f32 = load<f32>(logits);
  for (; i < e; i++) most = max(most, load<f32>(at(logits, i)));
  let sum: f32 = 0;
  for (i = 0; i + 4 <= e; i += 4) {
    v128.store(at(scores, i), exp4(f32x4.sub(v128.load(at(logits, i)), f32x4.splat(most))));
  }
  for (; i < e; i++) store<f32>(at(scores, i), exp1(load<f32>(at(logits, i)) - most));
  for (i = 0; i < e; i++) sum += load<f32>(at(scores, i));
  for (i = 0; i < e; i++) store<f32>(at(scores, i), load<f32>(at(scores, i)) / sum);
}

/** The place of the largest of n values, of equals the first; it is marked as taken. */
function takeLargest(values: usize, n: i32): i32 {
  let best = 0;
  for (let i = 1; i < n; i++) {
    if (load<f32>(at(values, i)) > load<f32>(at(values, best))) best = i;
  }
  store<f32>(at(values, best), TAKEN);
  return best;
}

/** Leave the experts of the `kept` groups whose two best sum highest; exclude the others. `sums` holds `groups`. */
function keepGroups(choice: usize, sums: usize, e: i32, groups: i32, kept: i32): void {
  const size = e / groups;
  for (let g = 0; g < groups; g++) {
    const members = at(choice, g * size);
    let first = TAKEN;
    let second = TAKEN;
    for (let i = 0; i < size; i++) {
      const value = load<f32>(at(members, i));
      if (value > first) {
        second = first;
        first = value;
      } else if (value > second) second = value;
    }
    store<f32>(at(sums, g), size > 1 ? first + second : first);
  }
  for (let i = 0; i < kept; i++) takeLargest(sums, groups);
  for (let g = 0; g < groups; g++) {
    if (load<f32>(at(sums, g)) == TAKEN) continue;
    for (let i = 0; i < size; i++) store<f32>(at(choice, g * size + i), EXCLUDED);
  }
}

/**
 * logits: [n, e], bias: [e] -> weights: [n, topK], experts: int32 [n, topK], best first, of equals the first.
 * `work` holds 2 e + groups elements.
 */
export function route(
  logits: usize,
  bias: usize,
  weights: usize,
  experts: usize,
  n: i32,
  e: i32,
  topK: i32,
  softmax: bool,
  normalize: bool,
  scale: f32,
  groups: i32,
  groupsKept: i32,
  work: usize,
): void {
  const scores = work;
  const choice = at(work, e);
  for (let row = 0; row < n; row++) {
    scoreRow(logits, scores, e, softmax);
    for (let i = 0; i < e; i++) store<f32>(at(choice, i), load<f32>(at(scores, i)) + load<f32>(at(bias, i)));
    if (groups > 1) keepGroups(choice, at(choice, e), e, groups, groupsKept);
    let sum: f32 = 0;
    for (let j = 0; j < topK; j++) {
      const expert = takeLargest(choice, e);
      const score = load<f32>(at(scores, expert));
      store<i32>(at(experts, j), expert);
      store<f32>(at(weights, j), score);
      sum += score;
    }
    const factor = normalize ? scale / (sum + <f32>1e-20) : scale;
    for (let j = 0; j < topK; j++) store<f32>(at(weights, j), load<f32>(at(weights, j)) * factor);
    logits = at(logits, e);
    weights = at(weights, topK);
    experts = at(experts, topK);
  }
}

/**
 * dweights: [n, topK], logits: [n, e], experts: int32 [n, topK] -> dlogits: [n, e]. `work` holds e elements.
 *
 * With s the scores and w = scale * s / sum(s) over the chosen: ds = scale / sum(s) * (dweights - sum(dweights * s) / sum(s)).
 */
export function routeGradient(
  dweights: usize,
  logits: usize,
  experts: usize,
  dlogits: usize,
  n: i32,
  e: i32,
  topK: i32,
  softmax: bool,
  normalize: bool,
  scale: f32,
  work: usize,
): void {
  const scores = work;
  for (let row = 0; row < n; row++) {
    scoreRow(logits, scores, e, softmax);
    let sum: f32 = 0;
    let along: f32 = 0;
    for (let j = 0; j < topK; j++) {
      const score = load<f32>(at(scores, load<i32>(at(experts, j))));
      sum += score;
      along += load<f32>(at(dweights, j)) * score;
    }
    sum += <f32>1e-20;
    memory.fill(dlogits, 0, (<usize>e) << 2);
    let overlap: f32 = 0; // The sum of ds * s, for the softmax.
    for (let j = 0; j < topK; j++) {
      const expert = load<i32>(at(experts, j));
      const score = load<f32>(at(scores, expert));
      const dy = load<f32>(at(dweights, j));
      const ds = normalize ? (scale / sum) * (dy - along / sum) : scale * dy;
      overlap += ds * score;
      store<f32>(at(dlogits, expert), softmax ? ds * score : ds * score * (1 - score));
    }
    if (softmax) {
      for (let i = 0; i < e; i++) {
        store<f32>(at(dlogits, i), load<f32>(at(dlogits, i)) - load<f32>(at(scores, i)) * overlap);
      }
    }
    dweights = at(dweights, topK);
    logits = at(logits, e);
    experts = at(experts, topK);
    dlogits = at(dlogits, e);
  }
}

/** loads: [e] = how many of chosen: int32 [slots] each expert has, and what `before`, [e] or 0, says. */
export function expertLoads(chosen: usize, before: usize, loads: usize, slots: i32, e: i32): void {
  if (before) copy(loads, before, e);
  else clear(loads, e);
  for (let i = 0; i < slots; i++) {
    const place = at(loads, load<i32>(at(chosen, i)));
    store<f32>(place, load<f32>(place) + 1);
  }
}

/** bias: [e] moves by speed: [1] towards the mean of loads: [e]; worst: [1] is the largest load over the mean. */
export function balanceExperts(bias: usize, loads: usize, speed: usize, worst: usize, e: i32): void {
  let total: f32 = 0;
  let most: f32 = 0;
  for (let i = 0; i < e; i++) {
    const own = load<f32>(at(loads, i));
    total += own;
    most = max(most, own);
  }
  for (let i = 0; i < e; i++) {
    const missing = total - <f32>e * load<f32>(at(loads, i));
    if (missing == 0) continue;
    const step = load<f32>(speed);
    store<f32>(at(bias, i), load<f32>(at(bias, i)) + (missing > 0 ? step : -step));
  }
  store<f32>(worst, (most * <f32>e) / total);
}
