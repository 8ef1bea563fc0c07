import { describe, expect, it } from "vitest";
import { makeBatch, weightOf } from "../../src/data/batches.ts";
import * as tf from "../../src/engine/tf.ts";
import type { Model } from "../../src/models/decoder.ts";
import { disposeModel, namedWeights } from "../../src/models/weights.ts";
import type { Batch, Example } from "../../src/protocol/data.ts";
import { lossAndGradients } from "../../src/training/accumulate.ts";
import { lossInput } from "../../src/training/loss.ts";
import { useBackend } from "../engine/harness.ts";
import { expectNear, expectNoLeak, FAMILIES, tinyIds, tinyModel } from "../models/tiny.ts";

/**
 * Rows of which the first train many tokens and the last few; long enough that products take the same way through one row
 * as through all of them, so that only sums over rows come in another order.
 */
function examples(model: Model): Example[] {
  return tinyIds(model, [21, 21, 21, 21, 21, 21]).map((ids, row) => {
    return { ids: Int32Array.from(ids), weights: Float32Array.from(ids, (_, t) => (t > row + 1 ? 1 : 0)) };
  });
}

/** Sums in another order: some ten roundings of 1.2e-7, as a part of the largest. */
const TOLERANCE = 3e-6;

const batch = (rows: Example[], totalWeight?: number): Batch =>
  makeBatch(rows, { lengthMultiple: 4, positionMultiple: 8, maxLength: 64, totalWeight });

describe.each(FAMILIES)("several batches of %s", (family) => {
  useBackend("wasm");

  it.each([
    [2, [3, 3]],
    [3, [1, 2, 3]],
    [6, [1, 1, 1, 1, 1, 1]],
  ])("%i of them have the loss and the gradients of one of all their rows", async (_, sizes) => {
    const model = tinyModel(family);
    const leaves = namedWeights(model)
      .filter(({ name }) => !name.endsWith("e_score_correction_bias"))
      .map(({ tensor }) => tensor);
    await expectNoLeak(() => {
      const rows = examples(model);
      const whole = tf.tidy(() => lossAndGradients(model, [lossInput(batch(rows))], leaves));
      let from = 0;
      const parts = sizes.map((size) => batch(rows.slice(from, (from += size)), weightOf(rows)));
      const split = tf.tidy(() =>
        lossAndGradients(
          model,
          parts.map((part) => lossInput(part)),
          leaves,
        ),
      );
      expectNear(split.value.dataSync(), whole.value.dataSync(), TOLERANCE);
      split.gradients.forEach((gradient, i) =>
        expectNear(gradient.dataSync() as Float32Array, whole.gradients[i].dataSync() as Float32Array, TOLERANCE),
      );
      expect(split.gradients.length).toBe(leaves.length);
      tf.dispose([whole, split]);
    });
    disposeModel(model);
  });
});
