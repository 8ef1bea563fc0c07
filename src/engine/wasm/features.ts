// What this machine's WebAssembly can do, asked of it by modules that need it.

/** One function: (x, y, z) -> f32x4.relaxed_madd(x, y, z). */
const RELAXED_SIMD =
  "\0asm\x01\0\0\0" + // Magic number and version.
  "\x01\x08\x01\x60\x03\x7b\x7b\x7b\x01\x7b" + // A type: three vectors -> a vector.
  "\x03\x02\x01\0" + // A function of this type.
  "\x0a\x0d\x01\x0b\0\x20\0\x20\x01\x20\x02\xfd\x85\x02\x0b"; // Its code.

/** Whether products and sums can be fused (relaxed SIMD). */
export function hasRelaxedSimd(): boolean {
  return WebAssembly.validate(Uint8Array.from(RELAXED_SIMD, (c) => c.charCodeAt(0)));
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
