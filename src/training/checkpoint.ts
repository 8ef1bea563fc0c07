// Model, adapters and optimizer as one safetensors file, and back: what a resumed run needs to be the run it was.

import { overwrite } from "../engine/record.ts";
import * as tf from "../engine/tf.ts";
import type { ModelConfig } from "../formats/hfConfig.ts";
import { decodeToFloat32, encodeFloat32, readSafetensors, writeSafetensors } from "../formats/safetensors.ts";
import type { Model } from "../models/decoder.ts";
import { buildModel, checkpointTensors, linearSlots } from "../models/weights.ts";
import { loraTensors } from "./lora.ts";
import type { Optimizer } from "./optimizer.ts";

/** Everything in float32: what is read back is bit for bit what was there. */
export async function packCheckpoint(model: Model, optimizer: Optimizer | null): Promise<Uint8Array> {
  const tensors = await checkpointTensors(model);
  const more: { name: string; tensor: tf.Tensor }[] = loraTensors(model).map(({ name, tensor }) => ({
    name: `adapter.${name}`,
    tensor,
  }));
  optimizer?.parameters.forEach(({ name }, i) => {
    more.push({ name: `optimizer.m.${name}`, tensor: optimizer.state.m[i] });
    more.push({ name: `optimizer.v.${name}`, tensor: optimizer.state.v[i] });
  });
  for (const { name, tensor } of more) {
    tensors.push({ name, shape: tensor.shape.slice(), values: (await tensor.data()) as Float32Array });
  }
  return writeSafetensors(
    tensors.map(({ name, shape, values }) => ({ name, shape, dtype: "F32", data: encodeFloat32(values, "F32") })),
    {
      optimizerStep: String(optimizer?.step ?? 0),
    },
  );
}

export interface Unpacked {
  model: Model;
  /** Moments by name, for `restoreOptimizer`. */
  moments: Map<string, Float32Array>;
}

/** The model with its adapters; `loraScale` is alpha / rank of those. */
export function unpackCheckpoint(config: ModelConfig, bytes: Uint8Array, loraScale: number): Unpacked {
  const tensors = readSafetensors(bytes);
  const values = (name: string): Float32Array => {
    const found = tensors.get(name);
    if (!found) throw new Error(`The checkpoint has no tensor ${name}: it is damaged. Start the run again.`);
    return decodeToFloat32(found.dtype, found.data);
  };
  const model = buildModel(config, (name) => values(name));
  for (const { name, linear } of linearSlots(model)) {
    const a = tensors.get(`adapter.${name}.lora_A.weight`);
    if (!a) continue;
    const b = `adapter.${name}.lora_B.weight`;
    linear.lora = {
      a: tf.tensor(values(`adapter.${name}.lora_A.weight`), a.shape),
      b: tf.tensor(values(b), tensors.get(b)!.shape),
      scale: loraScale,
    };
  }
  const moments = new Map(
    [...tensors.keys()].filter((name) => name.startsWith("optimizer.")).map((name) => [name, values(name)]),
  );
  return { model, moments };
}

/** Put the moments of an unpacked checkpoint into a fresh optimizer over the same parameters. */
export function restoreOptimizer(optimizer: Optimizer, moments: Map<string, Float32Array>, step: number): void {
  optimizer.step = step;
  optimizer.parameters.forEach(({ name }, i) => {
    const [m, v] = [moments.get(`optimizer.m.${name}`), moments.get(`optimizer.v.${name}`)];
    if (!m || !v) throw new Error(`The checkpoint has no moments of ${name}: it is damaged. Start the run again.`);
    overwrite(optimizer.state.m[i], m);
    overwrite(optimizer.state.v[i], v);
  });
}
