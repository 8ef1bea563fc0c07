// Kernels of TensorFlow.js's wasm backend that training meets all the time and that copy more than they need, replaced:
// Identity copies every tensor that is saved for a gradient; SplitV reads its whole input into JavaScript for each part.

import "@tensorflow/tfjs-backend-wasm"; // Registers its kernels, before ours take their places.
import type { BackendWasm } from "@tensorflow/tfjs-backend-wasm";
import * as tf from "../tf.ts";
import { at, cpu, make, run } from "./heap.ts";

/**
 * A clone shares its tensor's memory, as on the other backends. Whoever changes a tensor in place (adamW, addInto)
 * changes its clones with it.
 */
const identity: tf.KernelFunc = ({ inputs, backend }) => {
  const { dataId, shape, dtype } = inputs.x!;
  (backend as BackendWasm).incRef(dataId);
  return { dataId, shape, dtype };
};

/** x: [..., n, ...] -> parts of it along `axis`, each copied row by row on the heap. */
function splitV(stock: tf.KernelFunc): tf.KernelFunc {
  return (call) => {
    const x = call.inputs.x!;
    const { numOrSizeSplits, axis } = call.attrs as unknown as tf.SplitVAttrs;
    if (!hasWords(x)) return stock(call);
    const [split] = tf.util.parseAxisParam(axis, x.shape);
    const sizes = tf.backend_util.prepareSplitSize(x, numOrSizeSplits, split);
    const rows = tf.util.sizeFromShape(x.shape.slice(0, split));
    const inner = tf.util.sizeFromShape(x.shape.slice(split + 1));
    const width = x.shape[split] * inner;
    let from = at(x);
    return sizes.map((size) => {
      const part = make([...x.shape.slice(0, split), size, ...x.shape.slice(split + 1)], x.dtype);
      const [source, to] = [from, at(part)];
      run(() => cpu().copyRows(source, width, to, size * inner, rows, size * inner));
      from += size * inner * 4;
      return part;
    });
  };
}

/** Parts [..., n, ...] -> one tensor, side by side along `axis`. */
function concat(stock: tf.KernelFunc): tf.KernelFunc {
  return (call) => {
    const parts = Object.values(call.inputs) as tf.TensorInfo[];
    if (!parts.every(hasWords)) return stock(call);
    const [axis] = tf.util.parseAxisParam((call.attrs as unknown as tf.ConcatAttrs).axis, parts[0].shape);
    const shapes = parts.map(({ shape }) => shape);
    tf.backend_util.assertParamsConsistent(shapes, axis);
    const whole = make(tf.backend_util.computeOutShape(shapes, axis), parts[0].dtype);
    const rows = tf.util.sizeFromShape(whole.shape.slice(0, axis));
    const width = tf.util.sizeFromShape(whole.shape.slice(axis));
    let to = at(whole);
    for (const part of parts) {
      const own = tf.util.sizeFromShape(part.shape.slice(axis));
      const [from, target] = [at(part), to];
      run(() => cpu().copyRows(from, own, target, width, rows, own));
      to += own * 4;
    }
    return whole;
  };
}

/** Whether its elements have four bytes: booleans have one, strings are not on the heap. */
function hasWords(x: tf.TensorInfo): x is tf.TensorInfo & { dtype: "float32" | "int32" } {
  return x.dtype === "float32" || x.dtype === "int32";
}

function replace(kernelName: string, by: (stock: tf.KernelFunc) => tf.KernelFunc): void {
  const { kernelFunc, ...rest } = tf.getKernel(kernelName, "wasm");
  tf.unregisterKernel(kernelName, "wasm");
  tf.registerKernel({ ...rest, kernelFunc: by(kernelFunc) });
}

replace(tf.Identity, (stock) => (call) => (hasWords(call.inputs.x!) ? identity(call) : stock(call)));
replace(tf.SplitV, splitV);
replace(tf.Concat, concat);
