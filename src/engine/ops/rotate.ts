// Rotary position embedding (Su et al., 2021, eq. 34) on the last P entries of each head.

import { allocate, groupsFor, launch } from "../launch.ts";
import { defineOp, hasKernel, runOp } from "../op.ts";
import * as tf from "../tf.ts";
import { at, cpu, make, run, view } from "../wasm/heap.ts";

/** Which entries form a pair: (2i, 2i+1) as DeepSeek's MLA has it, (i, i+P/2) as Qwen2 has it. */
export type RotaryLayout = "interleaved" | "half";

/** cos, sin: [positions, P/2]. */
export interface RopeTable {
  cos: tf.Tensor;
  sin: tf.Tensor;
  layout: RotaryLayout;
}

/**
 * Rotate the last P entries of each head by its token's position; the first D - P stay as they are.
 *
 * x: [B, T, H, D], positions: int32 [B, T], table of width P/2 -> [B, T, H, D].
 */
export function rotate(x: tf.Tensor, positions: tf.Tensor, table: RopeTable): tf.Tensor {
  const [B, T, , D] = x.shape;
  const P = 2 * table.cos.shape[1]!;
  if (x.rank !== 4 || positions.shape[0] !== B || positions.shape[1]! !== T || P > D) {
    throw new Error(`rotate: x is [${x.shape}], positions are [${positions.shape}], the table rotates ${P} entries`);
  }
  if (!hasKernel("Rotate")) return rotateReference(x, positions, table);
  const { cos, sin, layout } = table;
  return runOp("Rotate", { x, positions, cos, sin }, { layout, inverse: false });
}

/** The definition in plain operations. */
export function rotateReference(x: tf.Tensor, positions: tf.Tensor, table: RopeTable): tf.Tensor {
  const [B, T, H, D] = x.shape as [number, number, number, number];
  const half = table.cos.shape[1]!;
  const P = 2 * half;
  const plain = x.slice([0, 0, 0, 0], [B, T, H, D - P]);
  const part = x.slice([0, 0, 0, D - P], [B, T, H, P]);
  const flat = positions.reshape([B * T]) as tf.Tensor1D;
  const cos = tf.gather(table.cos, flat).reshape([B, T, 1, half]);
  const sin = tf.gather(table.sin, flat).reshape([B, T, 1, half]);
  if (table.layout === "half") {
    const [a, b] = tf.split(part, 2, -1) as [tf.Tensor, tf.Tensor];
    return tf.concat([plain, a.mul(cos).sub(b.mul(sin)), a.mul(sin).add(b.mul(cos))], -1);
  }
  const pairs = part.reshape([B * T * H, half, 2]);
  const [a, b] = tf.split(pairs, 2, -1).map((half2) => half2.reshape([B, T, H, half])) as [tf.Tensor, tf.Tensor];
  const rotated = tf.stack([a.mul(cos).sub(b.mul(sin)), a.mul(sin).add(b.mul(cos))], -1); // [B, T, H, P/2, 2]
  return tf.concat([plain, rotated.reshape([B, T, H, P])], -1);
}

interface Attributes {
  layout: RotaryLayout;
  /** The gradient rotates back. */
  inverse: boolean;
}

defineOp<Attributes>({
  name: "Rotate",
  saves: ["positions", "cos", "sin"],
  wasm: ({ x, positions, cos, sin }, { layout, inverse }) => {
    const [B, T, H, D] = x.shape;
    const [known, half] = cos.shape;
    const y = make(x.shape);
    const addresses = [at(x), at(positions), at(cos), at(sin), at(y)] as const;
    run(() => {
      const wrong = cpu().rotate(...addresses, B * T, H, D, half, known, layout === "interleaved", inverse);
      if (wrong >= 0) throw new Error(`rotate: position ${view(positions)[wrong]} is not among the table's ${known}`);
    });
    return y;
  },
  webgpu: ({ x, positions, cos, sin }, { layout, inverse }) => {
    const y = allocate(x.shape);
    const [H, D] = x.shape.slice(2);
    const [known, half] = cos.shape;
    const size = tf.util.sizeFromShape(x.shape);
    launch({
      name: "rotate",
      source: rotation(layout),
      reads: { x, positions, cos, sin },
      writes: { y },
      sizes: { size, perToken: H * D, D, half, known },
      numbers: { direction: inverse ? -1 : 1, none: Number.NaN },
      workgroups: groupsFor(size),
    });
    return y;
  },
  gradient: ([dy], [positions, cos, sin], { layout, inverse }) => ({
    x: () => runOp("Rotate", { x: dy, positions, cos, sin }, { layout, inverse: !inverse }),
    positions: () => tf.zerosLike(positions),
    cos: () => tf.zerosLike(cos),
    sin: () => tf.zerosLike(sin),
  }),
});

// One thread per entry; it finds its partner in the pair. A position that the table lacks gives NaN.
const rotation = (layout: RotaryLayout): string => /* wgsl */ `
  fn main(group: u32, thread: u32) {
    let i = group * THREADS + thread;
    if (i >= u.size) { return; }
    let plain = u.D - 2u * u.half;
    let d = i % u.D;
    if (d < plain) { y[i] = x[i]; return; }
    let part = d - plain;
    ${
      layout === "interleaved"
        ? "let pair = part / 2u; let second = part % 2u == 1u; let stride = 1u;"
        : "let pair = part % u.half; let second = part >= u.half; let stride = u.half;"
    }
    let position = positions[i / u.perToken];
    let known = position >= 0 && position < i32(u.known);
    let angle = select(0u, u32(position), known) * u.half + pair;
    let c = cos[angle];
    let s = sin[angle] * u.direction;
    let partner = select(i + stride, i - stride, second);
    y[i] = select(u.none, x[i] * c + select(-s, s, second) * x[partner], known);
  }
`;
