// What the device has room for.

import { gpuBackend } from "./device.ts";
import * as tf from "./tf.ts";

/** Most bytes of one tensor. */
export function largestPieceBytes(): number {
  if (tf.getBackend() !== "webgpu") return 2 ** 31; // Kernels on the heap count elements and rows in 31 bits.
  const { maxStorageBufferBindingSize, maxBufferSize } = gpuBackend().device.limits;
  return Math.min(maxStorageBufferBindingSize, maxBufferSize);
}
