// Eight-bit floats with one scale for each block of a matrix, as DeepSeek-V3 is published (its inference/fp8_cast_bf16.py):
// w[o, i] = weight[o, i] * weight_scale_inv[o / 128, i / 128]. The scale is multiplied, despite its name.

import { decodeToFloat32, type Dtype, type EightBit, eightBitValues } from "./numbers.ts";
import { describe, isRecord, type Located, show } from "./safetensorsHeader.ts";
import { readRows } from "./shards.ts";

/** Rows and columns that share a scale. */
export type BlockSize = [rows: number, columns: number];

/** A matrix of eight-bit floats. */
export interface ScaledMatrix extends Located {
  dtype: EightBit;
  /** float32, one for each block, [down, across]. */
  scales: Located;
  block: BlockSize;
}

/** The blocks that a checkpoint's parsed config.json tells of: 128 by 128 if it does not. */
export function readBlockSize(config: unknown): BlockSize {
  const quantization = isRecord(config) ? config.quantization_config : undefined;
  const size = (isRecord(quantization) ? quantization.weight_block_size : undefined) ?? [128, 128];
  if (isBlockSize(size)) return size;
  throw new Error(
    `config.json: weight_block_size is ${show(size)}; two whole numbers are wanted. Choose another checkpoint.`,
  );
}

/** The matrices of eight-bit floats by name, each with its scales. Throws where those are missing or of another shape. */
export function scaledMatrices(tensors: Map<string, Located>, block: BlockSize): Map<string, ScaledMatrix> {
  const found = new Map<string, ScaledMatrix>();
  for (const [name, tensor] of tensors) {
    const { dtype } = tensor;
    if (isEightBit(dtype)) found.set(name, { ...tensor, dtype, scales: scalesOf(tensors, name, tensor, block), block });
  }
  return found;
}

export function scalesName(weight: string): string {
  return `${weight}_scale_inv`;
}

/** Rows from..to-1 as float32. */
export function readScaled(matrix: ScaledMatrix, [from, to]: [number, number]): Float32Array {
  const { scales, block, shape, dtype } = matrix;
  const data = readRows(matrix, [from, to]);
  const firstDown = Math.floor(from / block[0]);
  const factors = decodeToFloat32(scales.dtype, readRows(scales, [firstDown, Math.ceil(to / block[0])]));
  const [table, columns, across] = [TABLES[dtype], shape[1], scales.shape[1]];
  const values = new Float32Array(data.length);
  for (let row = from, start = 0; row < to; row++, start += columns) {
    const down = Math.floor(row / block[0]) - firstDown;
    for (let b = 0; b < across; b++) {
      const factor = factors[down * across + b];
      const end = start + Math.min(columns, (b + 1) * block[1]);
      for (let i = start + b * block[1]; i < end; i++) values[i] = table[data[i]] * factor;
    }
  }
  return values;
}

const TABLES = { F8_E4M3: eightBitValues("F8_E4M3"), F8_E5M2: eightBitValues("F8_E5M2") };

const BEFORE = "Choose the checkpoint before quantisation.";

function isEightBit(dtype: Dtype): dtype is EightBit {
  return Object.hasOwn(TABLES, dtype);
}

function scalesOf(tensors: Map<string, Located>, name: string, matrix: Located, block: BlockSize): Located {
  const scales = tensors.get(scalesName(name));
  if (!scales) {
    throw new Error(`${describe(name, matrix)} has no scales: ${show(scalesName(name))} is missing. ${BEFORE}`);
  }
  if (matrix.shape.length !== 2) {
    throw new Error(`${describe(name, matrix)} is no matrix, and scales are read for matrices. ${BEFORE}`);
  }
  const wanted = matrix.shape.map((size, axis) => Math.ceil(size / block[axis]));
  if (scales.dtype !== "F32" || show(scales.shape) !== show(wanted)) {
    throw new Error(
      `${describe(scalesName(name), scales)} should be F32 ${show(wanted)}, a scale for each block of ${block.join(" by ")} of ${show(name)} ${show(matrix.shape)}. Choose the config.json that belongs to the checkpoint.`,
    );
  }
  return scales;
}

function isBlockSize(value: unknown): value is BlockSize {
  return Array.isArray(value) && value.length === 2 && value.every((size) => Number.isSafeInteger(size) && size > 0);
}
