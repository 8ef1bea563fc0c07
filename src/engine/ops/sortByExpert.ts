// Sorting the assignments of tokens to experts by expert, stably, on the GPU: a counting sort in one workgroup.

import { constant, launch } from "../launch.ts";
import type * as tf from "../tf.ts";
import { ORDER, type Plan, rowsOf } from "./gatedMlpKernels.ts";

const CHUNK = 256; // Assignments at a time, one for each thread.

/** chosen: int32 [N, topK] -> order: int32, as ORDER says. */
export function launchSort(plan: Plan, chosen: tf.TensorInfo, order: tf.TensorInfo): void {
  const { form, offsets, sizes } = plan;
  const tiled = form === "tiles";
  launch({
    name: "sortByExpert",
    source: tiled ? byWorkgroup(plan) : byThread(plan),
    reads: { chosen, offsets: constant(offsets) },
    writes: { order },
    sizes,
    workgroups: 1,
    threads: tiled ? CHUNK : 1,
  });
}

/** `list` writes an expert's blocks from its first row, the row behind its last, and its first block; returns the next. */
const list = (plan: Plan): string => /* wgsl */ `
  ${ORDER}
  fn list(e: u32, start: u32, end: u32, firstBlock: u32) {
    var at = blockAt(firstBlock);
    for (var first = start; first < end; first += ${rowsOf(plan)}u) {
      order[at] = i32(first);
      order[at + 1u] = i32(min(first + ${rowsOf(plan)}u, end));
      order[at + 2u] = offsets[e];
      order[at + 3u] = offsets[e + 1u] - offsets[e];
      at += 4u;
    }
  }
  fn blocksOf(rows: u32) -> u32 { return (rows + ${rowsOf(plan) - 1}u) / ${rowsOf(plan)}u; }
`;

// One thread after another: rowOf(a) is first a's place among its expert's assignments.
const byThread = (plan: Plan): string => /* wgsl */ `
  ${list(plan)}
  fn main(group: u32, thread: u32) {
    for (var e = 0u; e <= u.E; e++) { order[startOf(e)] = 0; }
    for (var a = 0u; a < u.A; a++) {
      let count = startOf(u32(chosen[a]) + 1u);
      order[rowOf(a)] = order[count];
      order[count]++;
    }
    var block = 0u;
    for (var e = 0u; e < u.E; e++) {
      let start = u32(order[startOf(e)]);
      let end = start + u32(order[startOf(e + 1u)]);
      order[startOf(e + 1u)] = i32(end);
      list(e, start, end, block);
      block += blocksOf(end - start);
    }
    order[blockCount()] = i32(block);
    for (var a = 0u; a < u.A; a++) {
      let row = order[startOf(u32(chosen[a]))] + order[rowOf(a)];
      order[rowOf(a)] = row;
      order[assignmentOf(u32(row))] = i32(a);
    }
  }
`;

// A chunk of assignments at a time; a thread finds its own one's place by counting those of the same expert before it.
const byWorkgroup = (plan: Plan): string => /* wgsl */ `
  ${list(plan)}
  var<workgroup> experts: array<i32, ${CHUNK}>;
  var<workgroup> counts: array<u32, ${plan.sizes.E}>;
  var<workgroup> starts: array<u32, ${plan.sizes.E}>;
  var<workgroup> blocks: array<u32, ${plan.sizes.E}>;
  fn main(group: u32, thread: u32) {
    for (var e = thread; e < u.E; e += THREADS) { counts[e] = 0u; }
    for (var first = 0u; first < u.A; first += THREADS) {
      let a = first + thread;
      var own = -1;
      if (a < u.A) { own = chosen[a]; }
      experts[thread] = own;
      workgroupBarrier();
      var before = 0u;
      var after = false;
      for (var i = 0u; i < THREADS; i++) {
        let same = experts[i] == own;
        before += select(0u, 1u, same && i < thread);
        after = after || (same && i > thread);
      }
      var place = 0u;
      if (own >= 0) {
        place = counts[own] + before;
        order[rowOf(a)] = i32(place);
      }
      workgroupBarrier();
      if (own >= 0 && !after) { counts[own] = place + 1u; }
    }
    workgroupBarrier();
    if (thread == 0u) {
      var start = 0u;
      var block = 0u;
      for (var e = 0u; e < u.E; e++) {
        starts[e] = start;
        blocks[e] = block;
        start += counts[e];
        block += blocksOf(counts[e]);
      }
      order[startOf(u.E)] = i32(start);
      order[blockCount()] = i32(block);
    }
    workgroupBarrier();
    for (var e = thread; e < u.E; e += THREADS) {
      order[startOf(e)] = i32(starts[e]);
      list(e, starts[e], starts[e] + counts[e], blocks[e]);
    }
    for (var a = thread; a < u.A; a += THREADS) {
      let row = i32(starts[chosen[a]]) + order[rowOf(a)];
      order[rowOf(a)] = row;
      order[assignmentOf(u32(row))] = i32(a);
    }
  }
`;
