// The law of packed rows: sequences side by side in one row compute what each computes alone, values and gradients.

import { describe, expect, it } from "vitest";
import { valueAndGradients } from "../../src/engine/gradients.ts";
import { takeRows } from "../../src/engine/ops/takeRows.ts";
import * as tf from "../../src/engine/tf.ts";
import { decoderLayer, type Model } from "../../src/models/decoder.ts";
import { disposeModel, namedWeights } from "../../src/models/weights.ts";
import { normal, toTensor, useBackend } from "../engine/harness.ts";
import { expectNear, FAMILIES, tinyIds, tinyModel } from "./tiny.ts";

const LENGTHS = [5, 1, 9];
const T = LENGTHS.reduce((sum, length) => sum + length, 0);

/** What the layers make of one row that holds these sequences: [T, D]. */
function layersOf(model: Model, sequences: number[][]): tf.Tensor {
  const starts = sequences.flatMap((ids, i) => ids.map(() => sequences.slice(0, i).flat().length));
  const row = (values: number[]) => tf.tensor2d([values], undefined, "int32");
  const place = { positions: row(starts.map((start, t) => t - start)), starts: row(starts) };
  let x: tf.Tensor = takeRows(model.embedTokens as tf.Tensor, row(sequences.flat()));
  for (const layer of model.layers) x = decoderLayer(layer, x, model, place);
  return x.reshape([-1, x.shape[2]!]);
}

describe.each(["cpu", "wasm"] as const)("on %s", (backend) => {
  useBackend(backend);

  it.each(FAMILIES)("a packed row of %s gives what its sequences give alone", (family) => {
    const model = tinyModel(family);
    const sequences = tinyIds(model, LENGTHS);
    const leaves = namedWeights(model).filter(({ name }) => name.includes("self_attn") || name.includes("embed"));
    const factors = toTensor(normal([T, model.config.hiddenSize], 3));
    const compute = (parts: number[][][]) =>
      tf.tidy(() => {
        const { value, gradients } = valueAndGradients(
          () =>
            tf
              .concat(parts.map((part) => layersOf(model, part)))
              .mul(factors)
              .sum() as tf.Scalar,
          leaves.map(({ tensor }) => tensor),
        );
        const outputs = tf.concat(parts.map((part) => layersOf(model, part)));
        return [outputs, value, ...gradients].map((tensor) => tensor.dataSync().slice());
      });
    const packed = compute([sequences]);
    const alone = compute(sequences.map((ids) => [ids]));
    expect(packed[0].length).toBe(T * model.config.hiddenSize);
    alone.forEach((want, i) => expectNear(packed[i], want, 2e-5));
    disposeModel(model);
  });
});
