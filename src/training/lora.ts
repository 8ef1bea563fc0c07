// Low-rank adaptation (Hu et al., 2021): attaching adapters to linear maps, taking them off, merging them in.

import { randomBits } from "../engine/random.ts";
import * as tf from "../engine/tf.ts";
import { type Adapter, adapterScale, type LoraPair } from "../formats/peftAdapter.ts";
import { patternValues, targetsOf } from "../formats/peftTargets.ts";
import type { Model } from "../models/decoder.ts";
import { type Linear, type Lora, mergedWeight } from "../models/layers.ts";
import { plainTensor } from "../models/storage.ts";
import { linearSlots, type NamedTensor } from "../models/weights.ts";

export interface LoraSettings {
  rank: number;
  /** The adapter's output is scaled by alpha / rank. */
  alpha: number;
  seed: number;
  /** Scale by alpha / sqrt(rank) instead, so that high ranks learn as fast as low ones (Kalajdzievski, 2023). */
  rsLora?: boolean;
  /** Module names to adapt, e.g. ["q_proj", "v_proj"], or a pattern of whole names; all that can be, if not given. */
  targets?: string[] | string;
  /** Numbers of the layers to adapt; all, if not given. */
  layers?: number[];
  /** Ranks of some modules, by what their names end with, e.g. { "layers.1.self_attn.q_proj": 2 }. */
  rankPattern?: Record<string, number>;
  /** Alphas of some modules, likewise. */
  alphaPattern?: Record<string, number>;
}

/**
 * Put a fresh adapter on linear maps of attention, dense FFN and shared experts (the model changes in place). Names are
 * matched as PEFT matches them; throws if there are none of them.
 *
 * A is uniform in ±1 / sqrt(in) (PyTorch's Kaiming-uniform with a = sqrt(5), as PEFT initialises), B is zero:
 * the model computes what it did before. Routed experts and the router stay as they are.
 */
export function attachLora(model: Model, settings: LoraSettings): void {
  const { rank, alpha, seed, rsLora = false, targets = "all-linear", layers } = settings;
  const isTarget = targetsOf({ modules: targets, layers });
  const rankOf = patternValues(settings.rankPattern ?? {});
  const alphaOf = patternValues(settings.alphaPattern ?? {});
  const slots = linearSlots(model);
  if (!slots.some(({ name }) => isTarget(name))) {
    const known = [...new Set(slots.map(({ name }) => name.slice(name.lastIndexOf(".") + 1)))];
    const where = layers ? ` in the layers ${layers.join(", ")}` : "";
    throw new Error(`No module${where} is called ${[targets].flat().join(", ")}. This model has ${known.join(", ")}.`);
  }
  slots.forEach(({ name, linear }, stream) => {
    if (!isTarget(name)) return;
    const [out, width] = linear.weight.shape as [number, number];
    const own = { rank: rankOf(name) ?? rank, alpha: alphaOf(name) ?? alpha };
    const bound = 1 / Math.sqrt(width);
    const a = Float32Array.from(
      { length: own.rank * width },
      (_, i) => (randomBits(seed, stream, i) / 2 ** 31 - 1) * bound,
    );
    putAdapter(name, linear, { ...own, a, b: new Float32Array(out * own.rank), in: width, out }, rsLora);
  });
}

function putAdapter(name: string, linear: Linear, pair: LoraPair, rsLora: boolean): void {
  if (linear.lora) throw new Error(`${name} has an adapter already: merge it or take it off first.`);
  linear.lora = {
    a: tf.tensor2d(pair.a, [pair.rank, pair.in]),
    b: tf.tensor2d(pair.b, [pair.out, pair.rank]),
    scale: adapterScale(pair, rsLora),
    rsLora,
  };
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
  const slots = linearSlots(model);
  const rsLora = slots.some(({ linear }) => linear.lora?.rsLora);
  for (const { name, linear } of slots) {
    if (!linear.lora) continue;
    const { a, b, scale } = linear.lora;
    const [out, width] = linear.weight.shape as [number, number];
    const rank = a.shape[0];
    modules.set(name, {
      rank,
      alpha: alphaOfScale(scale, rank, rsLora),
      a: (await a.data()) as Float32Array,
      b: (await b.data()) as Float32Array,
      in: width,
      out,
    });
  }
  if (modules.size === 0) throw new Error("The model has no adapters. Attach and train them first.");
  return { rsLora, baseModel, mixture: model.config.family === "deepseek", modules };
}

/** The alpha that a person gave: the scale times what it was divided by, without the rounding of the two. */
function alphaOfScale(scale: number, rank: number, rsLora: boolean): number {
  return Number((scale * (rsLora ? Math.sqrt(rank) : rank)).toPrecision(12));
}

/** Put the adapters of a PEFT file on the model. Throws, and puts none, if a module is not the model's or does not fit. */
export function attachAdapter(model: Model, adapter: Adapter): void {
  const slots = new Map(linearSlots(model).map(({ name, linear }) => [name, linear]));
  const fitting = [...adapter.modules].map(([name, pair]) => ({ name, pair, linear: slotFor(name, pair, slots) }));
  for (const { name, pair, linear } of fitting) putAdapter(name, linear, pair, adapter.rsLora);
}

function slotFor(name: string, pair: LoraPair, slots: Map<string, Linear>): Linear {
  const linear = slots.get(name);
  const shape = linear?.weight.shape;
  if (linear && shape?.[0] === pair.out && shape[1] === pair.in) return linear;
  throw new Error(
    `The adapter's ${name} maps ${pair.in} to ${pair.out} values; the model ${shape ? `has ${shape[1]} to ${shape[0]} there` : "has no such module"}. ` +
      "Load the base model that the adapter was trained on.",
  );
}
