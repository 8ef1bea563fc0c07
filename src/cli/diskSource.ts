// A file on the disk as a source.

import { openSync, readSync, statSync } from "node:fs";
import { basename } from "node:path";
import { type ByteSource, tooShort } from "../formats/bytes.ts";

/** Opened when it is first read, and then until the process ends. */
export function diskSource(path: string): ByteSource {
  const { size } = statSync(path);
  const name = basename(path);
  let file: number | null = null;
  const read = (from: number, to: number): Uint8Array => {
    file ??= openSync(path, "r");
    const bytes = new Uint8Array(to - from);
    let there = 0;
    while (there < bytes.length) {
      const count = readSync(file, bytes, there, bytes.length - there, from + there);
      if (count === 0) throw tooShort(name, to, from + there);
      there += count;
    }
    return bytes;
  };
  return { name, size, read };
}
