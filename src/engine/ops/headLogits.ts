// The scores of all words, for the few rows that a next token is chosen for.

import { allocate } from "../launch.ts";
import { defineOp, hasKernel, type Inputs, runOp } from "../op.ts";
import * as tf from "../tf.ts";
import { make } from "../wasm/heap.ts";
import { checkHead, layoutOf } from "./head.ts";
import { linear } from "./linear.ts";
import { multiplyAll, multiplyOnHeap, type Product } from "./matmul.ts";
import { plainTable, type Table, type TableAttributes, tableAttributes, tableInputs } from "./table.ts";

/** h: [M, D], head: [V, D] -> [M, V]. A head in parts has no gradient. */
export function headLogits(h: tf.Tensor, head: Table): tf.Tensor {
  checkHead("headLogits", h, head);
  if (!Array.isArray(head)) return linear(h, head);
  if (!hasKernel("HeadLogits")) return tf.matMul(h, plainTable(head), false, true);
  return runOp("HeadLogits", { h, ...tableInputs(head) }, tableAttributes(head));
}

defineOp<TableAttributes>({
  name: "HeadLogits",
  wasm: (inputs, attributes) => {
    const { logits, products } = partProducts(inputs, attributes, make);
    multiplyOnHeap(products);
    return logits;
  },
  webgpu: (inputs, attributes) => {
    const { logits, products } = partProducts(inputs, attributes, allocate);
    multiplyAll(products);
    return logits;
  },
});

/** Each part gives some columns of the logits. */
function partProducts(inputs: Inputs, attributes: TableAttributes, allocated: (shape: number[]) => tf.TensorInfo) {
  const { parts, V, D } = layoutOf(inputs, attributes);
  const M = inputs.h.shape[0];
  const logits = allocated([M, V]);
  const products = parts.map(({ tensor, format, rows, start }): Product => {
    const columns = { cStart: start, cStride: V };
    const sizes = { M, N: rows, K: D, transposeA: false, transposeB: true };
    return { a: inputs.h, b: tensor, format: format ?? undefined, c: logits, ...sizes, ...columns };
  });
  return { logits, products };
}
