// What this machine's WebAssembly can do, asked of it by modules that need it.

/** One function: (x, y, z) -> f32x4.relaxed_madd(x, y, z). */
const RELAXED_SIMD = [
  ...[0x00, 0x61, 0x73, 0x6d, 0x01, 0x00, 0x00, 0x00], // Magic number and version.
  ...[0x01, 0x08, 0x01, 0x60, 0x03, 0x7b, 0x7b, 0x7b, 0x01, 0x7b], // Type: three vectors -> a vector.
  ...[0x03, 0x02, 0x01, 0x00], // A function of it.
  ...[0x0a, 0x0d, 0x01, 0x0b, 0x00, 0x20, 0x00, 0x20, 0x01, 0x20, 0x02, 0xfd, 0x85, 0x02, 0x0b], // Its code.
];

/** Whether products and sums can be fused (relaxed SIMD). */
export function hasRelaxedSimd(): boolean {
  return WebAssembly.validate(Uint8Array.from(RELAXED_SIMD));
}

const LARGEST_PAGES = 65536; // What TensorFlow.js's module declares.

/** Whether one memory, as large as it may have to grow, can be had by several threads. */
export function hasSharedMemory(): boolean {
  try {
    const memory = new WebAssembly.Memory({ initial: 1, maximum: LARGEST_PAGES, shared: true });
    return memory.buffer instanceof SharedArrayBuffer;
  } catch {
    return false;
  }
}
