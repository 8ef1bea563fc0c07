// Value and gradients with respect to a list of leaves, and parts of a model that are computed again instead of remembered.
//
// The way back over TensorFlow.js's tape is our own: it frees what an operation saved, and the gradients of its outputs, as
// soon as they are used up (the stock one frees both at the end), and it can begin anew while another is under way.

import { constantTensor } from "./constants.ts";
import { zeros } from "./ops/zeros.ts";
import * as tf from "./tf.ts";

type TapeNode = ReturnType<typeof tf.engine>["state"]["activeTape"][number];

/** A node of ours is told which of its inputs want a gradient, before it computes any. */
type Gradient = (dys: tf.Tensor[], wanted: string[]) => Record<string, () => tf.Tensor>;

let leaves: Set<number> | null = null;

/**
 * Whether the gradient of `weight` may be wanted in the differentiation under way (true outside of one): it is a leaf, or
 * was computed on the tape.
 *
 * The tape skips what is frozen by itself; an operation that computes all its gradients in one pass asks here.
 */
export function wantsGradient(weight: tf.Tensor): boolean {
  if (leaves === null || leaves.has(weight.id)) return true;
  return tf.engine().state.activeTape?.some(({ outputs }) => outputs.some(({ id }) => id === weight.id)) ?? false;
}

/** f: () -> scalar. Returns its value and the gradient for each of `xs`, zero where f does not depend on it. */
export function valueAndGradients(f: () => tf.Scalar, xs: tf.Tensor[]): { value: tf.Scalar; gradients: tf.Tensor[] } {
  const outer = leaves;
  leaves = new Set(xs.map((x) => x.id));
  try {
    return differentiate(f, xs);
  } finally {
    leaves = outer;
  }
}

/**
 * f(...inputs), of which only the inputs are remembered: its gradient computes f once more (Chen et al., 2016, section 3).
 *
 * `trained` are the tensors that f uses besides its inputs and that may want gradients. f must compute the same both times;
 * what else it uses must live until the gradient is done.
 */
export function recomputed(
  f: (...inputs: tf.Tensor[]) => tf.Tensor,
  inputs: tf.Tensor[],
  trained: tf.Tensor[],
): tf.Tensor {
  const { state } = tf.engine();
  if (state.gradientDepth === 0) return f(...inputs);
  const parameters = trained.filter(wantsGradient);
  const saved = inputs.map(remembered);
  const y = offTape(() => tf.tidy(() => f(...inputs)));
  const again = [...saved, ...parameters];
  const gradient: Gradient = ([dy], wanted) => {
    const xs = wanted.map((place) => again[Number(place)]);
    const { value, gradients } = differentiate(() => f(...saved), xs, dy);
    value.dispose();
    return Object.fromEntries(wanted.map((place, i) => [place, () => gradients[i]]));
  };
  state.activeTape!.push({
    id: state.nextTapeNodeId++,
    kernelName: "Recomputed",
    inputs: Object.fromEntries([...inputs, ...parameters].entries()),
    outputs: [y],
    saved,
    gradient: gradient as TapeNode["gradient"],
  });
  return y;
}

/** The same content off the tape: no gradient passes. Shares memory with `x`; the two are disposed of independently. */
export function detached(x: tf.Tensor): tf.Tensor {
  tf.backend().incRef(x.dataId);
  return tf.engine().makeTensorFromTensorInfo({ dataId: x.dataId, shape: x.shape, dtype: x.dtype });
}

function remembered(x: tf.Tensor): tf.Tensor {
  return tf.keep(detached(x));
}

/** The value of f and, for a gradient dy by it (1 if not given), those by `xs`. */
function differentiate<T extends tf.Tensor>(
  f: () => T,
  xs: tf.Tensor[],
  dy?: tf.Tensor,
): { value: T; gradients: tf.Tensor[] } {
  const { value, tape } = onTape(f);
  try {
    const gradients = tf.tidy(() => {
      const found = backpropagate(tape, xs, value, dy ?? constantTensor([1], value.shape));
      return xs.map((x) => found.get(x.id) ?? zeros(x.shape));
    });
    return { value, gradients };
  } finally {
    tape.forEach(forget);
  }
}

/** Run f with a tape of its own, whatever else is being recorded or walked. */
function onTape<T extends tf.Tensor>(f: () => T): { value: T; tape: TapeNode[] } {
  const { state } = tf.engine();
  const { activeTape, gradientDepth } = state;
  const tape: TapeNode[] = [];
  Object.assign(state, { activeTape: tape, gradientDepth: 1 });
  try {
    return { value: tf.tidy(f), tape };
  } catch (error) {
    tape.forEach(forget);
    throw error;
  } finally {
    Object.assign(state, { activeTape, gradientDepth });
  }
}

/** Run f without a tape. */
function offTape<T>(f: () => T): T {
  const { state } = tf.engine();
  const { gradientDepth } = state;
  state.gradientDepth = 0;
  try {
    return f();
  } finally {
    state.gradientDepth = gradientDepth;
  }
}

/** Gradients by the id of the tensor that they are by: of `xs`, once all else is used up. */
function backpropagate(tape: TapeNode[], xs: tf.Tensor[], y: tf.Tensor, dy: tf.Tensor): Map<number, tf.Tensor> {
  const reached = reachedFrom(tape, xs);
  const gradients = new Map([[y.id, dy]]);
  for (const node of tape.toReversed()) {
    const dys = node.outputs.map(({ id }) => gradients.get(id));
    const wanted = Object.keys(node.inputs).filter((name) => reached.has(node.inputs[name].id));
    if (wanted.length > 0 && dys.some((gradient) => gradient)) {
      inputGradients(node, dys, wanted).forEach((dx, i) => accumulate(gradients, node.inputs[wanted[i]], dx, dy));
    }
    forget(node);
    for (const gradient of dys) if (gradient !== dy) gradient?.dispose();
  }
  return gradients;
}

/** Ids of all that depends on `xs`. */
function reachedFrom(tape: TapeNode[], xs: tf.Tensor[]): Set<number> {
  const reached = new Set(xs.map(({ id }) => id));
  for (const { inputs, outputs } of tape) {
    if (Object.values(inputs).some(({ id }) => reached.has(id))) for (const { id } of outputs) reached.add(id);
  }
  return reached;
}

/** Gradients by the wanted inputs, each a tensor of its own. */
function inputGradients(node: TapeNode, dys: (tf.Tensor | undefined)[], wanted: string[]): tf.Tensor[] {
  const gradient = node.gradient as Gradient | undefined;
  if (!gradient) throw new Error(`The operation ${node.kernelName} has no gradient.`);
  return tf.tidy(() => {
    const functions = gradient(orZeros(dys, node.outputs), wanted);
    const others = new Set([...dys, ...node.saved!]);
    return wanted.map((name) => {
      let dx = tf.tidy(() => functions[name]());
      const { shape } = node.inputs[name];
      if (!tf.util.arraysEqual(dx.shape, shape)) {
        throw new Error(`The gradient of ${node.kernelName} by ${name} is [${dx.shape}], wanted [${shape}].`);
      }
      if (others.has(dx)) dx = dx.clone(); // The other is disposed of on its own.
      others.add(dx);
      return dx;
    });
  });
}

/** The gradients by a node's outputs; where nothing depends on an output, zeros, made when somebody looks. */
function orZeros(dys: (tf.Tensor | undefined)[], outputs: tf.Tensor[]): tf.Tensor[] {
  const all: tf.Tensor[] = [];
  for (const [i, { shape }] of outputs.entries()) {
    Object.defineProperty(all, i, { get: () => dys[i] ?? zeros(shape), enumerable: true });
  }
  return all;
}

function accumulate(gradients: Map<number, tf.Tensor>, x: tf.Tensor, dx: tf.Tensor, given: tf.Tensor): void {
  const before = gradients.get(x.id);
  gradients.set(x.id, before ? tf.add(before, dx) : dx);
  if (!before) return;
  dx.dispose();
  if (before !== given) before.dispose();
}

/** Let go of what a node saved. */
function forget(node: TapeNode): void {
  tf.dispose(node.saved ?? []);
  node.saved = [];
}
