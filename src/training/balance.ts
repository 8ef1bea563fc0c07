// Balancing the experts' load without a loss for it (DeepSeek-V3, section 2.1.2).

import * as tf from "../engine/tf.ts";
import type { Model } from "../models/decoder.ts";

/** Collects, during a step, which experts were chosen. */
export interface LoadObserver {
  onRoute: (layer: number, chosen: tf.Tensor) => void;
  /** Move every router's bias by `speed`, up for experts with less than the mean load, down for the others. */
  apply: (model: Model, speed: number) => Promise<number>;
}

export function observeLoad(): LoadObserver {
  const chosenBy = new Map<number, tf.Tensor>();
  return {
    onRoute: (layer, chosen) => {
      chosenBy.get(layer)?.dispose();
      chosenBy.set(layer, tf.keep(chosen.clone()));
    },
    async apply(model, speed) {
      let worst = 0;
      for (const [index, chosen] of chosenBy) {
        const { mlp } = model.layers[index];
        if (mlp.kind !== "experts") continue;
        const load = expertLoad(await chosen.data(), mlp.gate.weight.shape[0]);
        chosen.dispose();
        const mean = load.reduce((sum, count) => sum + count, 0) / load.length;
        worst = Math.max(worst, Math.max(...load) / mean);
        const moved = tf.tidy(() =>
          mlp.eScoreCorrectionBias.add(tf.tensor1d(load.map((count) => speed * Math.sign(mean - count)))),
        );
        mlp.eScoreCorrectionBias.dispose();
        mlp.eScoreCorrectionBias = moved;
      }
      chosenBy.clear();
      return worst;
    },
  };
}

/** How many tokens each expert got. */
export function expertLoad(chosen: ArrayLike<number>, experts: number): number[] {
  const load = Array.from({ length: experts }, () => 0);
  for (let i = 0; i < chosen.length; i++) load[chosen[i]] += 1;
  return load;
}
