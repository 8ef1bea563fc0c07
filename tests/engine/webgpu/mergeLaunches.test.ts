// Recorded launches share a dispatch where none waits for another, and compute what they compute apart.

import { beforeAll, describe, expect, it } from "vitest";
import { gpuBackend } from "../../../src/engine/device.ts";
import { allocate, groupsFor, type Kernel, launch } from "../../../src/engine/launch.ts";
import { mergeLaunches } from "../../../src/engine/mergeLaunches.ts";
import { record } from "../../../src/engine/record.ts";
import type { NotedLaunch } from "../../../src/engine/resources.ts";
import * as tf from "../../../src/engine/tf.ts";
import { sumOverLanes } from "../../../src/engine/wgsl.ts";
import { activate } from "../harness.ts";

beforeAll(async () => {
  await activate("webgpu");
  gpuBackend().merging = true; // As real GPUs do.
});

const LIMITS = { buffers: 8, uniforms: 64, workgroupBytes: 16_384, workgroups: 65_535 };

/** Its names are those that other texts have too, as locals, fields, functions and bindings. */
const ROW_SHARE = /* wgsl */ `
  const GAIN = 2.0; // u.size is a field
  ${sumOverLanes(64)}
  struct Pair { x: f32, y: f32 }
  fn twice(x: f32) -> f32 { return GAIN * x; }
  fn main(group: u32, thread: u32) {
    let start = group * u.size;
    var own = 0.0;
    for (var i = thread; i < u.size; i += THREADS) { own += x[start + i]; }
    let pair = Pair(sumOverLanes(own, thread), u.shift);
    if (group >= u.rows) { return; }
    /* u.size again */
    for (var i = thread; i < u.size; i += THREADS) { y[start + i] = twice(x[start + i]) / pair.x + pair.y; }
  }
`;

/** y = 2 x / (sum of x's row) + shift. */
function rowShare(x: tf.TensorInfo, y: tf.TensorInfo, shift: number): Kernel {
  const [rows, size] = x.shape;
  const sizes = { rows, size };
  return {
    name: "rowShare",
    source: ROW_SHARE,
    reads: { x },
    writes: { y },
    sizes,
    numbers: { shift },
    workgroups: rows,
  };
}

/** y = x + 1 */
function addOne(x: tf.TensorInfo, y: tf.TensorInfo, threads = 64): Kernel {
  const size = tf.util.sizeFromShape(x.shape);
  const source = /* wgsl */ `
    fn main(group: u32, thread: u32) {
      let bound = group * THREADS + thread;
      if (bound < u.size) { y[bound] = x[bound] + 1.0; }
    }
  `;
  const sizes = { size };
  return {
    name: "addOne",
    source,
    reads: { x },
    writes: { y },
    sizes,
    workgroups: groupsFor(size, threads),
    threads,
  };
}

/** What these launches become. */
function noted(make: () => void, limits = LIMITS): NotedLaunch[] {
  const backend = gpuBackend();
  backend.beginRecording();
  make();
  const launches = backend.noted!;
  backend.noted = null;
  return mergeLaunches(launches, limits);
}

const names = (launches: NotedLaunch[]): string[] => launches.map(({ kernel }) => kernel.name);

describe("launches that share a dispatch", () => {
  it("compute what they compute apart", async () => {
    const [a, b] = [tf.tensor2d([1, 2, 5, 4, 4, 2], [2, 3]), tf.tensor2d([1, 3, 2, 2, 6, 2], [3, 2])];
    const wanted = [
      [0.75, 1, 1.75, 1.3, 1.3, 0.9],
      [1.5, 2.5, 2, 2, 2.5, 1.5],
      [2, 3, 6, 5, 5, 3],
    ];
    const recording = await record(() => {
      const outputs = [allocate([2, 3]), allocate([3, 2]), allocate([2, 3])];
      launch(rowShare(a, outputs[0], 0.5));
      launch(rowShare(b, outputs[1], 1));
      launch(addOne(a, outputs[2]));
      return outputs.map((output) => tf.engine().makeTensorFromTensorInfo(output));
    });
    expect(recording.kernels).toBe(1);
    const outputs = recording.replay();
    for (const [i, output] of outputs.entries()) {
      (await output.data()).forEach((value, j) => expect(value).toBeCloseTo(wanted[i][j], 5));
    }
    recording.dispose();
  });

  it("bind once what both read, and stay within the buffers that the device binds", () => {
    const x = tf.ones([2, 3]);
    const three = (): void => {
      for (let i = 0; i < 3; i++) launch(addOne(x, allocate([2, 3])));
    };
    expect(noted(three).map(({ resources }) => resources.length)).toEqual([4]);
    expect(noted(three, { ...LIMITS, buffers: 3 }).map(({ resources }) => resources.length)).toEqual([3, 2]);
  });

  it("have the same number of threads, room for their uniforms and their workgroup memory, and are small", () => {
    const x = tf.ones([2, 3]);
    const shares = (): void => {
      for (const shift of [1, 2]) launch(rowShare(x, allocate([2, 3]), shift));
    };
    expect(noted(shares)).toHaveLength(1);
    expect(noted(shares, { ...LIMITS, uniforms: 7 })).toHaveLength(2);
    expect(noted(shares, { ...LIMITS, workgroupBytes: 511 })).toHaveLength(2);
    const mixed = (): void => {
      for (const threads of [32, 64]) launch(addOne(x, allocate([2, 3]), threads));
    };
    expect(noted(mixed)).toHaveLength(2);
    const large = tf.ones([70_000]);
    const beside = (): void => {
      for (const input of [x, large]) launch(addOne(input, allocate(input.shape)));
    };
    expect(noted(beside)).toHaveLength(2);
  });
});

describe("a launch waits", () => {
  const x = () => tf.ones([2, 3]);

  it("for one that writes what it reads", () => {
    const launches = noted(() => {
      const [from, y] = [x(), allocate([2, 3])];
      launch(addOne(from, y));
      launch(addOne(y, allocate([2, 3])));
      launch(rowShare(from, allocate([2, 3]), 1)); // Waits for none, and goes back to the first.
    });
    expect(names(launches)).toEqual(["addOne + rowShare", "addOne"]);
  });

  it("for one that reads, or writes, what it writes", () => {
    const launches = noted(() => {
      const [from, y, z] = [x(), allocate([2, 3]), allocate([2, 3])];
      launch(addOne(from, y));
      launch(addOne(from, z));
      launch(addOne(z, allocate([2, 3])));
      launch(addOne(y, allocate([2, 3]), 32));
      launch(rowShare(from, y, 1)); // Not beside the second, where y's first content is still to be read.
      launch(addOne(from, y));
    });
    expect(names(launches)).toEqual(["addOne + addOne", "addOne", "addOne", "rowShare", "addOne"]);
  });

  it("for one that writes the part of a buffer which it reads, not for other parts", () => {
    const parts = [x(), x(), x()];
    gpuBackend().inOneBuffer(parts);
    const others = [allocate([2, 3]), allocate([2, 3])];
    const launches = noted(() => {
      launch(addOne(others[0], parts[0]));
      launch(addOne(others[1], parts[1]));
      launch(addOne(parts[0], allocate([2, 3])));
      launch(addOne(parts[2], allocate([2, 3]))); // Would be read in the dispatch that writes the same buffer.
    });
    expect(names(launches)).toEqual(["addOne + addOne", "addOne + addOne"]);
    tf.dispose(parts);
  });
});
