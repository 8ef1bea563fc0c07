// WGSL that several operations use.

import { allocate, groupsFor, launch, release, THREADS } from "./launch.ts";
import type * as tf from "./tf.ts";

/** WGSL may take infinity for impossible, so exp must not reach it. */
export const SIGMOID = /* wgsl */ `
  fn sigmoid(z: f32) -> f32 { return 1.0 / (1.0 + exp(-clamp(z, -80.0, 80.0))); }
`;

/**
 * `sumOverLanes`: the sum over the `lanes` threads that share a row, in each of them. With one lane there is nothing to
 * do; else the lanes are the whole workgroup, and all its threads must come by, spare workgroups' included.
 */
export function sumOverLanes(lanes: number, type = "f32"): string {
  if (lanes === 1) return `fn sumOverLanes(value: ${type}, lane: u32) -> ${type} { return value; }`;
  return /* wgsl */ `
    var<workgroup> laneSums: array<${type}, THREADS>;
    fn sumOverLanes(value: ${type}, lane: u32) -> ${type} {
      laneSums[lane] = value;
      workgroupBarrier();
      var sum = ${type}();
      for (var i = 0u; i < THREADS; i++) { sum += laneSums[i]; }
      return sum;
    }
  `;
}

/** Lines of text for i = 0..count-1: loops over registers are written out, because registers have no index. */
export function lines(count: number, line: (i: number) => string): string {
  return Array.from({ length: count }, (_, i) => line(i)).join("\n");
}

/** How many vec4 hold `width` numbers. */
export function vectors(width: number): number {
  return Math.ceil(width / 4);
}

/** The j-th vec4 of `width` numbers from `array[start]` on; zeros past the end. */
export function loadVector(array: string, start: string, width: number, j: number): string {
  const parts = [0, 1, 2, 3].map((c) => (4 * j + c < width ? `${array}[${start} + ${4 * j + c}u]` : "0.0"));
  return `vec4(${parts.join(", ")})`;
}

/** Statements that store the j-th vec4 of `width` numbers. */
export function storeVector(array: string, start: string, width: number, j: number, vector: string): string {
  const parts = ["x", "y", "z", "w"].slice(0, Math.max(0, width - 4 * j));
  return parts.map((part, c) => `${array}[${start} + ${4 * j + c}u] = ${vector}.${part};`).join(" ");
}

/** terms: [count, width] -> sum: [width], added up in order. */
export function addUp(terms: tf.TensorInfo, sum: tf.TensorInfo, count: number, width: number): void {
  const source = /* wgsl */ `
    fn main(group: u32, thread: u32) {
      let column = group * THREADS + thread;
      if (column >= u.width) { return; }
      var total = 0.0;
      for (var i = 0u; i < u.count; i++) { total += terms[i * u.width + column]; }
      sum[column] = total;
    }
  `;
  launch({
    name: "addUp",
    source,
    reads: { terms },
    writes: { sum },
    sizes: { count, width },
    workgroups: groupsFor(width),
  });
}

/** terms: [count] -> sum: []. In a fixed order. */
export function total(terms: tf.TensorInfo, sum: tf.TensorInfo, count: number): void {
  const source = /* wgsl */ `
    ${sumOverLanes(THREADS)}
    fn main(group: u32, thread: u32) {
      var own = 0.0;
      for (var i = thread; i < u.count; i += THREADS) { own += terms[i]; }
      let all = sumOverLanes(own, thread);
      if (group == 0u && thread == 0u) { sum[0] = all; }
    }
  `;
  launch({ name: "total", source, reads: { terms }, writes: { sum }, sizes: { count }, workgroups: 1 });
}

/** Use a tensor that no one else sees, and give it back. */
export function withScratch<T>(shape: number[], use: (scratch: tf.TensorInfo) => T, dtype?: "float32" | "int32"): T {
  const scratch = allocate(shape, dtype);
  try {
    return use(scratch);
  } finally {
    release(scratch);
  }
}
