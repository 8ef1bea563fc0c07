// Attention without barriers: one thread per query or key, its vectors in registers; neighbouring threads read the same
// key or query. For software adapters, which are slow at barriers, and for heads narrow enough for the registers.

// No S x S buffer: the forward keeps a running maximum and sum (Milakov & Gimelshein, 2018), the backward recomputes each
// probability from the logsumexp (Dao et al., 2022, algorithm 4).

import { lines, loadVector, storeVector, vectors } from "../../wgsl.ts";
import type { HeadShape } from "./shape.ts";

/** Declares i (of all threads) and where it stands: b, and `own`, its token. */
const place = (heads: "H" | "G"): string => /* wgsl */ `
  let i = group * THREADS + thread;
  if (i >= u.B * u.${heads} * u.T) { return; }
  let own = i % u.T;
  let b = i / (u.T * u.${heads});
`;

/** Statements that load a key: vectors k0.. and, of the shared part, r0.. */
const loadKey = ({ K, P, V, joined }: HeadShape, token: string): string => /* wgsl */ `
  let kAt = ((b * u.T + ${token}) * u.G + g) * ${joined ? K + V : K}u;
  ${lines(vectors(K), (j) => `let k${j} = ${loadVector(joined ? "kv" : "k", "kAt", K, j)};`)}
  let rAt = (b * u.T + ${token}) * ${P}u;
  ${lines(vectors(P), (j) => `let r${j} = ${loadVector("rotary", "rAt", P, j)};`)}
`;

const loadValue = ({ K, V, joined }: HeadShape, token: string): string => /* wgsl */ `
  let vAt = ((b * u.T + ${token}) * u.G + g) * ${joined ? `${K + V}u + ${K}u` : `${V}u`};
  ${lines(vectors(V), (j) => `let v${j} = ${loadVector(joined ? "kv" : "v", "vAt", V, j)};`)}
`;

/** Statements that load a query: vectors q0.. for the key's own part, s0.. for the shared part. */
const loadQuery = ({ K, P }: HeadShape, token: string): string => /* wgsl */ `
  let qAt = ((b * u.T + ${token}) * u.H + h) * ${K + P}u;
  ${lines(vectors(K), (j) => `let q${j} = ${loadVector("q", "qAt", K, j)};`)}
  let sAt = qAt + ${K}u;
  ${lines(vectors(P), (j) => `let s${j} = ${loadVector("q", "sAt", P, j)};`)}
`;

/** Vectors y0.. of the output's gradient at a query. */
const loadOutputGradient = ({ V }: HeadShape, token: string): string => /* wgsl */ `
  let oAt = ((b * u.T + ${token}) * u.H + h) * ${V}u;
  ${lines(vectors(V), (j) => `let y${j} = ${loadVector("dy", "oAt", V, j)};`)}
`;

const dots = (pairs: string[]): string => pairs.map((pair) => `dot(${pair})`).join(" + ");

const logit = ({ K, P }: HeadShape): string =>
  `u.scale * (${dots([
    ...Array.from({ length: vectors(K) }, (_, j) => `q${j}, k${j}`),
    ...Array.from({ length: vectors(P) }, (_, j) => `s${j}, r${j}`),
  ])})`;

const along = ({ V }: HeadShape, other: string): string =>
  dots(Array.from({ length: vectors(V) }, (_, j) => `y${j}, ${other}${j}`));

/** Reads q, keys, values (and starts, if `segments`); writes o and stats: the logsumexp and the first token seen. */
export const forward = (shape: HeadShape, segments: boolean): string => /* wgsl */ `
  fn main(group: u32, thread: u32) {
    ${place("H")}
    let h = i / u.T % u.H;
    let g = h / (u.H / u.G);
    let first = ${segments ? "u32(max(starts[b * u.T + own], 0))" : "0u"};
    ${loadQuery(shape, "own")}
    ${lines(vectors(shape.V), (j) => `var o${j} = vec4<f32>();`)}
    var most = -3.0e38;
    var sum = 0.0;
    for (var token = first; token <= own; token++) {
      ${loadKey(shape, "token")}
      let logit = ${logit(shape)};
      let above = max(most, logit);
      let keep = exp(most - above);
      let p = exp(logit - above);
      most = above;
      sum = sum * keep + p;
      ${loadValue(shape, "token")}
      ${lines(vectors(shape.V), (j) => `o${j} = o${j} * keep + p * v${j};`)}
    }
    let oAt = ((b * u.T + own) * u.H + h) * ${shape.V}u;
    ${lines(vectors(shape.V), (j) => `let y${j} = o${j} / sum; ${storeVector("o", "oAt", shape.V, j, `y${j}`)}`)}
    stats[2u * i] = most + log(sum);
    stats[2u * i + 1u] = f32(first);
  }
`;

/**
 * Reads q, keys, values, dy, o, stats; writes dq and delta = dy·o, which the keys' gradient needs.
 *
 * For each key: p = exp(logit - logsumexp), dlogit = p * (dy·v - delta).
 */
export const queryGradient = (shape: HeadShape): string => /* wgsl */ `
  fn main(group: u32, thread: u32) {
    ${place("H")}
    let h = i / u.T % u.H;
    let g = h / (u.H / u.G);
    ${loadQuery(shape, "own")}
    ${loadOutputGradient(shape, "own")}
    ${lines(vectors(shape.V), (j) => `let o${j} = ${loadVector("o", "oAt", shape.V, j)};`)}
    let ownDelta = ${along(shape, "o")};
    delta[i] = ownDelta;
    let logsumexp = stats[2u * i];
    ${lines(vectors(shape.K), (j) => `var dq${j} = vec4<f32>();`)}
    ${lines(vectors(shape.P), (j) => `var ds${j} = vec4<f32>();`)}
    for (var token = u32(stats[2u * i + 1u]); token <= own; token++) {
      ${loadKey(shape, "token")}
      let p = exp(${logit(shape)} - logsumexp);
      ${loadValue(shape, "token")}
      let dlogit = u.scale * p * (${along(shape, "v")} - ownDelta);
      ${lines(vectors(shape.K), (j) => `dq${j} += dlogit * k${j};`)}
      ${lines(vectors(shape.P), (j) => `ds${j} += dlogit * r${j};`)}
    }
    ${lines(vectors(shape.K), (j) => storeVector("dq", "qAt", shape.K, j, `dq${j}`))}
    ${lines(vectors(shape.P), (j) => storeVector("dq", "sAt", shape.P, j, `ds${j}`))}
  }
`;

/**
 * Reads q, keys, values, dy, stats, delta; writes dk and dv, or dkv and each head's share of the rotary part's gradient,
 * drotary [B, T, G, P].
 */
export const keyGradient = (shape: HeadShape): string => /* wgsl */ `
  fn main(group: u32, thread: u32) {
    ${place("G")}
    let g = i / u.T % u.G;
    ${loadKey(shape, "own")}
    ${loadValue(shape, "own")}
    ${lines(vectors(shape.K), (j) => `var dk${j} = vec4<f32>();`)}
    ${lines(vectors(shape.P), (j) => `var dr${j} = vec4<f32>();`)}
    ${lines(vectors(shape.V), (j) => `var dv${j} = vec4<f32>();`)}
    for (var h = g * (u.H / u.G); h < (g + 1u) * (u.H / u.G); h++) {
      for (var token = own; token < u.T; token++) {
        let at = (b * u.H + h) * u.T + token;
        if (u32(stats[2u * at + 1u]) > own) { break; } // Later tokens start no earlier.
        ${loadQuery(shape, "token")}
        ${loadOutputGradient(shape, "token")}
        let p = exp(${logit(shape)} - stats[2u * at]);
        let dlogit = u.scale * p * (${along(shape, "v")} - delta[at]);
        ${lines(vectors(shape.K), (j) => `dk${j} += dlogit * q${j};`)}
        ${lines(vectors(shape.P), (j) => `dr${j} += dlogit * s${j};`)}
        ${lines(vectors(shape.V), (j) => `dv${j} += p * y${j};`)}
      }
    }
    ${lines(vectors(shape.K), (j) => storeVector(shape.joined ? "dkv" : "dk", "kAt", shape.K, j, `dk${j}`))}
    ${lines(vectors(shape.V), (j) => storeVector(shape.joined ? "dkv" : "dv", "vAt", shape.V, j, `dv${j}`))}
    let drAt = ((b * u.T + own) * u.G + g) * ${shape.P}u;
    ${lines(vectors(shape.P), (j) => storeVector("drotary", "drAt", shape.P, j, `dr${j}`))}
  }
`;
