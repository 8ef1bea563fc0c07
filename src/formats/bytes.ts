// Bytes that are read and written in pieces, wherever they lie: what is larger than memory is never held whole.

/** A file the person chose, a stored file, a buffer. Workers read each of them without waiting. */
export interface ByteSource {
  /** The file's name, for messages. */
  readonly name: string;
  /** Bytes in all. */
  readonly size: number;
  /** Bytes from..to-1, a copy or a view. Throws a sentence where fewer are there. */
  read(from: number, to: number): Uint8Array;
}

/** Where a file goes, from its first byte to its last. */
export interface ByteSink {
  write(bytes: Uint8Array): Promise<void>;
}

/** A buffer as a source. */
export function sourceOf(bytes: Uint8Array, name: string): ByteSource {
  const read = (from: number, to: number): Uint8Array => {
    if (from < 0 || to > bytes.length) throw tooShort(name, to, bytes.length);
    return bytes.subarray(from, to);
  };
  return { name, size: bytes.length, read };
}

/** What a source says that ends before it should. */
export function tooShort(name: string, wanted: number, size: number): Error {
  return new Error(
    `${name} ends at byte ${size}, and byte ${wanted} was asked for. The file is cut off: copy it again.`,
  );
}

/** A checkpoint's tensors by their Hugging Face names, whatever the file that they are in. */
export interface Weights {
  readonly tensors: ReadonlyMap<string, { shape: number[]; dtype: string }>;
  /** Rows from..to-1 of a tensor (of its first axis; all, if not given) as float32. Throws a sentence. */
  read(name: string, rows?: [from: number, to: number]): Float32Array;
}
