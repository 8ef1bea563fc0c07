// Threads over one memory. Work is cut into pieces; the thread that has it and those of the pool take them as they come
// free. A piece computes the same bits wherever the cuts are, so that results do not depend on the number of threads.

import { at } from "./math";
import { productPiece } from "./gemm";

/** Kinds of work, by the functions that do a piece of it. */
export const PRODUCT = 0;

// The table that all threads look at: each of the first two words is alone on its cache line.
const LEFT = 0; // Pieces that nobody has taken.
const DONE = 16; // Pieces that are computed.
const PIECES = 32; // Pieces in all.
const KIND = 33;
const COUNT = 34; // Rows or columns to cut up,
const GRAIN = 35; // so many to a piece.
const ARGUMENTS = 36; // What the kind of work wants to know.
const WORDS = 64;

const SPINS = 1 << 14; // Looks at the table (some ten microseconds) before a thread lies down to sleep.

let table: usize = 0;
let threads = 1;
let inPiece = false; // What a piece calls is not cut up again.

/** Bytes of the table. */
export function threadsBytes(): i32 {
  return WORDS << 2;
}

/** From now on work is cut up for so many threads, this one among them. */
export function bindThreads(memory: usize, count: i32): void {
  table = memory;
  threads = count;
}

/** Threads that may work on what is called now. */
export function threadsFree(): i32 {
  return inPiece ? 1 : threads;
}

/** Address of an argument of the work to come, or under way. */
export function argument(i: i32): usize {
  return at(table, ARGUMENTS + i);
}

/** Do work of this kind, whose arguments are in the table, on `count` rows or columns, `grain` to a piece. */
export function share(kind: i32, count: i32, grain: i32): void {
  const pieces = (count + grain - 1) / grain;
  store<i32>(at(table, PIECES), pieces);
  store<i32>(at(table, KIND), kind);
  store<i32>(at(table, COUNT), count);
  store<i32>(at(table, GRAIN), grain);
  atomic.store<i32>(at(table, DONE), 0);
  atomic.store<i32>(at(table, LEFT), pieces);
  atomic.notify(at(table, LEFT), threads - 1);
  inPiece = true;
  while (takePiece()) {}
  inPiece = false;
  let spins = 0;
  for (let done = 0; done < pieces; done = atomic.load<i32>(at(table, DONE))) {
    if (++spins > SPINS) atomic.wait<i32>(at(table, DONE), done, -1);
  }
}

/** The life of a thread of the pool: it never returns. */
export function serve(memory: usize): void {
  table = memory;
  inPiece = true;
  for (let spins = 0; ; spins++) {
    if (takePiece()) spins = 0;
    else if (spins > SPINS) atomic.wait<i32>(at(table, LEFT), 0, -1);
  }
}

/** Take a piece and do it. Returns whether there was one. */
function takePiece(): bool {
  const left = atomic.load<i32>(at(table, LEFT));
  if (left == 0) return false;
  if (atomic.cmpxchg<i32>(at(table, LEFT), left, left - 1) != left) return true;
  const pieces = load<i32>(at(table, PIECES)); // The table stays as it is until this piece is done.
  const grain = load<i32>(at(table, GRAIN));
  const first = (left - 1) * grain;
  doPiece(load<i32>(at(table, KIND)), first, min(first + grain, load<i32>(at(table, COUNT))));
  if (atomic.add<i32>(at(table, DONE), 1) + 1 == pieces) atomic.notify(at(table, DONE), 1);
  return true;
}

function doPiece(kind: i32, first: i32, last: i32): void {
  if (kind == PRODUCT) productPiece(first, last);
}
