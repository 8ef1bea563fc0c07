// Multi-token prediction (DeepSeek-V3, section 2.2): a further layer predicts the token after the next.

import { takeRows } from "../engine/ops/takeRows.ts";
import * as tf from "../engine/tf.ts";
import { decoderLayer, type LossInput, lossOf, type Model, rowPositions } from "./decoder.ts";
import { linear, norm } from "./layers.ts";

/**
 * Loss of the first MTP module, nats. h: hidden states of the main model after its final norm [B, T, D]; `input.ids`
 * are the batch's tokens [B, T]; positions, targets and weights say which hidden states predict which tokens two ahead.
 *
 * z[t] = eh_proj([enorm(E[ids[t+1]]); hnorm(h[t])]) (embedding first, as released checkpoints have it), then a layer.
 * The last position of a row has no next token: it sees its own, and should carry no weight.
 */
export function mtpLoss(model: Model, h: tf.Tensor, input: LossInput): tf.Scalar {
  const [module] = model.mtp;
  if (!module) throw new Error("The model has no multi-token prediction layer (num_nextn_predict_layers is 0).");
  const { rmsNormEps: eps } = model.config;
  const [B, T] = input.ids.shape as [number, number];
  const next = tf.concat([input.ids.slice([0, 1], [B, T - 1]), input.ids.slice([0, T - 1], [B, 1])], 1); // [B, T]
  const embedded = norm(module.enorm, takeRows(model.embedTokens, next), eps);
  const joined = linear(module.ehProj, tf.concat([embedded, norm(module.hnorm, h, eps)], -1)); // [B, T, D]
  const out = norm(
    module.sharedHeadNorm,
    decoderLayer(module.layer, joined, model, { positions: rowPositions([B, T]) }),
    eps,
  );
  return lossOf(model, out, input);
}
