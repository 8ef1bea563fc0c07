// A layer of experts (DeepSeekMoE, Dai et al., 2024; DeepSeek-V3 section 2.1.2, eq. 12-16) as one operation: each token
// passes through the shared MLP and the experts that the router chose for it, and their outputs are added with its weights.

// N tokens, D hidden size, E experts, S = the sum of all experts' widths. Expert e has channels offsets[e]..offsets[e+1]-1,
// so that pruned experts may differ in width. A = N * topK assignments, F channels of the shared MLP.

import { detached, wantsGradient } from "../gradients.ts";
import { allocate, groupsFor, launch } from "../launch.ts";
import { defineOp, hasKernel, type Inputs, runOps } from "../op.ts";
import type { Matrix, PackedFormat } from "../packed.ts";
import * as tf from "../tf.ts";
import { at, cpu, make, run, writeIntegers } from "../wasm/heap.ts";
import { withScratch } from "../wgsl.ts";
import {
  areTrained,
  checkMlp,
  checkTrainable,
  formatsOf,
  gatedMlpReference,
  inFloat32,
  type MlpWeights,
  weightsOf,
} from "./gatedMlp.ts";
import {
  channelsOf,
  type Formats,
  launchHiddenGradient,
  launchInner,
  launchInnerGradient,
  launchOuter,
  launchOuterGradient,
  launchTokenGradient,
  named,
  ORDER,
  orderSize,
  type Plan,
  planOf,
  widestOf,
} from "./gatedMlpKernels.ts";
import { multiply } from "./matmul.ts";
import { MATRIX_WORDS, matrixWords, workspaces } from "./onHeap.ts";
import { launchRoute, launchRouteGradient, type RouteOptions, routeReference } from "./route.ts";
import { launchSort } from "./sortByExpert.ts";
import { zeros } from "./zeros.ts";

/** Where one of the three is packed, all are frozen. A packed `down` wants whole blocks of every expert. */
export interface ExpertWeights {
  gate: Matrix; // [S, D]
  up: Matrix; // [S, D]
  down: Matrix; // [D, S]
  /** Length E + 1, from 0 to S. */
  offsets: number[];
}

export interface MixtureWeights {
  router: tf.Tensor; // [E, D]
  /** Added to the scores for the choice only. */
  bias: tf.Tensor; // [E]
  experts: ExpertWeights;
  shared: MlpWeights | null;
}

export interface MixtureOutput {
  y: tf.Tensor; // [N, D]
  /** Best first, of equals the first. */
  chosen: tf.Tensor; // int32 [N, topK]
}

/**
 * x: [N, D], residual: [N, D] or null.
 *
 * y[n] = residual[n] + shared(x[n]) + sum over k of weights[n, k] * expert_e(x[n]), e = chosen[n, k]. Each expert is a
 * gated MLP. The bias and the choice have no gradient.
 */
export function mixture(
  x: tf.Tensor,
  p: MixtureWeights,
  options: RouteOptions,
  residual: tf.Tensor | null,
): MixtureOutput {
  check(x, p, options, residual);
  if (!hasKernel("Mixture")) return mixtureReference(x, p, options, residual);
  const { router, bias, experts, shared } = p;
  const inputs = {
    x,
    router,
    bias,
    ...weightsOf(experts),
    ...(shared && named(null, weightsOf(shared))),
    ...(residual && { residual }),
  };
  const attributes: Attributes = {
    ...options,
    offsets: experts.offsets,
    F: shared?.gate.shape[0] ?? 0,
    formats: named(formatsOf(experts), shared && formatsOf(shared)),
    wanted: {
      router: wantsGradient(router),
      experts: areTrained(experts),
      shared: shared !== null && areTrained(shared),
    },
  };
  const [y, chosen, ...saved] = runOps(nameOf(shared !== null), inputs, attributes);
  tf.dispose(saved); // The tape has clones where it needs them.
  return { y, chosen: detached(chosen) };
}

/** The definition in plain operations. */
export function mixtureReference(
  x: tf.Tensor,
  { router, bias, experts, shared }: MixtureWeights,
  options: RouteOptions,
  residual: tf.Tensor | null,
): MixtureOutput {
  const { experts: chosen, weights } = routeReference(tf.matMul(x, router, false, true), bias, options);
  const routed = expertsReference(x, chosen, weights, experts);
  const before = shared ? gatedMlpReference(x, shared, residual) : residual;
  return { y: before ? before.add(routed) : routed, chosen };
}

/** The sum of the experts' outputs by `weights`, [N, topK], in plain operations: every expert sees every token. */
export function expertsReference(x: tf.Tensor, chosen: tf.Tensor, weights: tf.Tensor, p: ExpertWeights): tf.Tensor {
  const D = x.shape[1]!;
  const [gate, up, down] = [p.gate, p.up, p.down].map(inFloat32);
  const parts: tf.Tensor[] = [];
  for (let e = 0; e + 1 < p.offsets.length; e++) {
    const [from, width] = [p.offsets[e], p.offsets[e + 1] - p.offsets[e]];
    if (width === 0) continue;
    const weight = weights.mul(chosen.equal(tf.scalar(e, "int32")).cast("float32")).sum(1, true); // [N, 1]
    const own = {
      gate: gate.slice([from, 0], [width, D]),
      up: up.slice([from, 0], [width, D]),
      down: down.slice([0, from], [D, width]),
    };
    parts.push(gatedMlpReference(x, own, null).mul(weight));
  }
  return tf.addN(parts);
}

function check(x: tf.Tensor, p: MixtureWeights, options: RouteOptions, residual: tf.Tensor | null): void {
  checkMlp("mixture", x, p.experts);
  if (p.shared) checkMlp("mixture, shared", x, p.shared);
  const E = p.experts.offsets.length - 1;
  const right =
    tf.util.arraysEqual(p.router.shape, [E, x.shape[1]!]) &&
    p.bias.size === E &&
    p.experts.offsets[E] === p.experts.gate.shape[0] &&
    (!residual || tf.util.arraysEqual(residual.shape, x.shape));
  if (!right || options.topK > E || E % options.groups !== 0) {
    throw new Error(
      `mixture: x is [${x.shape}], router [${p.router.shape}], bias [${p.bias.shape}], gate [${p.experts.gate.shape}] ` +
        `with ${p.experts.offsets[E]} channels of ${E} experts by the offsets, top ${options.topK}, ${options.groups} groups`,
    );
  }
}

interface Attributes extends RouteOptions {
  offsets: number[];
  /** Channels of the shared MLP, 0 without one. */
  F: number;
  formats: Formats;
  /** Which gradients are computed: not those of what is frozen. */
  wanted: { router: boolean; experts: boolean; shared: boolean };
}

const WEIGHTS = ["gate", "up", "down"];
const WEIGHTS_OF_SHARED = WEIGHTS.map((name) => `shared_${name}`);
const SAVED_OUTPUTS = ["chosen", "logits", "weights", "hidden", "order"];

const nameOf = (shared: boolean): string => (shared ? "MixtureWithShared" : "Mixture");

/** Names of the gradients, in the order in which MixtureGradient gives them after dx. */
function gradientsOf({ router, experts, shared }: Attributes["wanted"]): string[] {
  return [...(router ? ["router"] : []), ...(experts ? WEIGHTS : []), ...(shared ? WEIGHTS_OF_SHARED : [])];
}

/** The formats of those that are packed. */
function packed(names: string[], { formats }: Attributes): PackedFormat[] {
  return names.flatMap((name) => formats[name] ?? []);
}

/**
 * Outputs: y [N, D], chosen int32 [N, topK], logits [N, E], weights [N, topK]; and, as each backend lays them out, hidden
 * [A*2*widest + N*2*F], what the gradient needs of the products with gate and up, and order, int32, the rows by expert.
 */
for (const shared of [false, true]) {
  const saves = ["x", "router", ...WEIGHTS, ...(shared ? WEIGHTS_OF_SHARED : [])];
  defineOp<Attributes>({
    name: nameOf(shared),
    saves,
    savesOutputs: [false, ...SAVED_OUTPUTS.map(() => true)],
    wasm: forwardOnHeap,
    webgpu: forwardOnGpu,
    gradient: ([dy], saved, attributes) => {
      const inputs: tf.NamedTensorMap = { dy };
      [...saves, ...SAVED_OUTPUTS].forEach((name, i) => (inputs[name] = saved[i]));
      const differentiate = (wanted: Attributes["wanted"]): tf.NamedTensorMap => {
        const [dx, ...others] = runOps("MixtureGradient", inputs, { ...attributes, wanted });
        return { x: dx, ...Object.fromEntries(gradientsOf(wanted).map((name, i) => [name, others[i]])) };
      };
      const gradients = differentiate(attributes.wanted);
      // Weights that are computed from leaves are none themselves, but their gradients are wanted all the same.
      const [experts, sharedOnes] = [WEIGHTS, WEIGHTS_OF_SHARED].map((names) => packed(names, attributes));
      const late = (name: string) => {
        checkTrainable("The weights of these experts", WEIGHTS.includes(name) ? experts : []);
        checkTrainable("The weights of this shared expert", WEIGHTS_OF_SHARED.includes(name) ? sharedOnes : []);
        const whole = { router: true, experts: experts.length === 0, shared: shared && sharedOnes.length === 0 };
        return differentiate(whole)[name];
      };
      return {
        ...Object.fromEntries(saves.map((name) => [name, () => gradients[name] ?? late(name)])),
        bias: () => zeros([attributes.offsets.length - 1]),
        residual: () => dy,
      };
    },
  });
}

/** dy: [N, D] and what the operation saved -> dx, and the gradients that are wanted. */
defineOp<Attributes>({ name: "MixtureGradient", wasm: backwardOnHeap, webgpu: backwardOnGpu });

function sizesOf({ x }: Inputs, { offsets, topK, F }: Attributes) {
  const [N, D] = x.shape;
  const E = offsets.length - 1;
  return { N, D, E, F, A: N * topK, S: offsets[E], widest: widestOf(offsets) };
}

const MOST_MATRIX_WORDS = (WEIGHTS.length + WEIGHTS_OF_SHARED.length) * MATRIX_WORDS;

/** The experts' matrices, then the shared one's. */
function wordsOf(inputs: Inputs, { formats }: Attributes): number[] {
  return matrixWords(only(inputs, [...WEIGHTS, ...WEIGHTS_OF_SHARED]), formats);
}

function ofShared(matrices: number): number {
  return matrices + 4 * WEIGHTS.length * MATRIX_WORDS;
}

function forwardOnHeap(inputs: Inputs, attributes: Attributes): tf.TensorInfo[] {
  const { x, router, bias, residual } = inputs;
  const { topK, scoring, normalize, scale, groups, groupsKept, offsets } = attributes;
  const { N, D, E, F, A, S, widest } = sizesOf(inputs, attributes);
  const floats = [x.shape, [N, E], [N, topK], [2 * (A * widest + N * F)]].map((shape) => make(shape));
  const integers = [[N, topK], [A + E + 1 + A]].map((shape) => make(shape, "int32"));
  const [y, logits, weights, hidden] = floats.map(at);
  const [chosen, order] = integers.map(at);
  const rowBytes = Math.max(cpu().expertsBytes(A, D, widest), F > 0 ? cpu().gatedMlpBytes(F) : 0);
  const [matrices, offsetsAt, scores, rows] = workspaces(MOST_MATRIX_WORDS, E + 1, 2 * E + groups, rowBytes / 4);
  const words = wordsOf(inputs, attributes);
  const [xAt, routerAt, biasAt, from] = [at(x), at(router), at(bias), residual && at(residual)];
  const hiddenOfShared = hidden + 4 * 2 * A * widest;
  const softmax = scoring === "softmax";
  run(() => {
    cpu().gemm(false, true, N, E, D, xAt, D, routerAt, D, logits, E, false);
    cpu().route(logits, biasAt, weights, chosen, N, E, topK, softmax, normalize, scale, groups, groupsKept, scores);
    writeIntegers(matrices, words);
    writeIntegers(offsetsAt, offsets);
    if (from) cpu().copyRows(from, D, y, D, N, D);
    if (F > 0) cpu().gatedMlp(xAt, ofShared(matrices), y, hiddenOfShared, N, D, F, from !== undefined, rows);
    const add = from !== undefined || F > 0;
    const into = [y, hidden, order] as const;
    cpu().experts(xAt, chosen, weights, matrices, offsetsAt, ...into, N, D, topK, E, S, widest, add, rows);
  });
  return [floats[0], integers[0], floats[1], floats[2], floats[3], integers[1]];
}

function backwardOnHeap(inputs: Inputs, attributes: Attributes): tf.TensorInfo[] {
  const { dy, x, router } = inputs;
  const { topK, scoring, normalize, scale, offsets, wanted } = attributes;
  const { N, D, E, F, A, S, widest } = sizesOf(inputs, attributes);
  const outputs = [x, ...gradientsOf(wanted).map((name) => inputs[name])].map(({ shape }) => make(shape));
  const to = gradientAddresses(outputs, wanted);
  const rowBytes = Math.max(cpu().expertsGradientBytes(A, D, widest), F > 0 ? cpu().gatedMlpGradientBytes(F) : 0);
  const parts = [MOST_MATRIX_WORDS, E + 1, E, A, N * E, rowBytes / 4];
  const [matrices, offsetsAt, scores, dweights, dlogits, rows] = workspaces(...parts);
  const words = wordsOf(inputs, attributes);
  const [dyAt, xAt, routerAt] = [at(dy), at(x), at(router)];
  const [chosen, logits, weights, hidden, order] = SAVED_OUTPUTS.map((name) => at(inputs[name]));
  const hiddenOfShared = hidden + 4 * 2 * A * widest;
  const softmax = scoring === "softmax";
  run(() => {
    writeIntegers(matrices, words);
    writeIntegers(offsetsAt, offsets);
    const sizes = [N, D, topK, E, S, widest] as const;
    const from = [dyAt, xAt, weights, matrices, offsetsAt, hidden, order] as const;
    cpu().expertsGradient(...from, to.dx, dweights, ...to.experts, ...sizes, rows);
    cpu().routeGradient(dweights, logits, chosen, dlogits, N, E, topK, softmax, normalize, scale, scores);
    cpu().gemm(false, false, N, D, E, dlogits, E, routerAt, D, to.dx, D, true);
    if (to.router) cpu().gemm(true, false, E, D, N, dlogits, E, xAt, D, to.router, D, false);
    const shared = [dyAt, xAt, ofShared(matrices), hiddenOfShared] as const;
    if (F > 0) cpu().gatedMlpGradient(...shared, to.dx, ...to.shared, N, D, F, true, rows);
  });
  return outputs;
}

/** Addresses of the gradients by what they are of; 0 for those that are not wanted. */
function gradientAddresses(outputs: tf.TensorInfo[], wanted: Attributes["wanted"]) {
  const names = ["x", ...gradientsOf(wanted)];
  const of = (name: string): number => (names.includes(name) ? at(outputs[names.indexOf(name)]) : 0);
  const three = (list: string[]) => list.map(of) as [number, number, number];
  return { dx: of("x"), router: of("router"), experts: three(WEIGHTS), shared: three(WEIGHTS_OF_SHARED) };
}

function planOfInputs(inputs: Inputs, attributes: Attributes): Plan {
  const { F, formats } = attributes;
  return planOf(inputs.x.shape, inputs.shared_gate ? { channels: F } : null, attributes, formats);
}

/** Those of the inputs that are there. */
function only(inputs: Inputs, names: string[]): Inputs {
  return Object.fromEntries(names.filter((name) => inputs[name]).map((name) => [name, inputs[name]]));
}

const GATES = ["gate", "up", "shared_gate", "shared_up"];
const DOWNS = ["down", "shared_down"];

function forwardOnGpu(inputs: Inputs, attributes: Attributes): tf.TensorInfo[] {
  const { x, router, bias, residual } = inputs;
  const plan = planOfInputs(inputs, attributes);
  const { N, D, A, topK, E } = plan.sizes;
  const y = allocate(x.shape);
  const [logits, weights, hidden] = [[N, E], [N, topK], [channelsOf(plan, 2)]].map((shape) => allocate(shape));
  const chosen = allocate([N, topK], "int32");
  const order = allocate([orderSize(plan)], "int32");
  launchRoute(plan.form, { x, router, bias }, { logits, weights, chosen }, attributes);
  launchSort(plan, chosen, order);
  const rows = plan.shared ? A + N : A;
  withScratch([channelsOf(plan, 1)], (act) =>
    withScratch([rows, D], (outputs) => {
      launchInner(plan, { x, ...only(inputs, GATES), order }, { hidden, act });
      launchOuter(plan, { act, ...only(inputs, DOWNS), order }, { y: outputs });
      const reads = { outputs, weights, order, ...(residual && { residual }) };
      combine("mixtureCombine", sumOfOutputs(plan, residual !== undefined), reads, { y }, plan);
    }),
  );
  return [y, chosen, logits, weights, hidden, order];
}

function backwardOnGpu(inputs: Inputs, attributes: Attributes): tf.TensorInfo[] {
  const { dy, x, router, chosen, logits, weights, hidden, order } = inputs;
  const { wanted, scoring } = attributes;
  const plan = planOfInputs(inputs, attributes);
  const { N, D, A, E, overlapWidth } = plan.sizes;
  const names = gradientsOf(wanted);
  const outputs = [x, ...names.map((name) => inputs[name])].map(({ shape }) => allocate(shape));
  const found = Object.fromEntries(names.map((name, i) => [name, outputs[i + 1]]));
  const rows = plan.shared ? A + N : A;
  withScratch([channelsOf(plan, 3)], (dhidden) =>
    withScratch([N, E], (dlogits) => {
      withScratch([A, Math.max(1, overlapWidth)], (overlaps) => {
        const reads = { dy, weights, ...only(inputs, DOWNS), hidden, order };
        launchHiddenGradient(plan, reads, { dhidden, overlaps });
        launchRouteGradient({ overlaps, order, logits, chosen }, { dlogits }, plan, attributes);
      });
      withScratch([rows, D], (parts) => {
        launchTokenGradient(plan, { dhidden, ...only(inputs, GATES), order }, { dx: parts });
        const reads = { outputs: parts, order, dlogits, router, ...(scoring === "sigmoid" && { chosen }) };
        combine("mixtureTokenGradient", sumOfGradients(plan, scoring), reads, { y: outputs[0] }, plan);
      });
      if (wanted.router) {
        multiply({ a: dlogits, b: x, c: found.router, M: E, N: D, K: N, transposeA: true, transposeB: false });
      }
      const trained = { ...plan, routed: wanted.experts, shared: wanted.shared };
      if (!trained.routed && !trained.shared) return;
      const sorted: Inputs = trained.routed ? { order } : {};
      launchInnerGradient(trained, { x, dhidden, ...sorted }, gradientsNamed(found, GATES));
      launchOuterGradient(trained, { dy, dhidden, ...sorted }, gradientsNamed(found, DOWNS));
    }),
  );
  return outputs;
}

/** gate -> dgate, shared_gate -> shared_dgate, for those that are there. */
function gradientsNamed(found: Inputs, names: string[]): Inputs {
  const there = names.filter((name) => found[name]);
  return Object.fromEntries(there.map((name) => [name.replace(/(?=gate|up|down)/, "d"), found[name]]));
}

function combine(name: string, source: string, reads: Inputs, writes: Inputs, { sizes }: Plan): void {
  launch({ name, source, reads, writes, sizes, workgroups: groupsFor(sizes.N * sizes.D) });
}

/** One thread per element of y. `before`, `perAssignment` (of assignment a, row `row`) and `after` add to `sum`. */
const sumOverAssignments = (plan: Plan, before: string, perAssignment: string, after: string): string => /* wgsl */ `
  ${ORDER}
  fn main(group: u32, thread: u32) {
    let i = group * THREADS + thread;
    if (i >= u.N * u.D) { return; }
    let n = i / u.D;
    let d = i % u.D;
    var sum = ${plan.shared ? "outputs[(u.A + n) * u.D + d]" : "0.0"};
    ${before}
    for (var a = n * u.topK; a < (n + 1u) * u.topK; a++) {
      let output = outputs[u32(order[rowOf(a)]) * u.D + d];
      ${perAssignment}
    }
    ${after}
    y[i] = sum;
  }
`;

/** y = residual + shared + the weighted experts, in the order of their choice. */
const sumOfOutputs = (plan: Plan, residual: boolean): string =>
  sumOverAssignments(plan, residual ? "sum += residual[i];" : "", "sum += weights[a] * output;", "");

/** dx = the MLPs' gradients and the router's: dlogits·router, of which only the chosen are not 0 with the sigmoid. */
const sumOfGradients = (plan: Plan, scoring: RouteOptions["scoring"]): string =>
  scoring === "sigmoid"
    ? sumOverAssignments(
        plan,
        "",
        "let e = u32(chosen[a]); sum += output + dlogits[n * u.E + e] * router[e * u.D + d];",
        "",
      )
    : sumOverAssignments(
        plan,
        "",
        "sum += output;",
        "for (var e = 0u; e < u.E; e++) { sum += dlogits[n * u.E + e] * router[e * u.D + d]; }",
      );
