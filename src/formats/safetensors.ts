// safetensors files <-> named tensors: u64 header length, JSON header, then the bytes of all tensors without gaps.

/** Bytes of one value of each type. */
const SIZES = {
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

export type Dtype = keyof typeof SIZES;

export interface StoredTensor {
  dtype: Dtype;
  shape: number[];
  /** Row-major, little-endian. A view of the file's bytes. */
  data: Uint8Array;
}

export interface TensorToWrite extends StoredTensor {
  name: string;
}

/** What model.safetensors.index.json says of a checkpoint in several files. */
export interface ShardIndex {
  /** The file that each tensor is in. */
  fileOf: Map<string, string>;
  /** Every file once, sorted. */
  files: string[];
}

/**
 * The tensors of a file by name, as views of its bytes. Throws one sentence if the file is not exactly as the format
 * demands: each byte of the data belongs to one tensor.
 */
export function readSafetensors(bytes: Uint8Array): Map<string, StoredTensor> {
  const { header, data } = splitFile(bytes);
  const tensors = new Map<string, StoredTensor>();
  const spans: Span[] = [];
  for (const [name, entry] of Object.entries(header)) {
    if (name === METADATA) {
      checkMetadata(entry);
      continue;
    }
    const { dtype, shape, begin, end } = readEntry(name, entry, data.length);
    spans.push({ name, begin, end });
    tensors.set(name, { dtype, shape, data: data.subarray(begin, end) });
  }
  checkSpans(spans, data.length);
  return tensors;
}

/** What is in `__metadata__` beside the tensors. Throws as readSafetensors does. */
export function readMetadata(bytes: Uint8Array): Record<string, string> {
  return checkMetadata(splitFile(bytes).header[METADATA] ?? {});
}

/**
 * A file of these tensors. Larger types come first, so that each tensor begins at a multiple of its type's size.
 *
 * `metadata` is added to {"format": "pt"}, without which transformers refuses the file.
 */
export function writeSafetensors(tensors: TensorToWrite[], metadata: Record<string, string> = {}): Uint8Array {
  const ordered = tensors.toSorted((a, b) => SIZES[b.dtype] - SIZES[a.dtype]); // Stable within a type.
  const entries = new Map<string, unknown>([[METADATA, { format: "pt", ...metadata }]]);
  let end = 0;
  for (const { name, dtype, shape, data } of ordered) {
    if (entries.has(name)) throw new Error(`Two tensors are called "${name}". Give each its own name.`);
    const size = countValues(shape) * SIZES[dtype];
    if (data.length !== size) {
      throw new Error(`"${name}", ${dtype} [${shape.join()}], takes ${size} bytes and ${data.length} were given.`);
    }
    entries.set(name, { dtype, shape, data_offsets: [end, end + size] });
    end += size;
  }
  // Spaces after the header bring the data to a multiple of 8.
  const json = new TextEncoder().encode(JSON.stringify(Object.fromEntries(entries)));
  const headerSize = Math.ceil(json.length / 8) * 8;
  const file = new Uint8Array(8 + headerSize + end);
  new DataView(file.buffer).setBigUint64(0, BigInt(headerSize), true);
  file.fill(0x20, 8, 8 + headerSize);
  file.set(json, 8);
  let at = 8 + headerSize;
  for (const { data } of ordered) {
    file.set(data, at);
    at += data.length;
  }
  return file;
}

/** Read a parsed model.safetensors.index.json. Throws if it is not one. */
export function readIndex(json: unknown): ShardIndex {
  const map = isRecord(json) ? json.weight_map : undefined;
  if (!isRecord(map) || Object.keys(map).length === 0) {
    throw new Error(
      `The index should have a "weight_map" from tensors to files and has ${show(map)}. Choose the checkpoint's own model.safetensors.index.json.`,
    );
  }
  const fileOf = new Map<string, string>();
  for (const [tensor, file] of Object.entries(map)) {
    // A name with a path could reach out of the checkpoint's folder.
    if (typeof file !== "string" || !/^[^/\\]+\.safetensors$/.test(file)) {
      throw new Error(`The index puts "${tensor}" into ${show(file)}; the name of a .safetensors file is wanted.`);
    }
    fileOf.set(tensor, file);
  }
  return { fileOf, files: [...new Set(fileOf.values())].toSorted() };
}

/** Any numeric type as float32. Whole numbers above 2^24 and float64 are rounded. Throws for eight-bit floats. */
export function decodeToFloat32(dtype: Dtype, data: Uint8Array): Float32Array {
  const count = data.length / SIZES[dtype];
  if (!Number.isInteger(count)) {
    throw new Error(`${data.length} bytes are no whole number of ${dtype} values of ${SIZES[dtype]} bytes.`);
  }
  const buffer = alignedCopy(data);
  switch (dtype) {
    case "F32":
      return new Float32Array(buffer);
    case "F16":
      return decodeHalf(new Uint16Array(buffer));
    case "BF16":
      return decodeBfloat(new Uint16Array(buffer));
    case "F64":
      return Float32Array.from(new Float64Array(buffer));
    case "BOOL":
    case "U8":
      return Float32Array.from(new Uint8Array(buffer));
    case "I8":
      return Float32Array.from(new Int8Array(buffer));
    case "U16":
      return Float32Array.from(new Uint16Array(buffer));
    case "I16":
      return Float32Array.from(new Int16Array(buffer));
    case "U32":
      return Float32Array.from(new Uint32Array(buffer));
    case "I32":
      return Float32Array.from(new Int32Array(buffer));
    case "U64":
      return Float32Array.from(new BigUint64Array(buffer), Number);
    case "I64":
      return Float32Array.from(new BigInt64Array(buffer), Number);
    default:
      throw new Error(
        `Weights of type ${dtype} cannot be read; F32, F16 and BF16 can. Choose the checkpoint before quantisation.`,
      );
  }
}

/**
 * float32 values in a storage type, rounded to nearest, ties to even.
 *
 * Throws if a finite value is beyond the type: clamping would change the model without a word.
 */
export function encodeFloat32(values: Float32Array, dtype: "F32" | "F16" | "BF16"): Uint8Array {
  switch (dtype) {
    case "F32":
      return new Uint8Array(values.slice().buffer);
    case "F16":
      return encodeSixteen(values, dtype, toHalf, HALF_INFINITY);
    case "BF16":
      return encodeSixteen(values, dtype, toBfloat, BFLOAT_INFINITY);
  }
}

const METADATA = "__metadata__";
const LARGEST_HEADER = 100_000_000; // The reference implementation's limit.
const HALF_INFINITY = 0x7c00;
const BFLOAT_INFINITY = 0x7f80;

function splitFile(bytes: Uint8Array): { header: Record<string, unknown>; data: Uint8Array } {
  if (bytes.length < 8) {
    throw new Error(`A safetensors file has at least 8 bytes and this one ${bytes.length}. ${FETCH_AGAIN}`);
  }
  const size = new DataView(bytes.buffer, bytes.byteOffset, 8).getBigUint64(0, true);
  if (size > LARGEST_HEADER) {
    throw new Error(
      `The file says that its header has ${size} bytes, and at most ${LARGEST_HEADER} are allowed: it is no safetensors file. ${FETCH_AGAIN}`,
    );
  }
  const end = 8 + Number(size);
  if (end > bytes.length) {
    throw new Error(`The header should have ${size} bytes and only ${bytes.length - 8} are there. ${FETCH_AGAIN}`);
  }
  return { header: readHeader(bytes.subarray(8, end)), data: bytes.subarray(end) };
}

const FETCH_AGAIN = "Fetch or export the file again.";

function readHeader(bytes: Uint8Array): Record<string, unknown> {
  let text: string;
  let header: unknown;
  try {
    text = new TextDecoder("utf-8", { fatal: true }).decode(bytes);
    header = JSON.parse(text);
  } catch (error) {
    throw new Error(
      `The header is no JSON (${error instanceof Error ? error.message : String(error)}). ${FETCH_AGAIN}`,
      { cause: error },
    );
  }
  if (!isRecord(header) || !text.startsWith("{")) {
    throw new Error(`The header should be a JSON object and is ${show(header)}. ${FETCH_AGAIN}`);
  }
  const keys = topLevelKeys(text);
  if (keys.length !== Object.keys(header).length) {
    const twice = keys.find((key, index) => keys.indexOf(key) !== index);
    throw new Error(`The header names "${twice}" twice. ${FETCH_AGAIN}`);
  }
  return header;
}

/** The keys of an object in valid JSON text, repeated ones too, which a parsed object no longer shows. */
function topLevelKeys(text: string): string[] {
  const keys: string[] = [];
  let depth = 0;
  for (const [token, colon] of text.matchAll(/"(?:[^"\\]|\\.)*"(\s*:)?|[[\]{}]/g)) {
    if (token === "{" || token === "[") depth++;
    else if (token === "}" || token === "]") depth--;
    else if (depth === 1 && colon) keys.push(JSON.parse(token.slice(0, token.length - colon.length)) as string);
  }
  return keys;
}

function checkMetadata(entry: unknown): Record<string, string> {
  if (!isRecord(entry) || !Object.values(entry).every((value) => typeof value === "string")) {
    throw new Error(`__metadata__ should map names to texts and is ${show(entry)}. ${FETCH_AGAIN}`);
  }
  return entry as Record<string, string>;
}

interface Span {
  name: string;
  begin: number;
  end: number;
}

function readEntry(
  name: string,
  entry: unknown,
  dataSize: number,
): { dtype: Dtype; shape: number[]; begin: number; end: number } {
  const { dtype, shape, data_offsets: offsets }: Record<string, unknown> = isRecord(entry) ? entry : {};
  if (!isDtype(dtype)) {
    throw new Error(`"${name}" has the type ${show(dtype)}; one of ${Object.keys(SIZES).join(", ")} is wanted.`);
  }
  if (!isSizes(shape) || !Number.isSafeInteger(countValues(shape) * SIZES[dtype])) {
    throw new Error(`"${name}" has the shape ${show(shape)}; a list of whole numbers is wanted. ${FETCH_AGAIN}`);
  }
  if (!isSizes(offsets) || offsets.length !== 2 || offsets[0] > offsets[1] || offsets[1] > dataSize) {
    throw new Error(
      `"${name}" should lie within the ${dataSize} bytes of data and is said to be at ${show(offsets)}. ${FETCH_AGAIN}`,
    );
  }
  const [begin, end] = offsets;
  const size = countValues(shape) * SIZES[dtype];
  if (end - begin !== size) {
    throw new Error(
      `"${name}", ${dtype} [${shape.join()}], takes ${size} bytes and has ${end - begin}. ${FETCH_AGAIN}`,
    );
  }
  return { dtype, shape, begin, end };
}

/** Every byte of the data belongs to exactly one tensor. */
function checkSpans(spans: Span[], dataSize: number): void {
  let [end, before] = [0, "the header"];
  for (const span of spans.toSorted((a, b) => a.begin - b.begin || a.end - b.end)) {
    if (span.begin < end) throw new Error(`"${span.name}" overlaps "${before}". ${FETCH_AGAIN}`);
    if (span.begin > end) {
      throw new Error(`${span.begin - end} bytes before "${span.name}" belong to no tensor. ${FETCH_AGAIN}`);
    }
    [end, before] = [span.end, span.name];
  }
  if (end !== dataSize) throw new Error(`${dataSize - end} bytes at the end belong to no tensor. ${FETCH_AGAIN}`);
}

/** Typed arrays must begin at a multiple of their value's size, which a view of a file need not do. */
function alignedCopy(data: Uint8Array): ArrayBuffer {
  return new Uint8Array(data).buffer; // Not data.slice(): for a Buffer of Node's that is a view.
}

/** The float32 of every float16, made once. */
let halves: Float32Array | undefined;

function decodeHalf(stored: Uint16Array): Float32Array {
  halves ??= Float32Array.from({ length: 65_536 }, (_, bits) => fromHalf(bits));
  const values = new Float32Array(stored.length);
  for (let i = 0; i < stored.length; i++) values[i] = halves[stored[i]];
  return values;
}

/** Sign 1, exponent 5 (bias 15), fraction 10 bits. */
function fromHalf(bits: number): number {
  const [sign, exponent, fraction] = [bits & 0x8000 ? -1 : 1, (bits >> 10) & 31, bits & 1023];
  if (exponent === 31) return fraction === 0 ? sign * Infinity : NaN;
  return sign * (exponent === 0 ? fraction * 2 ** -24 : (1 + fraction / 1024) * 2 ** (exponent - 15));
}

/** bfloat16 is the upper half of float32. */
function decodeBfloat(stored: Uint16Array): Float32Array {
  const bits = new Uint32Array(stored.length);
  for (let i = 0; i < stored.length; i++) bits[i] = stored[i] << 16;
  return new Float32Array(bits.buffer);
}

function encodeSixteen(
  values: Float32Array,
  dtype: string,
  convert: (bits: number) => number,
  infinity: number,
): Uint8Array {
  const bits = new Uint32Array(values.slice().buffer);
  const stored = new Uint16Array(values.length);
  for (let i = 0; i < values.length; i++) {
    stored[i] = convert(bits[i]);
    if ((stored[i] & 0x7fff) === infinity && Number.isFinite(values[i])) {
      throw new Error(`The value ${values[i]} does not fit ${dtype}. Store these weights as F32.`);
    }
  }
  return new Uint8Array(stored.buffer);
}

/** float32 bits -> float16 bits. */
function toHalf(bits: number): number {
  const sign = (bits >>> 16) & 0x8000;
  const size = bits & 0x7fffffff;
  if (size > 0x7f800000) return sign | 0x7e00; // NaN
  if (size >= 0x47800000) return sign | HALF_INFINITY; // 2^16 and more
  // Below 2^-14 the exponent is fixed: adding 0.5 puts the 10 bits that stay at the end of the fraction, rounded.
  if (size < 0x38800000) return sign | (roundedSum(size) - 0x3f000000);
  return sign | ((size + 0xfff + ((size >>> 13) & 1) - 0x38000000) >>> 13);
}

const scratch = new DataView(new ArrayBuffer(4));

/** The bits of 0.5 plus the float of `bits`, in float32, whose addition rounds ties to even. */
function roundedSum(bits: number): number {
  scratch.setUint32(0, bits);
  scratch.setFloat32(0, scratch.getFloat32(0) + 0.5);
  return scratch.getUint32(0);
}

/** float32 bits -> bfloat16 bits. */
function toBfloat(bits: number): number {
  if ((bits & 0x7fffffff) > 0x7f800000) return ((bits >>> 16) & 0x8000) | 0x7fc0; // NaN
  return (bits + 0x7fff + ((bits >>> 16) & 1)) >>> 16;
}

function countValues(shape: number[]): number {
  return shape.reduce((product, size) => product * size, 1);
}

function isDtype(value: unknown): value is Dtype {
  return typeof value === "string" && Object.hasOwn(SIZES, value);
}

function isSizes(value: unknown): value is number[] {
  return Array.isArray(value) && value.every((size) => Number.isSafeInteger(size) && size >= 0);
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function show(value: unknown): string {
  const text = JSON.stringify(value) ?? "nothing";
  return text.length > 60 ? `${text.slice(0, 60)}…` : text;
}
