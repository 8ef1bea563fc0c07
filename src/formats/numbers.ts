// The number types that checkpoints are stored in <-> float32. Little-endian, as every machine that runs this is.

/** Bytes of one value of each type. */
export const DTYPE_BYTES = {
  BOOL: 1,
  U8: 1,
  I8: 1,
  F8_E4M3: 1,
  F8_E5M2: 1,
  F8_E8M0: 1,
  U16: 2,
  I16: 2,
  F16: 2,
  BF16: 2,
  U32: 4,
  I32: 4,
  F32: 4,
  U64: 8,
  I64: 8,
  F64: 8,
};

export type Dtype = keyof typeof DTYPE_BYTES;

/** Floats of eight bits, which mean nothing without the scales that are stored beside them. */
export type EightBit = "F8_E4M3" | "F8_E5M2";

/** The types that weights are written in. */
export type WrittenDtype = "F32" | "F16" | "BF16";

/**
 * Values of any type that needs no scales as float32, in memory of their own. The bytes may lie at any offset of a buffer.
 * Whole numbers above 2^24 and float64 are rounded.
 */
export function decodeToFloat32(dtype: Dtype, data: Uint8Array): Float32Array {
  switch (dtype) {
    case "F32":
      return new Float32Array(viewed(Float32Array, data));
    case "F16":
      return decodeHalf(viewed(Uint16Array, data));
    case "BF16":
      return decodeBfloat(viewed(Uint16Array, data));
    case "F64":
      return new Float32Array(viewed(Float64Array, data));
    case "BOOL":
    case "U8":
      return new Float32Array(data);
    case "I8":
      return new Float32Array(viewed(Int8Array, data));
    case "U16":
      return new Float32Array(viewed(Uint16Array, data));
    case "I16":
      return new Float32Array(viewed(Int16Array, data));
    case "U32":
      return new Float32Array(viewed(Uint32Array, data));
    case "I32":
      return new Float32Array(viewed(Int32Array, data));
    case "U64":
      return Float32Array.from(viewed(BigUint64Array, data), Number);
    case "I64":
      return Float32Array.from(viewed(BigInt64Array, data), Number);
    default:
      throw new Error(
        `Weights of type ${dtype} cannot be read; F32, F16 and BF16 can. Choose the checkpoint before quantisation.`,
      );
  }
}

/**
 * float32 values in a storage type, rounded to nearest, ties to even; NaN and infinities stay what they are.
 *
 * Throws if a finite value rounds beyond the type (float16 ends at 65504): clamping would change the model without a word.
 */
export function encodeFloat32(values: Float32Array, dtype: WrittenDtype): Uint8Array {
  switch (dtype) {
    case "F32":
      return new Uint8Array(values.slice().buffer);
    case "F16":
      return new Uint8Array(encodeHalf(values).buffer);
    case "BF16":
      return new Uint8Array(encodeBfloat(values).buffer);
  }
}

/** The value of each of the 256 patterns. */
export function eightBitValues(dtype: EightBit): Float32Array {
  // E5M2 is the upper half of float16. E4M3 has no infinities: only the last pattern of each sign is no number.
  const value = (bits: number) => (dtype === "F8_E5M2" ? halfValue(bits << 8) : fromFields(bits, 4, 3));
  const values = Float32Array.from({ length: 256 }, (_, bits) => value(bits));
  if (dtype === "F8_E4M3") values[0x7f] = values[0xff] = NaN;
  return values;
}

/** The data as values of one type: a copy where they begin at an odd place, which typed arrays cannot. */
function viewed<T>(
  type: { new (buffer: ArrayBufferLike, offset: number, length: number): T; BYTES_PER_ELEMENT: number },
  data: Uint8Array,
): T {
  const size = type.BYTES_PER_ELEMENT;
  if (data.length % size !== 0) {
    throw new Error(`${data.length} bytes are no whole number of values of ${size} bytes.`);
  }
  const { buffer, byteOffset } = data.byteOffset % size === 0 ? data : new Uint8Array(data);
  return new type(buffer, byteOffset, data.length / size);
}

/** bfloat16 is the upper half of float32. */
function decodeBfloat(stored: Uint16Array): Float32Array {
  const bits = new Uint32Array(stored.length);
  for (let i = 0; i < stored.length; i++) bits[i] = stored[i] << 16;
  return new Float32Array(bits.buffer);
}

/** The float32 of every float16, made once. */
let halves: Float32Array | undefined;

function decodeHalf(stored: Uint16Array): Float32Array {
  halves ??= Float32Array.from({ length: 65_536 }, (_, bits) => halfValue(bits));
  const table = halves;
  const values = new Float32Array(stored.length);
  for (let i = 0; i < stored.length; i++) values[i] = table[stored[i]];
  return values;
}

function halfValue(bits: number): number {
  if ((bits & 0x7c00) !== 0x7c00) return fromFields(bits, 5, 10);
  if ((bits & 0x3ff) !== 0) return NaN;
  return bits < 0x8000 ? Infinity : -Infinity;
}

/** Sign, exponent, fraction, from the highest bit to the lowest. Exponent 0: no leading one (subnormal numbers). */
function fromFields(bits: number, exponentBits: number, fractionBits: number): number {
  const sign = bits >> (exponentBits + fractionBits) === 0 ? 1 : -1;
  const exponent = (bits >> fractionBits) & (2 ** exponentBits - 1);
  const fraction = (bits & (2 ** fractionBits - 1)) / 2 ** fractionBits;
  const bias = 2 ** (exponentBits - 1) - 1;
  return sign * (exponent === 0 ? fraction * 2 ** (1 - bias) : (1 + fraction) * 2 ** (exponent - bias));
}

function encodeBfloat(values: Float32Array): Uint16Array {
  const bits = new Uint32Array(values.buffer, values.byteOffset, values.length);
  const stored = new Uint16Array(values.length);
  for (let i = 0; i < bits.length; i++) {
    const value = bits[i];
    const size = value & 0x7fffffff;
    const rounded = (value + 0x7fff + ((value >>> 16) & 1)) >>> 16;
    if (size >= 0x7f7f8000) stored[i] = largeBfloat(value, rounded, values[i]);
    else stored[i] = rounded;
  }
  return stored;
}

/** What rounds past the largest bfloat16, is infinite, or no number. */
function largeBfloat(bits: number, rounded: number, value: number): number {
  if (Number.isNaN(value)) return ((bits >>> 16) & 0x8000) | 0x7fc0;
  if (Number.isFinite(value)) throw beyond(value, "BF16");
  return rounded;
}

function encodeHalf(values: Float32Array): Uint16Array {
  const bits = new Uint32Array(values.buffer, values.byteOffset, values.length);
  const stored = new Uint16Array(values.length);
  for (let i = 0; i < bits.length; i++) {
    const sign = (bits[i] >>> 16) & 0x8000;
    const size = bits[i] & 0x7fffffff;
    if (size >= 0x477ff000) stored[i] = sign | largeHalf(values[i]);
    else if (size >= 0x38800000) stored[i] = sign | ((size + 0xfff + ((size >>> 13) & 1) - 0x38000000) >>> 13);
    else stored[i] = sign | (Math.abs(values[i]) * 2 ** 24 + 2 ** 52 - 2 ** 52); // Subnormal; the sum rounds to even.
  }
  return stored;
}

/** From 65520 on, which is half way past the largest float16. */
function largeHalf(value: number): number {
  if (Number.isNaN(value)) return 0x7e00;
  if (Number.isFinite(value)) throw beyond(value, "F16");
  return 0x7c00;
}

function beyond(value: number, dtype: string): Error {
  return new Error(`The value ${value} does not fit ${dtype}. Store these weights as F32.`);
}
