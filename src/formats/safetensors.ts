// safetensors files <-> named tensors, of checkpoints that need not fit into the memory and of small files in it.

import { type BlockSize, readScaled, scaledMatrices, scalesName } from "./blockScales.ts";
import { type ByteSink, type ByteSource, sourceOf, type Weights } from "./bytes.ts";
import { decodeToFloat32 } from "./numbers.ts";
import { byteSize, describe, layOut, readHeader, show, type TensorForm } from "./safetensorsHeader.ts";
import { locateTensors, readRows } from "./shards.ts";

/** A tensor in memory. */
export interface StoredTensor extends TensorForm {
  /** Row-major, little-endian. */
  data: Uint8Array;
}

export interface TensorToWrite extends StoredTensor {
  name: string;
}

/** A tensor whose values are asked for when it is their turn. */
export interface StreamedTensor extends TensorForm {
  name: string;
  /** Row-major, little-endian, whole or in pieces. */
  bytes: () => Uint8Array | Promise<Uint8Array> | AsyncIterable<Uint8Array>;
}

/**
 * A checkpoint in one file, or in several with their parsed model.safetensors.index.json. Only headers are read here.
 *
 * `block`: what shares a scale in matrices of eight-bit floats, which are among the tensors without their scales. Throws one
 * sentence for files that are damaged or do not belong together, and for eight-bit floats without scales.
 */
export function openSafetensors(files: ByteSource[], index?: unknown, block: BlockSize = [128, 128]): Weights {
  const tensors = locateTensors(files, index);
  const scaled = scaledMatrices(tensors, block);
  for (const name of scaled.keys()) tensors.delete(scalesName(name));
  return {
    tensors,
    read(name, rows) {
      const tensor = tensors.get(name);
      if (!tensor) throw new Error(`The checkpoint has no tensor ${show(name)}. Choose the weights that belong to it.`);
      const wanted = checkRows(name, tensor, rows);
      const matrix = scaled.get(name);
      return matrix ? readScaled(matrix, wanted) : decodeToFloat32(tensor.dtype, readRows(tensor, wanted));
    },
  };
}

/** The tensors of a small file by name, as views of its bytes. Throws as openSafetensors does. */
export function readSafetensors(bytes: Uint8Array): Map<string, StoredTensor> {
  const spans = readHeader(sourceOf(bytes, "The safetensors file"));
  return new Map(
    [...spans].map(([name, { dtype, shape, from, to }]) => [name, { dtype, shape, data: bytes.subarray(from, to) }]),
  );
}

/**
 * Write a file of these tensors, in the order of `layOut`; `metadata` as there. No more than one piece is held at a time.
 *
 * Throws if a tensor does not give the bytes that its type and shape take: the file is then incomplete.
 */
export async function writeSafetensors(
  tensors: StreamedTensor[],
  sink: ByteSink,
  metadata: Record<string, string> = {},
): Promise<void> {
  const { head, ordered } = layOut(tensors, metadata);
  await sink.write(head);
  for (const tensor of ordered) {
    let given = 0;
    for await (const piece of piecesOf(tensor)) {
      given += piece.length;
      if (given > byteSize(tensor)) break;
      await sink.write(piece);
    }
    checkGiven(tensor, given);
  }
}

/** A small file of these tensors, in memory. */
export function packSafetensors(tensors: TensorToWrite[], metadata: Record<string, string> = {}): Uint8Array {
  const { head, ordered, size } = layOut(tensors, metadata);
  for (const tensor of ordered) checkGiven(tensor, tensor.data.length);
  const file = new Uint8Array(size);
  file.set(head);
  let at = head.length;
  for (const { data } of ordered) {
    file.set(data, at);
    at += data.length;
  }
  return file;
}

/** The rows asked for, all if none are; a tensor without axes is one row. */
function checkRows(name: string, tensor: TensorForm, rows?: [number, number]): [number, number] {
  const count = tensor.shape[0] ?? 1;
  const [from, to] = rows ?? [0, count];
  if (Number.isSafeInteger(from) && Number.isSafeInteger(to) && from >= 0 && from <= to && to <= count) {
    return [from, to];
  }
  throw new Error(`${describe(name, tensor)} has ${count} rows; rows ${from} to ${to} were asked for.`);
}

function piecesOf(tensor: StreamedTensor): AsyncIterable<Uint8Array> | (Uint8Array | Promise<Uint8Array>)[] {
  const bytes = tensor.bytes();
  return Symbol.asyncIterator in bytes ? bytes : [bytes];
}

function checkGiven(tensor: TensorForm & { name: string }, given: number): void {
  const size = byteSize(tensor);
  if (given === size) return;
  throw new Error(
    `${describe(tensor.name, tensor)} takes ${size} bytes and ${given > size ? "more" : given} were given.`,
  );
}
