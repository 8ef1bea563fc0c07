// Model, adapters and optimizer as one safetensors file, and back: what a resumed run needs to be the run it was.

import { isPacked, type PackedFormat, type PackedMatrix, wordCount } from "../engine/packed.ts";
import { packedFrom } from "../engine/packing.ts";
import { overwrite } from "../engine/record.ts";
import * as tf from "../engine/tf.ts";
import type { ModelConfig } from "../formats/hfConfig.ts";
import { decodeToFloat32, encodeFloat32 } from "../formats/numbers.ts";
import { packSafetensors, readSafetensors, type StoredTensor, type TensorToWrite } from "../formats/safetensors.ts";
import type { Model } from "../models/decoder.ts";
import { makerOf, piecesOf, type ReadWeight, stackShape, type Table } from "../models/storage.ts";
import { buildModelFrom, checkpointTensors, linearSlots, namedTables } from "../models/weights.ts";
import { loraTensors } from "./lora.ts";
import type { Optimizer } from "./optimizer.ts";

/** Float32, or the words of what is stored small: what is read back is bit for bit what was there. */
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
  return packSafetensors([...written, ...(await smallTensors(model))], {
    optimizerStep: String(optimizer?.step ?? 0),
  });
}

/** What is stored small, piece by piece: words under the weight's name, the format and the number of the piece. */
async function smallTensors(model: Model): Promise<TensorToWrite[]> {
  const found: TensorToWrite[] = [];
  for (const { name, table } of namedTables(model)) {
    for (const [i, piece] of piecesOf(table).entries()) {
      if (!isPacked(piece)) continue;
      const { buffer, byteOffset, byteLength } = (await piece.words.data()).slice();
      const data = new Uint8Array(buffer, byteOffset, byteLength);
      found.push({ name: `${name}.${piece.format}.${i}`, shape: [piece.words.size], dtype: "I32", data });
    }
  }
  return found;
}

function isStoredSmall(table: Table): boolean {
  return piecesOf(table).some(isPacked);
}

/** The pieces of a weight that was stored small; none if it was not. */
function readSmall(tensors: Map<string, StoredTensor>, name: string, columns: number): PackedMatrix[] {
  return FORMATS.flatMap((format) => {
    const pieces: PackedMatrix[] = [];
    for (let i = 0; ; i++) {
      const stored = tensors.get(`${name}.${format}.${i}`);
      if (!stored) return pieces;
      const words = new Int32Array(stored.data.slice().buffer);
      pieces.push(packedFrom(words, [words.length / wordCount(format, [1, columns]), columns], format));
    }
  });
}

const FORMATS: PackedFormat[] = ["f16", "int8", "int4"];

export interface Unpacked {
  model: Model;
  /** Moments by name, for `restoreOptimizer`. */
  moments: Map<string, Float32Array>;
}

/** The model with its adapters; `loraScale` is alpha / rank of those. */
export function unpackCheckpoint(config: ModelConfig, bytes: Uint8Array, loraScale: number): Unpacked {
  const tensors = readSafetensors(bytes);
  const values: ReadWeight = (name, shape, rows) => {
    const found = tensors.get(name);
    if (!found) throw new Error(`The checkpoint has no tensor ${name}: it is damaged. Start the run again.`);
    if (!rows) return decodeToFloat32(found.dtype, found.data);
    const rowBytes = found.data.length / shape[0];
    return decodeToFloat32(found.dtype, found.data.subarray(rows[0] * rowBytes, rows[1] * rowBytes));
  };
  const plain = makerOf(values, "f32");
  const model = buildModelFrom(config, {
    ...plain,
    matrix: (name, shape) => readSmall(tensors, name, shape[1])[0] ?? plain.matrix(name, shape),
    stacks: (stacks) => {
      const small = stacks.map((stack) => readSmall(tensors, stack.name, stackShape(stack)[1])[0]);
      const others = stacks.filter((_, i) => !small[i]);
      const read = others.length > 0 ? plain.stacks(others) : [];
      return stacks.map((stack, i) => small[i] ?? read[others.indexOf(stack)]);
    },
    table: (name, shape) => {
      const pieces = readSmall(tensors, name, shape[1]);
      return pieces.length > 1 ? pieces : (pieces[0] ?? plain.table(name, shape));
    },
  });
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
