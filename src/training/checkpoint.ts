// Model, adapters and optimizer as one safetensors file, and back: what a resumed run needs to be the run it was.

import { isPacked } from "../engine/packed.ts";
import { overwrite } from "../engine/record.ts";
import * as tf from "../engine/tf.ts";
import type { ModelConfig } from "../formats/hfConfig.ts";
import { decodeToFloat32, encodeFloat32 } from "../formats/numbers.ts";
import type { Weights } from "../formats/bytes.ts";
import { packSafetensors, readSafetensors, type TensorToWrite } from "../formats/safetensors.ts";
import type { Model } from "../models/decoder.ts";
import type { KeptWeights } from "../models/keptWeights.ts";
import { makerOf, piecesOf, type ReadWeight, type Storage, type Table } from "../models/storage.ts";
import { buildModelFrom, checkpointTensors, linearSlots } from "../models/weights.ts";
import { loraTensors } from "./lora.ts";
import type { Optimizer } from "./optimizer.ts";

/**
 * Float32: what is read back is bit for bit what was there. What is stored small is left out: it never changes, and is
 * read again from where it was first read.
 */
export async function packCheckpoint(model: Model, optimizer: Optimizer | null): Promise<Uint8Array> {
  const tensors = checkpointTensors(model, (table) => !isStoredSmall(table));
  const add = (name: string, tensor: tf.Tensor) =>
    tensors.push({ name, shape: tensor.shape.slice(), values: async () => (await tensor.data()) as Float32Array });
  for (const { name, tensor } of loraTensors(model)) add(`adapter.${name}`, tensor);
  optimizer?.parameters.forEach(({ name }, i) => {
    add(`optimizer.m.${name}`, optimizer.state.m[i]);
    add(`optimizer.v.${name}`, optimizer.state.v[i]);
  });
  const written: TensorToWrite[] = [];
  for (const { name, shape, values } of tensors) {
    written.push({ name, shape, dtype: "F32", data: encodeFloat32(await values(), "F32") });
  }
  return packSafetensors(written);
}

function isStoredSmall(table: Table): boolean {
  return piecesOf(table).some(isPacked);
}

/** What the model began as, of which a checkpoint need not repeat what cannot change. */
export interface Base {
  weights: Weights & Partial<KeptWeights>;
  storage: Storage;
}

export interface Unpacked {
  model: Model;
  /** Moments by name, for `restoreOptimizer`. */
  moments: Map<string, Float32Array>;
}

/** The model with its adapters; `loraScale` is alpha / rank of those. */
export function unpackCheckpoint(config: ModelConfig, bytes: Uint8Array, loraScale: number, base?: Base): Unpacked {
  const tensors = readSafetensors(bytes);
  const values: ReadWeight = (name, shape, rows) => {
    const found = tensors.get(name);
    if (!found && base && base.storage !== "f32") return base.weights.read(name, rows);
    if (!found) throw new Error(`The checkpoint has no tensor ${name}: it is damaged. Start the run again.`);
    if (!rows) return decodeToFloat32(found.dtype, found.data);
    const rowBytes = found.data.length / shape[0];
    return decodeToFloat32(found.dtype, found.data.subarray(rows[0] * rowBytes, rows[1] * rowBytes));
  };
  const model = buildModelFrom(config, makerOf(values, base?.storage ?? "f32", base?.weights.packed));
  for (const { name, linear } of linearSlots(model)) {
    const a = tensors.get(`adapter.${name}.lora_A.weight`);
    if (!a) continue;
    const b = `adapter.${name}.lora_B.weight`;
    linear.lora = {
      a: tf.tensor(values(`adapter.${name}.lora_A.weight`, a.shape), a.shape),
      b: tf.tensor(values(b, []), tensors.get(b)!.shape),
      scale: loraScale,
    };
  }
  const moments = new Map(
    [...tensors.keys()].filter((name) => name.startsWith("optimizer.")).map((name) => [name, values(name, [])]),
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
