// Low-rank adaptation (Hu et al., 2021): attaching adapters to linear maps, taking them off, merging them in.

import { randomBits } from "../engine/random.ts";
import * as tf from "../engine/tf.ts";
import { type Adapter, adapterScale } from "../formats/peftAdapter.ts";
import type { Model } from "../models/decoder.ts";
import { type Lora, mergedWeight } from "../models/layers.ts";
import { plainTensor } from "../models/storage.ts";
import { linearSlots, type NamedTensor } from "../models/weights.ts";

export interface LoraSettings {
  rank: number;
  /** The adapter's output is scaled by alpha / rank. */
  alpha: number;
  seed: number;
  /** Module names to adapt, e.g. ["q_proj", "v_proj"]; all that can be, if not given. */
  targets?: string[];
}

/**
 * Put a fresh adapter on every linear map of attention, dense FFN and shared experts (the model changes in place).
 *
 * A is uniform in ±1 / sqrt(in) (PyTorch's Kaiming-uniform with a = sqrt(5), as PEFT initialises), B is zero:
 * the model computes what it did before. Routed experts and the router stay as they are.
 */
export function attachLora(model: Model, { rank, alpha, seed, targets }: LoraSettings): void {
  linearSlots(model).forEach(({ name, linear }, stream) => {
    if (targets && !targets.includes(name.slice(name.lastIndexOf(".") + 1))) return;
    if (linear.lora) throw new Error(`${name} has an adapter already: merge it or take it off first.`);
    const [out, width] = linear.weight.shape as [number, number];
    const bound = 1 / Math.sqrt(width);
    const a = Float32Array.from(
      { length: rank * width },
      (_, i) => (randomBits(seed, stream, i) / 2 ** 31 - 1) * bound,
    );
    linear.lora = { a: tf.tensor2d(a, [rank, width]), b: tf.zeros([out, rank]), scale: alpha / rank };
  });
}

/** The adapters' tensors under PEFT's names (without its prefix): what a LoRA stage trains. */
export function loraTensors(model: Model): NamedTensor[] {
  return linearSlots(model).flatMap(({ name, linear: { lora } }) =>
    lora
      ? [
          { name: `${name}.lora_A.weight`, tensor: lora.a },
          { name: `${name}.lora_B.weight`, tensor: lora.b },
        ]
      : [],
  );
}

/**
 * Add every adapter into its weight and take it off. The model computes the same, up to rounding.
 *
 * Throws if the base is stored small: a sum with an adapter would lose in the blocks what was learned.
 */
export function mergeLora(model: Model): void {
  for (const { name, linear } of linearSlots(model)) {
    if (!linear.lora) continue;
    const base = plainTensor(`The base of the adapter on ${name}`, linear.weight);
    linear.weight = mergedWeight(linear);
    base.dispose();
    dropAdapter(linear);
  }
}

/** Take every adapter off: the model computes what it did before they were attached. */
export function detachLora(model: Model): void {
  for (const { linear } of linearSlots(model)) dropAdapter(linear);
}

function dropAdapter(linear: { lora?: Lora }): void {
  if (!linear.lora) return;
  tf.dispose([linear.lora.a, linear.lora.b]);
  delete linear.lora;
}

/** The adapters as plain values, e.g. to write PEFT's files. Throws if the model has none. */
export async function adapterOf(model: Model, baseModel: string): Promise<Adapter> {
  const modules: Adapter["modules"] = new Map();
  let scale = 0;
  let rank = 0;
  for (const { name, linear } of linearSlots(model)) {
    if (!linear.lora) continue;
    const { a, b } = linear.lora;
    const [out, width] = linear.weight.shape as [number, number];
    [scale, rank] = [linear.lora.scale, a.shape[0]];
    modules.set(name, {
      a: (await a.data()) as Float32Array,
      b: (await b.data()) as Float32Array,
      in: width,
      out,
    });
  }
  if (modules.size === 0) throw new Error("The model has no adapters. Attach and train them first.");
  return { rank, alpha: scale * rank, rsLora: false, baseModel, modules };
}

/** Put the adapters of a PEFT file on the model. Throws if a module is not the model's or does not fit. */
export function attachAdapter(model: Model, adapter: Adapter): void {
  const slots = new Map(linearSlots(model).map(({ name, linear }) => [name, linear]));
  for (const [name, pair] of adapter.modules) {
    const linear = slots.get(name);
    const shape = linear?.weight.shape;
    if (!linear || shape?.[0] !== pair.out || shape[1] !== pair.in) {
      throw new Error(
        `The adapter's ${name} maps ${pair.in} to ${pair.out} values; the model ${shape ? `has ${shape[1]} to ${shape[0]} there` : "has no such module"}. ` +
          "Load the base model that the adapter was trained on.",
      );
    }
    if (linear.lora) throw new Error(`${name} has an adapter already: merge it or take it off first.`);
    linear.lora = {
      a: tf.tensor2d(pair.a, [adapter.rank, pair.in]),
      b: tf.tensor2d(pair.b, [pair.out, adapter.rank]),
      scale: adapterScale(adapter),
    };
  }
}
