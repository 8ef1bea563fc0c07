// How an operation of ours is made known to TensorFlow.js: a kernel per backend and a gradient, under one name.

import * as tf from "./tf.ts";
import { endOfOperation } from "./wasm/heap.ts";

/** Named inputs as kernels see them: plain descriptions of tensors, no tape. */
export type Inputs = Record<string, tf.TensorInfo>;

export interface OpDefinition<A extends object> {
  name: string;
  /** Inputs that the gradient needs, by name, in the order in which it gets them. */
  saves?: string[];
  /** Outputs that the gradient needs after them. */
  savesOutputs?: boolean[];
  wasm?: (inputs: Inputs, attributes: A) => tf.TensorInfo | tf.TensorInfo[];
  webgpu?: (inputs: Inputs, attributes: A) => tf.TensorInfo | tf.TensorInfo[];
  /**
   * Gradient for each input, as functions that are called only for inputs on the way to what is differentiated.
   * What several inputs share is computed before they are returned: a function's other tensors are disposed of.
   */
  gradient?: (dy: tf.Tensor[], saved: tf.Tensor[], attributes: A) => Record<string, () => tf.Tensor>;
}

/** Names of the operations that can be recorded: ours, and those that change no content. */
const recordable = new Set<string>([tf.Identity, tf.Reshape, tf.ExpandDims]);

export function isRecordable(name: string): boolean {
  return recordable.has(name);
}

type Gradient = NonNullable<OpDefinition<object>["gradient"]>;

/** Of operations of ours. */
const gradients = new Map<string, Gradient>();

/** Register the operation once; `hasKernel` tells afterwards whether the active backend can run it. */
export function defineOp<A extends object>(op: OpDefinition<A>): void {
  recordable.add(op.name);
  const { webgpu, wasm } = op;
  const kernels = {
    webgpu,
    wasm:
      wasm &&
      ((inputs: Inputs, attributes: A) => {
        const outputs = wasm(inputs, attributes);
        endOfOperation();
        return outputs;
      }),
  };
  for (const backendName of ["wasm", "webgpu"] as const) {
    const kernel = kernels[backendName];
    if (!kernel) continue;
    tf.registerKernel({
      kernelName: op.name,
      backendName,
      kernelFunc: ({ inputs, attrs }) => kernel(inputs as Inputs, attrs as unknown as A),
    });
  }
  const gradient = op.gradient;
  if (!gradient) return;
  gradients.set(op.name, gradient as Gradient);
  tf.registerGradient({
    kernelName: op.name,
    inputsToSave: op.saves ?? [],
    outputsToSave: op.savesOutputs ?? [],
    gradFunc: (dy, saved, attrs) => gradient(Array.isArray(dy) ? dy : [dy], saved, attrs as unknown as A),
  });
}

/** Whether the active backend has a kernel of ours; otherwise the definition in plain operations runs. */
export function hasKernel(name: string): boolean {
  return tf.getKernel(name, tf.getBackend()) != null;
}

/** Run an operation with one output on the active backend, on the tape. */
export function runOp(name: string, inputs: tf.NamedTensorMap, attributes: object = {}): tf.Tensor {
  return runKernel(name, inputs, attributes) as tf.Tensor;
}

/** Run an operation with several outputs on the active backend, on the tape. */
export function runOps(name: string, inputs: tf.NamedTensorMap, attributes: object = {}): tf.Tensor[] {
  return runKernel(name, inputs, attributes) as tf.Tensor[];
}

/**
 * TensorFlow.js would call the gradient with zeros made for each output that nothing depends on; ours is called as it is,
 * and makes them when it looks at one.
 */
function runKernel(name: string, inputs: tf.NamedTensorMap, attributes: object): tf.Tensor | tf.Tensor[] {
  const outputs = tf.engine().runKernel(name, inputs, attributes as tf.NamedAttrMap) as tf.Tensor | tf.Tensor[];
  const node = tf.engine().state.activeTape?.at(-1);
  const gradient = gradients.get(name);
  if (gradient && node?.outputs[0] === [outputs].flat()[0]) {
    node.gradient = (dys) => gradient(dys, node.saved!, attributes);
  }
  return outputs;
}
