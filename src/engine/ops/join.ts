// Two vectors per row as one: [a; b].

// A and C: entries of a row of each.

import { allocate, groupsFor, launch } from "../launch.ts";
import { defineOp, hasKernel, runOp, runOps } from "../op.ts";
import * as tf from "../tf.ts";
import { at, cpu, make, run } from "../wasm/heap.ts";

/** a: [..., A], b: [..., C] -> [..., A+C] */
export function join(a: tf.Tensor, b: tf.Tensor): tf.Tensor {
  if (!tf.util.arraysEqual(a.shape.slice(0, -1), b.shape.slice(0, -1))) {
    throw new Error(`join: a is [${a.shape}], b is [${b.shape}]`);
  }
  if (!hasKernel("Join")) return joinReference(a, b);
  return runOp("Join", { a, b }, { shapes: [a.shape, b.shape] });
}

/** The definition in plain operations. */
export function joinReference(a: tf.Tensor, b: tf.Tensor): tf.Tensor {
  return tf.concat([a, b], -1);
}

interface Attributes {
  /** Of a and b. */
  shapes: [number[], number[]];
}

function sizesOf([a, b]: Attributes["shapes"]) {
  return { rows: tf.util.sizeFromShape(a.slice(0, -1)), A: a.at(-1)!, C: b.at(-1)! };
}

defineOp<Attributes>({
  name: "Join",
  wasm: ({ a, b }, { shapes }) => {
    const { rows, A, C } = sizesOf(shapes);
    const y = make([...a.shape.slice(0, -1), A + C]);
    const [aAt, bAt, to] = [at(a), at(b), at(y)];
    run(() => {
      cpu().copyRows(aAt, A, to, A + C, rows, A);
      cpu().copyRows(bAt, C, to + 4 * A, A + C, rows, C);
    });
    return y;
  },
  webgpu: ({ a, b }, { shapes }) => {
    const { rows, A, C } = sizesOf(shapes);
    const y = allocate([...a.shape.slice(0, -1), A + C]);
    const size = rows * (A + C);
    launch({
      name: "join",
      source: each("y[i] = a[row * u.A + column];", "y[i] = b[row * u.C + column - u.A];"),
      reads: { a, b },
      writes: { y },
      sizes: { size, A, C },
      workgroups: groupsFor(size),
    });
    return y;
  },
  gradient: ([dy], _, attributes) => {
    const [a, b] = runOps("JoinGradient", { dy }, attributes);
    return { a: () => a, b: () => b };
  },
});

/** dy: [..., A+C] -> [..., A], [..., C] */
defineOp<Attributes>({
  name: "JoinGradient",
  wasm: ({ dy }, { shapes }) => {
    const { rows, A, C } = sizesOf(shapes);
    const [a, b] = shapes.map((shape) => make(shape));
    const [from, aAt, bAt] = [at(dy), at(a), at(b)];
    run(() => {
      cpu().copyRows(from, A + C, aAt, A, rows, A);
      cpu().copyRows(from + 4 * A, A + C, bAt, C, rows, C);
    });
    return [a, b];
  },
  webgpu: ({ dy }, { shapes }) => {
    const { rows, A, C } = sizesOf(shapes);
    const [a, b] = shapes.map((shape) => allocate(shape));
    const size = rows * (A + C);
    launch({
      name: "joinGradient",
      source: each("a[row * u.A + column] = dy[i];", "b[row * u.C + column - u.A] = dy[i];"),
      reads: { dy },
      writes: { a, b },
      sizes: { size, A, C },
      workgroups: groupsFor(size),
    });
    return [a, b];
  },
});

/** One thread for each entry i of the whole: of a's part, or of b's. */
const each = (ofA: string, ofB: string): string => /* wgsl */ `
  fn main(group: u32, thread: u32) {
    let i = group * THREADS + thread;
    if (i >= u.size) { return; }
    let row = i / (u.A + u.C);
    let column = i % (u.A + u.C);
    if (column < u.A) { ${ofA} } else { ${ofB} }
  }
`;
