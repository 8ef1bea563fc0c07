// Running kernels of ours on TensorFlow.js's tensors, and its faults that this is to be safe from.

import { beforeAll, describe, expect, it } from "vitest";
import { gpuBackend, gpuErrors } from "../../../src/engine/device.ts";
import { allocate, groupsFor, launch, release, type Kernel } from "../../../src/engine/launch.ts";
import { causalAttention, causalAttentionReference } from "../../../src/engine/ops/attention.ts";
import { addInto } from "../../../src/engine/ops/addInto.ts";
import * as tf from "../../../src/engine/tf.ts";
import { sumOverLanes } from "../../../src/engine/wgsl.ts";
import { activate, expectAgreement, expectSameBits, floats, normal, run } from "../harness.ts";
import { poison } from "./poison.ts";

beforeAll(() => activate("webgpu"));

/** What a tensor from `allocate` holds; frees it. */
async function contents(info: tf.TensorInfo): Promise<number[]> {
  const values = [...((await gpuBackend().read(info.dataId)) as Float32Array)];
  release(info);
  return values;
}

/** y = x * factor */
function scaled(x: tf.TensorInfo, factor: number): Kernel & { writes: { y: tf.TensorInfo } } {
  const size = tf.util.sizeFromShape(x.shape);
  return {
    name: "scaled",
    source: /* wgsl */ `
      fn main(group: u32, thread: u32) {
        let i = group * THREADS + thread;
        if (i < u.size) { y[i] = f32(x[i]) * u.factor; }
      }
    `,
    reads: { x },
    writes: { y: allocate(x.shape) },
    sizes: { size },
    numbers: { factor },
    workgroups: groupsFor(size),
  };
}

describe("a kernel", () => {
  it("reads tensors that lie on the processor, float, integer and boolean", async () => {
    for (const x of [tf.tensor1d([1, 2]), tf.tensor1d([1, 2], "int32"), tf.tensor1d([true, false], "bool")]) {
      const kernel = scaled(x, 3);
      launch(kernel);
      expect(await contents(kernel.writes.y)).toEqual(x.dtype === "bool" ? [3, 0] : [3, 6]);
    }
  });

  it("runs in order with TensorFlow.js's own", async () => {
    const first = tf.add(tf.tensor1d([1, 2]), 1);
    const kernel = scaled(first, 10);
    launch(kernel);
    const y = tf.engine().makeTensorFromTensorInfo(kernel.writes.y);
    expect([...(await y.add(1).data())]).toEqual([21, 31]);
  });

  it("may have several outputs, read-only inputs twice, and bindings and uniforms that it does not use", async () => {
    const x = tf.tensor1d([1, 2, 3]);
    const [twice, thrice, unused] = [allocate([3]), allocate([3]), tf.tensor1d([9])];
    launch({
      name: "several",
      source: /* wgsl */ `
        fn main(group: u32, thread: u32) {
          if (thread >= 3u) { return; }
          twice[thread] = x[thread] + again[thread];
          thrice[thread] = 3.0 * x[thread];
        }
      `,
      reads: { x, again: x, unused },
      writes: { twice, thrice },
      sizes: { nothing: 1 },
      workgroups: 1,
    });
    expect([await contents(twice), await contents(thrice)]).toEqual([
      [2, 4, 6],
      [3, 6, 9],
    ]);
  });

  it("may use an extension of WGSL", async () => {
    if (!gpuBackend().device.features.has("subgroups")) return; // Not every real GPU has them; the software one does.
    const y = allocate([1]);
    launch({
      name: "subgroups",
      source: /* wgsl */ `
        fn main(group: u32, thread: u32) {
          let sum = subgroupAdd(1.0);
          if (thread == 0u) { y[0] = sum; }
        }
      `,
      reads: {},
      writes: { y },
      workgroups: 1,
      enable: ["subgroups"],
    });
    const [lanes] = await contents(y);
    expect(lanes).toBeGreaterThan(1);
  });

  it("may have more workgroups than a grid axis holds, with spare ones that meet the barriers", async () => {
    const count = 65_535 * 2 + 1; // Three rows of a grid, of which the last has spare workgroups.
    const y = allocate([count]);
    launch({
      name: "folded",
      source: /* wgsl */ `
        ${sumOverLanes(4)}
        fn main(group: u32, thread: u32) {
          let sum = sumOverLanes(f32(group), thread);
          if (thread == 0u && group < u.count) { y[group] = sum; }
        }
      `,
      reads: {},
      writes: { y },
      sizes: { count },
      workgroups: count,
      threads: 4,
    });
    const values = await contents(y);
    expect(values.findIndex((value, i) => value !== 4 * i)).toBe(-1);
  });

  it("keeps its own uniforms, however many kernels wait for one submit", async () => {
    const before = tf.env().getNumber("WEBGPU_DEFERRED_SUBMIT_BATCH_SIZE");
    tf.env().set("WEBGPU_DEFERRED_SUBMIT_BATCH_SIZE", 10_000);
    const x = tf.tensor1d([1]);
    const kernels = Array.from({ length: 1500 }, (_, i) => scaled(x, i));
    for (const kernel of kernels) launch(kernel);
    tf.env().set("WEBGPU_DEFERRED_SUBMIT_BATCH_SIZE", before);
    for (const i of [0, 1, 1023, 1024, 1499]) expect(await contents(kernels[i].writes.y)).toEqual([i]);
  });

  it("reads what its inputs held when it was launched, though they are disposed of before it runs", async () => {
    const x = tf.tensor1d([1, 2, 3, 4]).add(0);
    const kernel = scaled(x, 2);
    launch(kernel);
    x.dispose();
    const other = tf.fill([4], 100); // Would get x's buffer if that were free already.
    expect(await contents(kernel.writes.y)).toEqual([2, 4, 6, 8]);
    other.dispose();
  });

  it("refuses to write what it also reads", () => {
    const x = tf.tensor1d([1, 2]);
    const kernel = { ...scaled(x, 1), writes: { y: x as tf.TensorInfo } };
    expect(() => launch(kernel)).toThrow(/scaled: \[2\] is written and bound a second time/);
  });

  it("does nothing without workgroups", () => {
    expect(() => launch({ ...scaled(tf.tensor1d([1]), 1), workgroups: 0 })).not.toThrow();
  });
});

describe("faults of TensorFlow.js 4.22 on WebGPU", () => {
  it("a kernel that does not compile, which would leave old content to be read as new, is counted and named", async () => {
    const before = gpuErrors().count;
    const y = allocate([3]);
    const source = "fn main(group: u32, thread: u32) { y[thread] = missing; }";
    launch({ name: "broken", source, reads: {}, writes: { y }, workgroups: 1 });
    await contents(y);
    expect(gpuErrors().count).toBeGreaterThan(before);
    await run({ x: floats([1], [1]) }, [], ({ x }) => x.add(1)); // The next submit is sound again.
  });

  it("values that were read back once do not hide what is written in place later", async () => {
    const table = tf.tensor2d([1, 2, 3, 4], [2, 2]).add(0);
    expect([...(await table.data())]).toEqual([1, 2, 3, 4]);
    addInto(table, tf.tensor2d([0, 0, 5, 5], [2, 2]));
    expect([...(await table.data())]).toEqual([1, 2, 8, 9]);
  });

  it("buffers come from the pool as they were left", async () => {
    const x = tf.fill([1234], 7);
    await x.data();
    x.dispose();
    poison(); // As the tests of the kernels do, to see what is not written.
    const y = allocate([1234]);
    gpuBackend().uploadToGPU(y.dataId); // Gets its buffer.
    expect((await contents(y)).every(Number.isNaN)).toBe(true);
  });

  it("a tensor that the GPU cannot bind, which would read as zeros, is refused, in its own operations too", () => {
    const { maxStorageBufferBindingSize, maxBufferSize } = gpuBackend().device.limits;
    const elements = Math.min(maxStorageBufferBindingSize, maxBufferSize) / 4 + 1;
    const big = allocate([elements]);
    const source = "fn main(group: u32, thread: u32) { y[0] = 1.0; }";
    expect(() => launch({ name: "big", source, reads: {}, writes: { y: big }, workgroups: 1 })).toThrow(
      /at most \d+ MiB/,
    );
    expect(() => tf.fill([elements], 1).abs()).toThrow(/at most \d+ MiB/);
  });

  it("small tensors are not quietly computed on the processor in these tests", () => {
    const y = tf.tensor1d([1, 2]).add(tf.tensor1d([1, 2]));
    expect(gpuBackend().tensorMap.get(y.dataId).resource).toBeTruthy();
  });

  it("softmax spoils its last value past 65,535 rows; attention with that many rows does not", async () => {
    await expectAgreement("webgpu", {
      inputs: { q: normal([1, 2, 33_000, 1], 1), k: normal([1, 2, 1, 1], 2), v: normal([1, 2, 1, 1], 3) },
      trained: ["q"],
      op: ({ q, k, v }) => causalAttention(q, k, v, null, 1),
      reference: ({ q, k, v }) => causalAttentionReference(q, k, v, null, 1),
      tolerance: 1e-4, // Values are few and alike, and the gradient is made of their differences.
    });
  });

  it("matMul of [B, H] by [B, 1] mixes up the batches; attention with one key head for all does not", async () => {
    const inputs = { q: normal([3, 5, 4, 2], 1), k: normal([3, 5, 1, 2], 2), v: normal([3, 5, 1, 2], 3) };
    const together = await run(inputs, [], ({ q, k, v }) => causalAttention(q, k, v, null, 1).slice([1], [1]));
    const alone = await run(inputs, [], (all) => {
      const [q, k, v] = [all.q, all.k, all.v].map((x) => x.slice([1], [1]));
      return causalAttention(q, k, v, null, 1);
    });
    expectSameBits(together, alone);
  });
});
