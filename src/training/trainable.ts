// Which weights gradients may move.

import type { Model } from "../models/decoder.ts";
import { type NamedTensor, namedWeights } from "../models/weights.ts";

/**
 * Every weight but the routers' balancing biases; those of the multi-token prediction layers only with `mtp`, where their
 * loss is asked for: without it weight decay would only wear them down.
 */
export function trainableWeights(model: Model, mtp = false): NamedTensor[] {
  const depth = model.layers.length;
  return namedWeights(model).filter(({ name }) => {
    const layer = /^model\.layers\.(\d+)\./.exec(name);
    return !name.endsWith("e_score_correction_bias") && (mtp || !layer || Number(layer[1]) < depth);
  });
}
