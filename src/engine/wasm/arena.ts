// Memory for what a recorded step computes on its way: pieces of a few large blocks of the heap, at the same addresses at
// every replay. Recordings share it, for only one is replayed at a time.

const ALIGNMENT = 64; // A cache line.
const BLOCK_BYTES = 16 * 2 ** 20; // The least that is taken from the heap at a time.

interface Piece {
  address: number;
  bytes: number;
}

export interface Arena {
  /** Address of a piece of at least this size. */
  take: (bytes: number) => number;
  /** Give a piece back. Addresses that are none of the arena's are told apart: false. */
  giveBack: (address: number) => boolean;
  /** Forget what was taken: a new recording begins. */
  reset: () => void;
  /** Give the blocks back: nothing that was taken is used any more. */
  giveUp: () => void;
  /** Most bytes that were taken at a time since the last reset. */
  peakBytes: () => number;
  /** Bytes of the heap that it holds. */
  heldBytes: () => number;
}

/** `allocate` takes a block from the heap, and throws where there is no more; `release` gives it back. */
export function createArena(allocate: (bytes: number) => number, release: (address: number) => void): Arena {
  const blocks: (Piece & { start: number })[] = []; // `start`: as the heap gave it.
  const taken = new Map<number, number>();
  let free: Piece[] = []; // By address; no two touch within a block.
  let takenBytes = 0;
  let peakBytes = 0;

  function take(bytes: number): number {
    const wanted = Math.max(ALIGNMENT, Math.ceil(bytes / ALIGNMENT) * ALIGNMENT);
    let best = -1;
    for (let i = 0; i < free.length; i++) {
      if (free[i].bytes >= wanted && (best < 0 || free[i].bytes < free[best].bytes)) best = i;
    }
    if (best < 0) {
      addBlock(Math.max(BLOCK_BYTES, wanted));
      return take(bytes);
    }
    const { address, bytes: room } = free[best];
    if (room === wanted) free.splice(best, 1);
    else free[best] = { address: address + wanted, bytes: room - wanted };
    taken.set(address, wanted);
    takenBytes += wanted;
    peakBytes = Math.max(peakBytes, takenBytes);
    return address;
  }

  function addBlock(bytes: number): void {
    const start = allocate(bytes + ALIGNMENT);
    const address = Math.ceil(start / ALIGNMENT) * ALIGNMENT;
    blocks.push({ start, address, bytes });
    insert({ address, bytes });
  }

  function giveBack(address: number): boolean {
    if (!blocks.some((block) => address >= block.address && address < block.address + block.bytes)) return false;
    const bytes = taken.get(address);
    if (bytes === undefined) return true; // Of an earlier recording.
    taken.delete(address);
    takenBytes -= bytes;
    insert({ address, bytes });
    return true;
  }

  function insert(piece: Piece): void {
    const next = free.findIndex(({ address }) => address > piece.address);
    const at = next < 0 ? free.length : next;
    free.splice(at, 0, piece);
    join(at);
    join(at - 1);
  }

  /** Make one of the i-th free piece and the next, if they touch and lie in one block. */
  function join(i: number): void {
    const [piece, next] = [free[i], free[i + 1]];
    if (!piece || !next || piece.address + piece.bytes !== next.address) return;
    if (blocks.some(({ address }) => address === next.address)) return;
    free.splice(i, 2, { address: piece.address, bytes: piece.bytes + next.bytes });
  }

  function giveUp(): void {
    for (const { start } of blocks.splice(0)) release(start);
    reset();
  }

  function reset(): void {
    taken.clear();
    free = blocks.map(({ address, bytes }) => ({ address, bytes })).toSorted((a, b) => a.address - b.address);
    takenBytes = 0;
    peakBytes = 0;
  }

  return {
    take,
    giveBack,
    reset,
    giveUp,
    peakBytes: () => peakBytes,
    heldBytes: () => blocks.reduce((sum, { bytes }) => sum + bytes, 0),
  };
}
