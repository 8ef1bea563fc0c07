// Prunable units as columns of the matrices that write to the residual stream: what a gate on a unit multiplies.

import * as tf from "../../src/engine/tf.ts";
import { headCount } from "../../src/loar/importance.ts";
import type { Model } from "../../src/models/decoder.ts";

export interface Unit {
  layer: number;
  kind: "heads" | "channels" | "experts" | "expertChannels" | "attention" | "ffn" | "layer";
  /** Which of its kind; with grouped queries, which key-value group. */
  index: number;
  /** Of expert `index`. */
  channel?: number;
}

type Holder = { weight: tf.Tensor };

/** The columns that the unit's output passes through, by matrix. */
export function columnsOf(
  model: Model,
  { layer, kind, index, channel }: Unit,
): { holder: Holder; columns: number[] }[] {
  const { selfAttn, mlp } = model.layers[layer];
  const output = selfAttn.oProj as Holder;
  const dense = (mlp.kind === "dense" ? mlp.downProj : mlp.sharedExperts?.downProj) as Holder | undefined;
  const routed = mlp.kind === "experts" ? expertsHolder(mlp.experts as { down: tf.Tensor }) : null;
  const offsets = mlp.kind === "experts" ? mlp.experts.offsets : [];
  const all = (holder: Holder) => ({ holder, columns: range(0, holder.weight.shape[1]!) });
  const ffn = [dense, routed].filter((holder) => holder != null).map(all);
  const perHead = output.weight.shape[1]! / headCount(model.layers[layer], model);
  switch (kind) {
    case "heads":
      return [{ holder: output, columns: range(index * perHead, (index + 1) * perHead) }];
    case "channels":
      return [{ holder: dense!, columns: [index] }];
    case "experts":
      return [{ holder: routed!, columns: range(offsets[index], offsets[index + 1]) }];
    case "expertChannels":
      return [{ holder: routed!, columns: [offsets[index] + channel!] }];
    case "attention":
      return [all(output)];
    case "ffn":
      return ffn;
    case "layer":
      return [all(output), ...ffn];
  }
}

/** Multiply the unit's output by `factor` (0 silences it). The model changes in place. */
export function scaleColumns(model: Model, unit: Unit, factor: number): void {
  for (const { holder, columns } of columnsOf(model, unit)) {
    const old = holder.weight;
    const gone = new Set(columns);
    const mask = Float32Array.from({ length: old.shape[1]! }, (_, c) => (gone.has(c) ? factor : 1));
    holder.weight = tf.tidy(() => old.mul(tf.tensor1d(mask)));
    old.dispose();
  }
}

/** The experts' stacked down projection under the name that linear maps have. */
function expertsHolder(experts: { down: tf.Tensor }): Holder {
  return {
    get weight() {
      return experts.down;
    },
    set weight(weight) {
      experts.down = weight;
    },
  };
}

export function range(from: number, to: number): number[] {
  return Array.from({ length: to - from }, (_, i) => from + i);
}
