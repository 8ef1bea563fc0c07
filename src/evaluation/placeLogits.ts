// What a model says at every place of a sequence.

import * as tf from "../engine/tf.ts";
import { hiddenStates, logits, type Model } from "../models/decoder.ts";

/** The logits behind each of T tokens, [T, V] row by row. All are held at once: for small vocabularies. */
export async function placeLogits(model: Model, ids: number[]): Promise<Float32Array> {
  const all = tf.tidy(() => {
    const h = hiddenStates(model, { ids: tf.tensor2d([ids], undefined, "int32") }); // [1, T, D]
    return logits(model, h.reshape([ids.length, h.shape[2]!]));
  });
  const values = (await all.data()) as Float32Array;
  all.dispose();
  return values;
}
