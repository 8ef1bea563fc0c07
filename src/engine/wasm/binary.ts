// WebAssembly's binary format, as far as we change it: https://webassembly.github.io/spec/core/binary/modules.html

const HEADER_BYTES = 8;
const IMPORTS = 2; // Sections.
const MEMORIES = 5;
const FUNCTION = 0; // Kinds of an import.
const MEMORY = 2;
const BOUNDED = 1; // Limits of a memory that has a maximum,
const SHARED = 3; // and is shared.

/**
 * The same module with its memory (its own, or the first of its imports that is no function) shared between threads.
 *
 * Code does not change with that: plain loads and stores work on shared memory, atomic ones on any.
 */
export function withSharedMemory(bytes: Uint8Array): Uint8Array<ArrayBuffer> {
  const changed = Uint8Array.from(bytes);
  const limits = limitsOfMemory(changed);
  if (changed[limits] !== BOUNDED) throw new Error(`The module's memory has no maximum (limits ${changed[limits]}).`);
  changed[limits] = SHARED;
  return changed;
}

/** Where the flags of the memory's limits are. */
function limitsOfMemory(bytes: Uint8Array): number {
  let at = HEADER_BYTES;
  const integer = () => {
    let value = 0;
    for (let shift = 0; ; shift += 7) {
      const byte = bytes[at++];
      value |= (byte & 127) << shift;
      if (byte < 128) return value;
    }
  };
  const skipName = () => {
    const length = integer();
    at += length;
  };
  while (at < bytes.length) {
    const section = bytes[at++];
    const length = integer();
    const next = at + length;
    if (section === MEMORIES || section === IMPORTS) {
      const count = integer();
      if (section === MEMORIES) return at;
      for (let i = 0; i < count; i++) {
        skipName();
        skipName();
        const kind = bytes[at++];
        if (kind === MEMORY) return at;
        if (kind !== FUNCTION) break;
        integer(); // Its type.
      }
    }
    at = next;
  }
  throw new Error("The module neither has a memory nor imports one before all but functions.");
}
