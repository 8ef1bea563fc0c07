// The container GGUF (version 3): metadata by key, then the places of the tensors, then their bytes.
//
// "GGUF", u32 version, u64 tensors, u64 entries; key, u32 type, value each; name, u32 axes, u64 sizes (innermost first), u32 type,
// u64 offset each; from the next multiple of the alignment on the data. Little-endian. (llama.cpp, ggml/include/gguf.h)

import type { ByteSink, ByteSource } from "./bytes.ts";
import { BLOCKS, type BlockType, bytesOf } from "./ggufBlocks.ts";

/** A value with the type it is stored as. Whole numbers of eight bytes are bigint. */
export type MetadataValue =
  | { type: NumberType; value: number }
  | { type: "u64" | "i64"; value: bigint }
  | { type: "bool"; value: boolean }
  | { type: "string"; value: string }
  | { type: "array"; of: NumberType; value: NumberArray }
  | { type: "array"; of: "u64"; value: BigUint64Array }
  | { type: "array"; of: "i64"; value: BigInt64Array }
  | { type: "array"; of: "bool"; value: boolean[] }
  | { type: "array"; of: "string"; value: string[] };

export type Metadata = Map<string, MetadataValue>;

type NumberType = "u8" | "i8" | "u16" | "i16" | "u32" | "i32" | "f32" | "f64";
type NumberArray = InstanceType<(typeof ARRAYS)[NumberType]>;

/** Where a tensor lies. The shape's first axis is the outermost, as everywhere but in the file. */
export interface GgufTensor {
  type: BlockType;
  shape: number[];
  /** Its first byte in the file, and its bytes. */
  begin: number;
  size: number;
}

export interface GgufFile {
  metadata: Metadata;
  tensors: Map<string, GgufTensor>;
}

export interface GgufTensorToWrite {
  name: string;
  type: BlockType;
  shape: number[];
  /** Its bytes in pieces, asked for when its turn comes. */
  pieces: () => Iterable<Uint8Array> | AsyncIterable<Uint8Array>;
}

/**
 * Read everything but the data of a file. Throws one sentence if it is not as the format demands: each tensor begins where
 * the one before it ends, at the next multiple of the alignment, and lies within the file.
 */
export function readGgufFile(source: ByteSource): GgufFile {
  const cursor = new Cursor(source);
  const { tensorCount, entryCount } = readStart(cursor);
  const metadata: Metadata = new Map();
  cursor.expect(entryCount, 8 + 4 + 1, "entries of metadata");
  for (let i = 0; i < entryCount; i++) {
    const key = cursor.text();
    if (metadata.has(key)) throw cursor.broken(`names "${key}" twice`);
    metadata.set(key, readValue(cursor, key));
  }
  const alignment = readAlignment(cursor, metadata);
  cursor.expect(tensorCount, 8 + 4 + 8 + 4 + 8, "tensors");
  const infos = Array.from({ length: tensorCount }, () => readInfo(cursor));
  return { metadata, tensors: placeTensors(cursor, infos, alignment) };
}

/** Write a file, tensor by tensor. Throws if a tensor has other bytes than its shape takes. */
export async function writeGgufFile(metadata: Metadata, tensors: GgufTensorToWrite[], sink: ByteSink): Promise<void> {
  const header = new Growing();
  header.bytes(MAGIC);
  header.u32(3);
  header.u64(tensors.length);
  header.u64(metadata.size);
  for (const [key, value] of metadata) {
    header.text(key);
    writeValue(header, value);
  }
  let offset = 0;
  for (const { name, type, shape } of tensors) {
    if (new TextEncoder().encode(name).length > LONGEST_NAME) {
      throw new Error(`The tensor name "${name}" is longer than the ${LONGEST_NAME} bytes that llama.cpp reads.`);
    }
    header.text(name);
    header.u32(shape.length);
    for (const size of shape.toReversed()) header.u64(size);
    header.u32(BLOCKS[type].id);
    header.u64(offset);
    offset = padded(offset + sizeOf(type, shape), ALIGNMENT);
  }
  header.bytes(new Uint8Array(padded(header.length, ALIGNMENT) - header.length));
  await sink.write(header.done());
  for (const tensor of tensors) await writeTensor(tensor, sink);
}

const MAGIC = Uint8Array.of(0x47, 0x47, 0x55, 0x46); // "GGUF"
const ALIGNMENT = 32;
const LONGEST_NAME = 63;
/** Ten times what the tokenizers of large models take. */
const LARGEST_HEADER = 200_000_000;
const COPY_AGAIN = "Copy or export the file again.";

/** By their numbers in a file. */
const TYPES = ["u8", "i8", "u16", "i16", "u32", "i32", "f32", "bool", "string", "array", "u64", "i64", "f64"] as const;

const ARRAYS = {
  u8: Uint8Array,
  i8: Int8Array,
  u16: Uint16Array,
  i16: Int16Array,
  u32: Uint32Array,
  i32: Int32Array,
  f32: Float32Array,
  f64: Float64Array,
  u64: BigUint64Array,
  i64: BigInt64Array,
};

/** Types of tensors that are known by name and cannot be read. */
const OTHER_TYPES: Record<number, string> = {
  9: "Q8_1",
  10: "Q2_K",
  11: "Q3_K",
  15: "Q8_K",
  16: "IQ2_XXS",
  17: "IQ2_XS",
  18: "IQ3_XXS",
  19: "IQ1_S",
  20: "IQ4_NL",
  21: "IQ3_S",
  22: "IQ2_S",
  23: "IQ4_XS",
  24: "I8",
  25: "I16",
  26: "I32",
  27: "I64",
  28: "F64",
  29: "IQ1_M",
  34: "TQ1_0",
  35: "TQ2_0",
  39: "MXFP4",
};

function readStart(cursor: Cursor): { tensorCount: number; entryCount: number } {
  const magic = cursor.take(4);
  if (!MAGIC.every((byte, i) => byte === magic.getUint8(i))) {
    throw cursor.broken('does not begin with "GGUF" and so is no GGUF file');
  }
  const version = cursor.u32();
  if (version !== 2 && version !== 3) {
    const why =
      version > 0xffff ? "has its bytes in the order of another kind of processor" : `is of version ${version}`;
    throw cursor.broken(`${why}, and GGUF of version 2 or 3 is read`);
  }
  return { tensorCount: cursor.count(), entryCount: cursor.count() };
}

function readValue(cursor: Cursor, key: string): MetadataValue {
  const type = readType(cursor, key);
  if (type === "string") return { type, value: cursor.text() };
  if (type === "bool") return { type, value: cursor.take(1).getUint8(0) !== 0 };
  if (type !== "array") return { type, value: readNumbers(cursor, type, 1)[0] } as MetadataValue;
  const of = readType(cursor, key);
  const count = cursor.count();
  switch (of) {
    case "array":
      throw cursor.broken(`has arrays within the array "${key}", which are not read`);
    case "string":
      cursor.expect(count, 8, `texts in "${key}"`);
      return { type, of, value: Array.from({ length: count }, () => cursor.text()) };
    case "bool":
      return { type, of, value: Array.from(readNumbers(cursor, "u8", count), (byte) => byte !== 0) };
    default:
      return { type, of, value: readNumbers(cursor, of, count) } as MetadataValue;
  }
}

function readType(cursor: Cursor, key: string): (typeof TYPES)[number] {
  const id = cursor.u32();
  if (id >= TYPES.length) throw cursor.broken(`gives "${key}" a value of the unknown type ${id}`);
  return TYPES[id];
}

function readNumbers<Type extends keyof typeof ARRAYS>(
  cursor: Cursor,
  type: Type,
  count: number,
): InstanceType<(typeof ARRAYS)[Type]> {
  const { buffer, byteOffset, byteLength } = cursor.take(count * ARRAYS[type].BYTES_PER_ELEMENT);
  const copy = new Uint8Array(new Uint8Array(buffer, byteOffset, byteLength)).buffer;
  return new ARRAYS[type](copy) as InstanceType<(typeof ARRAYS)[Type]>;
}

function readAlignment(cursor: Cursor, metadata: Metadata): number {
  const found = metadata.get("general.alignment");
  if (!found) return ALIGNMENT;
  if (found.type !== "u32" || found.value === 0 || (found.value & (found.value - 1)) !== 0) {
    throw cursor.broken(`has the general.alignment ${String(found.value)}, and a power of two is wanted`);
  }
  return found.value;
}

interface Info {
  name: string;
  type: BlockType;
  shape: number[];
  offset: number;
}

function readInfo(cursor: Cursor): Info {
  const name = cursor.text();
  const axes = cursor.u32();
  if (axes < 1 || axes > 4) throw cursor.broken(`gives "${name}" ${axes} axes, and 1 to 4 are wanted`);
  const shape = Array.from({ length: axes }, () => cursor.count()).toReversed();
  const id = cursor.u32();
  const offset = cursor.count();
  const type = (Object.keys(BLOCKS) as BlockType[]).find((each) => BLOCKS[each].id === id);
  if (!type) {
    throw new Error(
      `${cursor.name}: "${name}" is stored as ${OTHER_TYPES[id] ?? `type ${id}`}; supported are ` +
        `${Object.keys(BLOCKS).join(", ")}. Choose a file in one of these.`,
    );
  }
  const row = shape.at(-1)!;
  if (row % BLOCKS[type].values !== 0 || !Number.isSafeInteger(shape.reduce((product, size) => product * size, 4))) {
    throw cursor.broken(`gives "${name}", ${type}, the shape [${shape}], which is no whole number of blocks`);
  }
  return { name, type, shape, offset };
}

function placeTensors(cursor: Cursor, infos: Info[], alignment: number): Map<string, GgufTensor> {
  const data = padded(cursor.at, alignment);
  const tensors = new Map<string, GgufTensor>();
  let next = 0;
  for (const { name, type, shape, offset } of infos) {
    if (tensors.has(name)) throw cursor.broken(`names the tensor "${name}" twice`);
    if (offset !== next)
      throw cursor.broken(`puts "${name}" at ${offset} of the data, and ${next} is where it belongs`);
    const size = sizeOf(type, shape);
    if (data + offset + size > cursor.size) {
      throw cursor.broken(`should hold "${name}" up to byte ${data + offset + size} and has ${cursor.size} bytes`);
    }
    tensors.set(name, { type, shape, begin: data + offset, size });
    next = padded(offset + size, alignment);
  }
  return tensors;
}

async function writeTensor({ name, type, shape, pieces }: GgufTensorToWrite, sink: ByteSink): Promise<void> {
  const size = sizeOf(type, shape);
  let written = 0;
  for await (const piece of pieces()) {
    written += piece.length;
    await sink.write(piece);
  }
  if (written !== size) {
    throw new Error(`"${name}", ${type} [${shape}], takes ${size} bytes and ${written} were written.`);
  }
  const gap = padded(size, ALIGNMENT) - size;
  if (gap > 0) await sink.write(new Uint8Array(gap));
}

function writeValue(out: Growing, entry: MetadataValue): void {
  out.u32(TYPES.indexOf(entry.type));
  if (entry.type === "string") out.text(entry.value);
  else if (entry.type === "bool") out.bytes(Uint8Array.of(Number(entry.value)));
  else if (entry.type === "array") writeArray(out, entry);
  else out.bytes(bytesOfArray(arrayOf(entry)));
}

function writeArray(out: Growing, { of, value }: Extract<MetadataValue, { type: "array" }>): void {
  out.u32(TYPES.indexOf(of));
  out.u64(value.length);
  if (of === "string") for (const text of value) out.text(text);
  else if (of === "bool") out.bytes(Uint8Array.from(value, Number));
  else out.bytes(bytesOfArray(value));
}

function arrayOf({ type, value }: { type: NumberType | "u64" | "i64"; value: number | bigint }): ArrayBufferView {
  if (typeof value === "bigint") return type === "u64" ? BigUint64Array.of(value) : BigInt64Array.of(value);
  return ARRAYS[type as NumberType].of(value);
}

function bytesOfArray({ buffer, byteOffset, byteLength }: ArrayBufferView): Uint8Array {
  return new Uint8Array(buffer, byteOffset, byteLength);
}

function sizeOf(type: BlockType, shape: number[]): number {
  return bytesOf(
    type,
    shape.reduce((product, size) => product * size, 1),
  );
}

function padded(at: number, alignment: number): number {
  return Math.ceil(at / alignment) * alignment;
}

/** Reads a file from its beginning on, in windows, and never past its end. */
class Cursor {
  at = 0;
  private readonly source: ByteSource;
  private window: Uint8Array = new Uint8Array(0);
  private begin = 0;

  constructor(source: ByteSource) {
    this.source = source;
  }

  get size(): number {
    return this.source.size;
  }

  get name(): string {
    return this.source.name;
  }

  /** The next `count` bytes. */
  take(count: number): DataView {
    const from = this.at;
    const to = from + count;
    if (to > this.size) throw this.broken(`has ${this.size} bytes and should have at least ${to}`);
    if (to > LARGEST_HEADER) throw this.broken(`has a header of more than ${LARGEST_HEADER} bytes`);
    if (from < this.begin || to > this.begin + this.window.length) {
      this.window = this.source.read(from, Math.min(this.size, from + Math.max(count, 1 << 20)));
      this.begin = from;
    }
    this.at = to;
    return new DataView(this.window.buffer, this.window.byteOffset + from - this.begin, count);
  }

  u32(): number {
    return this.take(4).getUint32(0, true);
  }

  /** A count or an offset of eight bytes. */
  count(): number {
    const value = this.take(8).getBigUint64(0, true);
    if (value > Number.MAX_SAFE_INTEGER) throw this.broken(`has the impossible count ${value}`);
    return Number(value);
  }

  text(): string {
    const length = this.count();
    const { buffer, byteOffset } = this.take(length);
    try {
      return UTF8.decode(new Uint8Array(buffer, byteOffset, length));
    } catch (error) {
      throw new Error(`${this.name} has a text that is no UTF-8 before byte ${this.at}. ${COPY_AGAIN}`, {
        cause: error,
      });
    }
  }

  /** Throws if so many things of at least so many bytes do not fit what is left of the file. */
  expect(count: number, leastBytes: number, what: string): void {
    if (count * leastBytes > this.size - this.at) {
      throw this.broken(`should have ${count} ${what}, which its ${this.size} bytes cannot hold`);
    }
  }

  broken(what: string): Error {
    return new Error(`${this.name} ${what}. ${COPY_AGAIN}`);
  }
}

const UTF8 = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

/** Bytes that are put one behind the other. */
class Growing {
  length = 0;
  private held = new Uint8Array(1 << 16);

  bytes(bytes: Uint8Array): void {
    const end = this.length + bytes.length;
    if (end > this.held.length) {
      const larger = new Uint8Array(Math.max(end, 2 * this.held.length));
      larger.set(this.held.subarray(0, this.length));
      this.held = larger;
    }
    this.held.set(bytes, this.length);
    this.length = end;
  }

  u32(value: number): void {
    this.bytes(bytesOfArray(Uint32Array.of(value)));
  }

  u64(value: number): void {
    this.bytes(bytesOfArray(BigUint64Array.of(BigInt(value))));
  }

  text(text: string): void {
    const encoded = new TextEncoder().encode(text);
    this.u64(encoded.length);
    this.bytes(encoded);
  }

  done(): Uint8Array {
    return this.held.subarray(0, this.length);
  }
}
