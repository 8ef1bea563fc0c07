// Rotary position embedding (Su et al., 2021, eq. 34) on the last P entries of each head.

import { allocate, groupsFor, launch } from "../launch.ts";
import { defineOp, hasKernel, runOps } from "../op.ts";
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
 * Rotate the last P entries of each query and key head by its token's position; the first D - P stay as they are.
 *
 * q: [B, T, H, D], k: [B, T, G, D], positions: int32 [B, T], table of width P/2 -> both rotated.
 */
export function rotate(q: tf.Tensor, k: tf.Tensor, positions: tf.Tensor, table: RopeTable): [tf.Tensor, tf.Tensor] {
  const [B, T, , D] = q.shape;
  const P = 2 * table.cos.shape[1]!;
  const right = [q, k].every(({ rank, shape }) => rank === 4 && shape[0] === B && shape[1] === T && shape[3] === D);
  if (!right || !tf.util.arraysEqual(positions.shape, [B, T]) || P > D!) {
    throw new Error(
      `rotate: q is [${q.shape}], k is [${k.shape}], positions are [${positions.shape}], the table rotates ${P} entries`,
    );
  }
  if (!hasKernel("Rotate")) return [rotateReference(q, positions, table), rotateReference(k, positions, table)];
  const { cos, sin, layout } = table;
  return runOps("Rotate", { q, k, positions, cos, sin }, { layout, inverse: false }) as [tf.Tensor, tf.Tensor];
}

/** The definition in plain operations. x: [B, T, H, D] -> [B, T, H, D] */
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
  wasm: ({ q, k, ...place }, { layout, inverse }) =>
    [q, k].map((x) => {
      const y = make(x.shape);
      rotateOnHeap(x, y, place as Place, layout, inverse);
      return y;
    }),
  webgpu: ({ q, k, positions, cos, sin }, { layout, inverse }) => {
    const [turnedX, turnedY] = [allocate(q.shape), allocate(k.shape)];
    launchRotation({ x: q, y: k, positions, cos, sin }, { turnedX, turnedY }, layout, inverse);
    return [turnedX, turnedY];
  },
  gradient: ([dq, dk], [positions, cos, sin], { layout, inverse }) => {
    const attributes = { layout, inverse: !inverse };
    const [q, k] = runOps("Rotate", { q: dq, k: dk, positions, cos, sin }, attributes);
    return { q: () => q, k: () => k };
  },
});

type Place = Record<"positions" | "cos" | "sin", tf.TensorInfo>;

/** x: [B, T, H, D] or, for one head, [B, T, D] -> y, which may be x, on the heap of the wasm backend. */
export function rotateOnHeap(
  x: tf.TensorInfo,
  y: tf.TensorInfo,
  { positions, cos, sin }: Place,
  layout: RotaryLayout,
  inverse: boolean,
): void {
  const [known, half] = cos.shape;
  const width = x.shape.at(-1)!;
  const tokens = tf.util.sizeFromShape(positions.shape);
  const heads = tf.util.sizeFromShape(x.shape) / (tokens * width);
  const addresses = [at(x), at(positions), at(cos), at(sin), at(y)] as const;
  run(() => {
    const wrong = cpu().rotate(...addresses, tokens, heads, width, half, known, layout === "interleaved", inverse);
    if (wrong >= 0) throw new Error(`rotate: position ${view(positions)[wrong]} is not among the table's ${known}`);
  });
}

/**
 * Two tensors. x: [B, T, H, D] -> turnedX, same shape. y: [B, T, G, E] -> turnedY, the same; or the sum over the G heads,
 * where turnedY is [B, T, E].
 */
export function launchRotation(
  { x, y, ...place }: Place & Record<"x" | "y", tf.TensorInfo>,
  { turnedX, turnedY }: Record<"turnedX" | "turnedY", tf.TensorInfo>,
  layout: RotaryLayout,
  inverse: boolean,
): void {
  launchOne(x, turnedX, place, layout, inverse);
  launchOne(y, turnedY, place, layout, inverse);
}

function launchOne(
  x: tf.TensorInfo,
  turned: tf.TensorInfo,
  { positions, cos, sin }: Place,
  layout: RotaryLayout,
  inverse: boolean,
): void {
  const [known, half] = cos.shape;
  const width = x.shape.at(-1)!;
  const plain = width - 2 * half;
  const size = tf.util.sizeFromShape(turned.shape);
  const terms = tf.util.sizeFromShape(x.shape) / size;
  const heads = size / width;
  const perHead = Math.ceil(plain / 2) + half;
  const tokens = tf.util.sizeFromShape(positions.shape);
  launch({
    name: "rotate",
    source: rotation(layout, { summed: terms > 1, plain: plain > 0 }),
    reads: { x, positions, cos, sin },
    writes: { turned },
    sizes: { heads, perToken: heads / tokens, width, plain, perHead, terms, half, known },
    numbers: { direction: inverse ? -1 : 1, none: Number.NaN },
    workgroups: groupsFor(heads * perHead),
  });
}

/**
 * WGSL: entry i of [..., width] heads is rotated to keep * x[i] + take * x[partner]. Reads positions, cos, sin, u.half,
 * u.known (positions of the table), u.direction (-1: back) and u.none, which a position that the table lacks gives (NaN).
 */
export const turnText = (layout: RotaryLayout): string => /* wgsl */ `
  struct Turn { keep: f32, take: f32, partner: u32 }
  fn turnOf(i: u32, width: u32, token: u32) -> Turn {
    let d = i % width;
    let plain = width - 2u * u.half;
    if (d < plain) { return Turn(1.0, 0.0, i); }
    let entry = d - plain;
    ${
      layout === "interleaved"
        ? "let pair = entry / 2u; let second = entry % 2u == 1u; let stride = 1u;"
        : "let pair = entry % u.half; let second = entry >= u.half; let stride = u.half;"
    }
    let position = positions[token];
    let known = position >= 0 && position < i32(u.known);
    let angle = select(0u, u32(position), known) * u.half + pair;
    let c = select(u.none, cos[angle], known);
    let s = select(u.none, sin[angle] * u.direction, known);
    return Turn(c, select(-s, s, second), select(i + stride, i - stride, second));
  }
`;

/** One thread per pair, or per two entries that stay as they are. */
const rotation = (layout: RotaryLayout, { summed, plain }: { summed: boolean; plain: boolean }): string => /* wgsl */ `
  fn main(group: u32, thread: u32) {
    let i = group * THREADS + thread;
    let head = i / u.perHead;
    if (head >= u.heads) { return; }
    let start = head * u.width;
    let still = u.perHead - u.half;
    ${plain ? COPY : ""}
    let pair = i % u.perHead - still;
    let position = positions[head / u.perToken];
    let known = position >= 0 && position < i32(u.known);
    let angle = select(0u, u32(position), known) * u.half + pair;
    let c = select(u.none, cos[angle], known);
    let s = select(u.none, sin[angle] * u.direction, known);
    let first = u.plain + ${layout === "interleaved" ? "2u * pair" : "pair"};
    let second = first + ${layout === "interleaved" ? "1u" : "u.half"};
    let a = valueAt(head, first);
    let b = valueAt(head, second);
    turned[start + first] = a * c - b * s;
    turned[start + second] = b * c + a * s;
  }
  fn valueAt(head: u32, d: u32) -> f32 {
    ${
      summed
        ? /* wgsl */ `
    var sum = 0.0;
    for (var g = 0u; g < u.terms; g++) { sum += x[(head * u.terms + g) * u.width + d]; }
    return sum;`
        : "return x[head * u.width + d];"
    }
  }
`;

const COPY = /* wgsl */ `
    if (i % u.perHead < still) {
      let d = 2u * (i % u.perHead);
      turned[start + d] = valueAt(head, d);
      if (d + 1u < u.plain) { turned[start + d + 1u] = valueAt(head, d + 1u); }
      return;
    }
`;
