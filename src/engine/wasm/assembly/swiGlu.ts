// SwiGLU: y = silu(gate) * up, silu(z) = z * sigmoid(z), and its gradient.

import { at, sigmoid1, sigmoid4 } from "./math";
import { evenly, give, given, LANES, share, SWIGLU, SWIGLU_GRADIENT } from "./threads";

// Nanoseconds for an element, forward and backward.
const TAKES = 1;
const GRADIENT_TAKES = 1.3;

export function swiGlu(gate: usize, up: usize, y: usize, n: i32): void {
  give<usize>(0, gate);
  give<usize>(1, up);
  give<usize>(2, y);
  share(SWIGLU, n, evenly(n, LANES), <f64>n * TAKES, y != gate && y != up);
}

export function swiGluPiece(first: i32, last: i32): void {
  const gate = given<usize>(0);
  const up = given<usize>(1);
  const y = given<usize>(2);
  let i = first;
  for (; i + 4 <= last; i += 4) {
    const z = v128.load(at(gate, i));
    v128.store(at(y, i), f32x4.mul(f32x4.mul(z, sigmoid4(z)), v128.load(at(up, i))));
  }
  for (; i < last; i++) {
    const z = load<f32>(at(gate, i));
    store<f32>(at(y, i), z * sigmoid1(z) * load<f32>(at(up, i)));
  }
}

/** With s = sigmoid(gate): dgate = dy * up * s * (1 + gate * (1 - s)), dup = dy * gate * s. In place will do. */
export function swiGluGradient(dy: usize, gate: usize, up: usize, dgate: usize, dup: usize, n: i32): void {
  give<usize>(0, dy);
  give<usize>(1, gate);
  give<usize>(2, up);
  give<usize>(3, dgate);
  give<usize>(4, dup);
  share(
    SWIGLU_GRADIENT,
    n,
    evenly(n, LANES),
    <f64>n * GRADIENT_TAKES,
    apart(dy, gate, up, dgate) && apart(dy, gate, up, dup),
  );
}

function apart(dy: usize, gate: usize, up: usize, output: usize): bool {
  return output != dy && output != gate && output != up;
}

export function swiGluGradientPiece(first: i32, last: i32): void {
  const dy = given<usize>(0);
  const gate = given<usize>(1);
  const up = given<usize>(2);
  const dgate = given<usize>(3);
  const dup = given<usize>(4);
  const one = f32x4.splat(1);
  let i = first;
  for (; i + 4 <= last; i += 4) {
    const z = v128.load(at(gate, i));
    const g = v128.load(at(dy, i));
    const s = sigmoid4(z);
    const slope = f32x4.mul(s, f32x4.add(one, f32x4.mul(z, f32x4.sub(one, s))));
    const ofGate = f32x4.mul(f32x4.mul(g, v128.load(at(up, i))), slope);
    v128.store(at(dup, i), f32x4.mul(g, f32x4.mul(z, s)));
    v128.store(at(dgate, i), ofGate);
  }
  for (; i < last; i++) {
    const z = load<f32>(at(gate, i));
    const g = load<f32>(at(dy, i));
    const s = sigmoid1(z);
    const ofGate = g * load<f32>(at(up, i)) * (s * (1 + z * (1 - s)));
    store<f32>(at(dup, i), g * (z * s));
    store<f32>(at(dgate, i), ofGate);
  }
}
