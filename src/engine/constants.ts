// Small tensors of fixed content, made once per backend and shared: a step that is recorded may read them.

import * as tf from "./tf.ts";

const made = new WeakMap<tf.KernelBackend, Map<string, tf.TensorInfo>>();

/** A tensor of this content, which nobody may change in place. Disposing of it leaves the content for the next one. */
export function constantTensor(
  values: ArrayLike<number>,
  shape: number[],
  dtype: "float32" | "int32" = "float32",
): tf.Tensor {
  const backend = tf.backend();
  let own = made.get(backend);
  if (!own) made.set(backend, (own = new Map()));
  const key = `${dtype}[${shape}]${Array.from(values).join()}`;
  let info = own.get(key);
  if (!info) {
    const content = dtype === "int32" ? Int32Array.from(values) : Float32Array.from(values);
    own.set(key, (info = { dataId: backend.write(content, shape, dtype), shape, dtype }));
  }
  backend.incRef(info.dataId);
  return tf.engine().makeTensorFromTensorInfo(info, backend);
}
