// Counter-based random numbers: the value at (seed, stream, counter) is a pure function, so a resumed run draws what an
// uninterrupted one would have drawn.

/** 32 well-mixed bits from three 32-bit words (three rounds of the finalizer of MurmurHash3, Appleby, 2011). */
export function randomBits(seed: number, stream: number, counter: number): number {
  let h = mix(seed ^ 0x9e3779b9);
  h = mix(h ^ Math.imul(stream, 0x85ebca6b) ^ 0x3c6ef372);
  return mix(h ^ Math.imul(counter, 0xc2b2ae35) ^ 0xdaa66d2b) >>> 0;
}

function mix(h: number): number {
  h = Math.imul(h ^ (h >>> 16), 0x85ebca6b);
  h = Math.imul(h ^ (h >>> 13), 0xc2b2ae35);
  return h ^ (h >>> 16);
}

/** Uniform in [0, 1). */
export function uniform(seed: number, stream: number, counter: number): number {
  return randomBits(seed, stream, counter) / 2 ** 32;
}

/** `size` draws from the normal distribution with this standard deviation (Box & Muller, 1958). */
export function normalValues(size: number, std: number, seed: number, stream: number): Float32Array {
  const values = new Float32Array(size);
  for (let i = 0; i < size; i += 2) {
    const radius = std * Math.sqrt(-2 * Math.log((randomBits(seed, stream, i) + 1) / 2 ** 32));
    const angle = 2 * Math.PI * uniform(seed, stream, i + 1);
    values[i] = radius * Math.cos(angle);
    if (i + 1 < size) values[i + 1] = radius * Math.sin(angle);
  }
  return values;
}
