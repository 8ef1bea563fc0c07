import { describe, expect, it } from "vitest";
import { valueAndGradients } from "../../src/engine/gradients.ts";
import * as tf from "../../src/engine/tf.ts";
import { languageModelLoss, type Model } from "../../src/models/decoder.ts";
import { disposeModel, namedWeights } from "../../src/models/weights.ts";
import { loraTensors } from "../../src/training/lora.ts";
import { lossInput } from "../../src/training/loss.ts";
import { activate } from "../engine/harness.ts";
import { attachRandomLora, expectNoLeak, FAMILIES, tinyBatch, tinyModel } from "./tiny.ts";

/** Contents of the loss and of every gradient, as bits, and the most bytes that tensors took on the way. */
async function gradientsOf(model: Model, leaves: tf.Tensor[], recompute: boolean) {
  const { state } = tf.engine();
  const before = state.numBytes;
  const seen: number[] = [];
  let peakBytes = 0;
  const runKernel = tf.engine().runKernel.bind(tf.engine());
  tf.engine().runKernel = ((name, inputs, attributes) => {
    const y = runKernel(name, inputs, attributes);
    peakBytes = Math.max(peakBytes, state.numBytes - before);
    return y;
  }) as typeof runKernel;
  const onRoute = (layer: number) => seen.push(layer);
  const { value, gradients } = tf.tidy(() => {
    const input = lossInput(tinyBatch(model, 5, [33, 30]));
    return valueAndGradients(() => languageModelLoss(model, input, { recompute, onRoute }), leaves);
  });
  delete (tf.engine() as Partial<ReturnType<typeof tf.engine>>).runKernel; // The class's own is back.
  const bits = [];
  for (const tensor of [value, ...gradients]) bits.push([...new Int32Array((await tensor.data()).slice().buffer)]);
  tf.dispose([value, ...gradients]);
  return { bits, peakBytes, seen };
}

describe.each(FAMILIES)("recomputed layers of %s", (family) => {
  it.each([
    ["wasm", "every weight"],
    ["wasm", "adapters"],
    ["webgpu", "adapters"],
  ] as const)(
    "on %s, training %s, give the same loss and gradients, bit for bit, in less memory",
    async (backend, what) => {
      await activate(backend);
      const model = tinyModel(family, { num_hidden_layers: 6 });
      if (what === "adapters") attachRandomLora(model);
      const named = what === "adapters" ? loraTensors(model) : namedWeights(model);
      const leaves = named.filter(({ name }) => !name.endsWith("e_score_correction_bias")).map(({ tensor }) => tensor);
      await expectNoLeak(async () => {
        const remembered = await gradientsOf(model, leaves, false);
        const recomputed = await gradientsOf(model, leaves, true);
        expect(recomputed.bits).toEqual(remembered.bits);
        expect(recomputed.seen).toEqual(remembered.seen); // Routes are seen once.
        if (backend === "wasm") expect(recomputed.peakBytes).toBeLessThan(0.7 * remembered.peakBytes);
      });
      disposeModel(model);
    },
  );
});
