// Balancing the experts' load without a loss for it (DeepSeek-V3, section 2.1.2), as part of a step.

import { balanceExperts, expertLoads } from "../engine/ops/balanceExperts.ts";
import * as tf from "../engine/tf.ts";
import type { Model } from "../models/decoder.ts";
import type { Moe, RouteObserver } from "../models/moe.ts";

/** Collects, during the passes of a step, which experts were chosen. */
export interface LoadBalancing {
  onRoute: RouteObserver;
  /**
   * Move every router's bias, in place, by `speed` [1]: up for experts with less than the mean load, down for the others.
   * Returns, for each layer that was passed through, the load of its busiest expert over the mean load: [].
   */
  apply: (speed: tf.Tensor) => tf.Tensor[];
}

export function balanceLoads(model: Model): LoadBalancing {
  const chosenBy = new Map<number, tf.Tensor[]>();
  return {
    onRoute: (layer, chosen) => {
      chosenBy.set(layer, [...(chosenBy.get(layer) ?? []), tf.keep(chosen.clone())]);
    },
    apply(speed) {
      const worst = [...chosenBy].map(([layer, chosen]) => {
        const { mlp } = model.layers[layer] ?? model.mtp[layer - model.layers.length].layer;
        const { eScoreCorrectionBias: bias } = mlp as Moe; // No other layer routes.
        return tf.tidy(() => {
          const last = chosen.at(-1)!;
          const before = chosen
            .slice(0, -1)
            .reduce<tf.Tensor | null>((loads, one) => expertLoads(one, bias.size, loads), null);
          return balanceExperts(bias, last, before, speed);
        });
      });
      tf.dispose([...chosenBy.values()]);
      chosenBy.clear();
      return worst;
    },
  };
}
