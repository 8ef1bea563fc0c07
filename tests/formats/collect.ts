// A sink that keeps what is written to it.

import type { ByteSink } from "../../src/formats/bytes.ts";

export function collect(): { sink: ByteSink; bytes: () => Uint8Array } {
  const pieces: Uint8Array[] = [];
  return {
    sink: { write: async (bytes) => void pieces.push(bytes.slice()) },
    bytes: () => new Uint8Array(Buffer.concat(pieces)),
  };
}
