// Balancing the experts' load by the router's bias, without a loss for it (DeepSeek-V3, section 2.1.2).

// A assignments of tokens to experts (of any shape), E experts.

import { allocate, launch } from "../launch.ts";
import { defineOp, hasKernel, type Inputs, runOp } from "../op.ts";
import * as tf from "../tf.ts";
import { at, cpu, make, run, workspace } from "../wasm/heap.ts";

/** How many assignments of `chosen`, int32 [A], each expert has, added to `before`, [E] or null: [E]. */
export function expertLoads(chosen: tf.Tensor, experts: number, before: tf.Tensor | null): tf.Tensor {
  if (!hasKernel("ExpertLoads")) return loadsReference(chosen, experts, before);
  return runOp("ExpertLoads", { chosen, ...(before && { before }) }, { experts });
}

/**
 * In place: bias [E] moves by `speed` [1], up for an expert with less than the mean load, down for one with more. The
 * loads are those of `chosen`, int32 [A], and `before`, [E] or null. Returns the largest load over the mean: [].
 *
 * Changes `bias` and whatever shares its memory. No gradient.
 */
export function balanceExperts(
  bias: tf.Tensor,
  chosen: tf.Tensor,
  before: tf.Tensor | null,
  speed: tf.Tensor,
): tf.Tensor {
  if (hasKernel("BalanceExperts")) return runOp("BalanceExperts", { bias, chosen, speed, ...(before && { before }) });
  const loads = loadsReference(chosen, bias.size, before).dataSync();
  const values = bias.dataSync() as Float32Array; // On the cpu backend this is the tensor's own memory.
  const { moved, worst } = balanceReference([...values], [...loads], speed.dataSync()[0]);
  values.set(moved);
  return tf.scalar(worst);
}

/** The definition. */
export function balanceReference(bias: number[], loads: number[], speed: number): { moved: number[]; worst: number } {
  const mean = loads.reduce((sum, load) => sum + load, 0) / loads.length;
  return {
    moved: bias.map((value, e) => value + speed * Math.sign(mean - loads[e])),
    worst: Math.max(...loads) / mean,
  };
}

function loadsReference(chosen: tf.Tensor, experts: number, before: tf.Tensor | null): tf.Tensor {
  const loads = before ? [...before.dataSync()] : new Array<number>(experts).fill(0);
  for (const expert of chosen.dataSync()) loads[expert] += 1;
  return tf.tensor1d(loads);
}

defineOp<{ experts: number }>({
  name: "ExpertLoads",
  wasm: ({ chosen, before }, { experts }) => {
    const loads = make([experts]);
    const [A, from, to] = [tf.util.sizeFromShape(chosen.shape), at(chosen), at(loads)];
    const more = before ? at(before) : 0;
    run(() => cpu().expertLoads(from, more, to, A, experts));
    return loads;
  },
  webgpu: ({ chosen, before }, { experts }) => {
    const loads = allocate([experts]);
    count("expertLoads", { chosen, ...(before && { before }) }, { loads }, experts, STORE);
    return loads;
  },
});

defineOp({
  name: "BalanceExperts",
  wasm: ({ bias, chosen, speed, before }) => {
    const E = tf.util.sizeFromShape(bias.shape);
    const worst = make([]);
    const [A, from, more] = [tf.util.sizeFromShape(chosen.shape), at(chosen), before ? at(before) : 0];
    const [biasAt, speedAt, worstAt, loads] = [at(bias), at(speed), at(worst), workspace(4 * E)];
    run(() => {
      cpu().expertLoads(from, more, loads, A, E);
      cpu().balanceExperts(biasAt, loads, speedAt, worstAt, E);
    });
    return worst;
  },
  webgpu: ({ bias, chosen, speed, before }) => {
    const worst = allocate([]);
    const reads = { chosen, speed, ...(before && { before }) };
    count("balanceExperts", reads, { bias, worst }, tf.util.sizeFromShape(bias.shape), MOVE);
    return worst;
  },
});

const THREADS = 256;

/** One workgroup: `counts`, of each expert, then what `use` does with them. The sums are of integers: any order will do. */
function count(name: string, reads: Inputs, writes: Inputs, E: number, use: string): void {
  const source = /* wgsl */ `
    var<workgroup> counts: array<atomic<u32>, ${E}>;
    fn main(group: u32, thread: u32) {
      for (var e = thread; e < u.E; e += THREADS) {
        atomicStore(&counts[e], ${"before" in reads ? "u32(before[e])" : "0u"});
      }
      workgroupBarrier();
      for (var a = thread; a < u.A; a += THREADS) { atomicAdd(&counts[chosen[a]], 1u); }
      workgroupBarrier();
      ${use}
    }
  `;
  const sizes = { A: tf.util.sizeFromShape(reads.chosen.shape), E };
  launch({ name, source, reads, writes, sizes, workgroups: 1, threads: THREADS });
}

const STORE = /* wgsl */ `
  for (var e = thread; e < u.E; e += THREADS) { loads[e] = f32(atomicLoad(&counts[e])); }
`;

const MOVE = /* wgsl */ `
  var total = 0u;
  var most = 0u;
  for (var e = 0u; e < u.E; e++) {
    total += atomicLoad(&counts[e]);
    most = max(most, atomicLoad(&counts[e]));
  }
  for (var e = thread; e < u.E; e += THREADS) {
    bias[e] += speed[0] * sign(f32(total) - f32(u.E * atomicLoad(&counts[e])));
  }
  if (thread == 0u) { worst[0] = f32(most) * f32(u.E) / f32(total); }
`;
