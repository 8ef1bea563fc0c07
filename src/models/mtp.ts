// Multi-token prediction (DeepSeek-V3, section 2.2): each further layer predicts the tokens one place further ahead.

import { add } from "../engine/ops/add.ts";
import { join } from "../engine/ops/join.ts";
import { takeRows } from "../engine/ops/takeRows.ts";
import * as tf from "../engine/tf.ts";
import { type ForwardOptions, type LossInput, lossOf, type Model, placeOf, throughLayer } from "./decoder.ts";
import { linear, norm } from "./layers.ts";

/**
 * The sum of the weighted losses of the multi-token prediction layers, nats. h: hidden states of the main model after its
 * final norm [B, T, D]; `input.ahead` has what each layer sees and predicts.
 *
 * Layer k takes z[t] = eh_proj([enorm(E[ids[t+k]]); hnorm(h[t])]) (embedding first, as released checkpoints have it; eq. 21),
 * with h of the layer before it (eq. 22), and predicts through the shared head (eq. 23).
 */
export function mtpLoss(
  model: Model,
  h: tf.Tensor,
  input: LossInput & Required<Pick<LossInput, "ahead">>,
  options: ForwardOptions = {},
): tf.Scalar {
  const { rmsNormEps: eps } = model.config;
  const place = placeOf(input);
  let before = h;
  const losses = model.mtp.map(({ enorm, hnorm, ehProj, layer, sharedHeadNorm }, k) => {
    const { ids, ...rows } = input.ahead[k];
    const embedded = norm(enorm, takeRows(model.embedTokens, ids), eps);
    const z = linear(ehProj, join(embedded, norm(hnorm, before, eps))); // [B, T, D]
    before = throughLayer(model, layer, model.layers.length + k, z, place, options);
    return lossOf(model, sharedHeadNorm, before, { ...rows, targets: input.targets });
  });
  return losses.reduce((sum, loss) => add(sum, loss) as tf.Scalar);
}
