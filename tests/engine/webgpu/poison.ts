// Buffers that hold NaN wherever a kernel gets one from the pool, so that an element it forgets to write is seen.

import { gpuBackend } from "../../../src/engine/device.ts";

const NAN_BITS = 0x7fc00000;

/** Fill every free buffer of TensorFlow.js's pool with NaN. */
export function poison(): void {
  const backend = gpuBackend();
  backend.submit(); // What is disposed of is free only after a submit.
  const { freeBuffers } = backend.bufferManager as unknown as { freeBuffers: Map<string, GPUBuffer[]> };
  for (const buffer of [...freeBuffers.values()].flat()) {
    if ((buffer.usage & GPUBufferUsage.STORAGE) === 0) continue;
    backend.queue.writeBuffer(buffer, 0, new Uint32Array(buffer.size / 4).fill(NAN_BITS));
  }
}
