// A model as it is with its adapters merged in, one tensor at a time: no second model is ever there.

import type { Model } from "../models/decoder.ts";
import { type Linear, mergedWeight } from "../models/layers.ts";
import { type CheckpointTensor, checkpointTensors, linearSlots } from "../models/weights.ts";

/** The checkpoint's tensors, those with adapters as weight + scale * B * A. The model stays as it is. */
export function mergedTensors(model: Model): CheckpointTensor[] {
  const adapted = new Map(
    linearSlots(model)
      .filter(({ linear }) => linear.lora)
      .map(({ name, linear }) => [`${name}.weight`, linear]),
  );
  return checkpointTensors(model).map((tensor) => {
    const linear = adapted.get(tensor.name);
    return linear ? { ...tensor, values: () => mergedValues(linear) } : tensor;
  });
}

async function mergedValues(linear: Linear): Promise<Float32Array> {
  const merged = mergedWeight(linear);
  try {
    return (await merged.data()) as Float32Array;
  } finally {
    merged.dispose();
  }
}
