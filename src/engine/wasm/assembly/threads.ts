// Threads over one memory. Work is cut into pieces; the thread that has it and those of the pool take them as they come
// free. A piece computes the same bits wherever the cuts are, so that results do not depend on the number of threads.
//
// A thread may end in the middle of a piece: trapped (it says so itself) or killed (it is given up after a while). The
// thread that has the work then does the piece again, if that gives the same; later work goes on without the lost one.

import { adamWPiece, squaresPiece } from "./adamW";
import { attentionGradientPiece, attentionPiece } from "./attention";
import { decodePiece, latentDecodePiece } from "./decode";
import { lossPiece } from "./headLoss";
import { topPiece } from "./distilLoss";
import { addPiece, addRowPiece, columnSumsPiece, scalePiece } from "./elementwise";
import { expertsGradientPiece, expertsPiece, slotSumsPiece } from "./experts";
import { bindGemm, gemmBytes, productPiece } from "./gemm";
import { at } from "./math";
import { normGradientPiece, normPiece } from "./norm";
import { rotatePiece } from "./rotate";
import { copyRowsPiece } from "./rows";
import { swiGluGradientPiece, swiGluPiece } from "./swiGlu";

/** Kinds of work, by the functions that do a piece of it. */
export const PRODUCT = 0;
export const ATTENTION = 1;
export const ATTENTION_GRADIENT = 2;
export const DECODE = 3;
export const LATENT_DECODE = 4;
export const NORM = 5;
export const NORM_GRADIENT = 6;
export const SWIGLU = 7;
export const SWIGLU_GRADIENT = 8;
export const LOSS = 9;
export const TOP = 10;
export const SQUARES = 11;
export const ADAMW = 12;
export const ADD = 13;
export const SCALE = 14;
export const ADD_ROW = 15;
export const COLUMN_SUMS = 16;
export const ROTATE = 17;
export const COPY_ROWS = 18;
export const EXPERTS = 19;
export const EXPERTS_GRADIENT = 20;
export const SLOT_SUMS = 21;

function doPiece(kind: i32, first: i32, last: i32): void {
  switch (kind) {
    case PRODUCT:
      return productPiece(first, last);
    case ATTENTION:
      return attentionPiece(first, last);
    case ATTENTION_GRADIENT:
      return attentionGradientPiece(first, last);
    case DECODE:
      return decodePiece(first, last);
    case LATENT_DECODE:
      return latentDecodePiece(first, last);
    case NORM:
      return normPiece(first, last);
    case NORM_GRADIENT:
      return normGradientPiece(first, last);
    case SWIGLU:
      return swiGluPiece(first, last);
    case SWIGLU_GRADIENT:
      return swiGluGradientPiece(first, last);
    case LOSS:
      return lossPiece(first, last);
    case TOP:
      return topPiece(first, last);
    case SQUARES:
      return squaresPiece(first, last);
    case ADAMW:
      return adamWPiece(first, last);
    case ADD:
      return addPiece(first, last);
    case SCALE:
      return scalePiece(first, last);
    case ADD_ROW:
      return addRowPiece(first, last);
    case COLUMN_SUMS:
      return columnSumsPiece(first, last);
    case ROTATE:
      return rotatePiece(first, last);
    case COPY_ROWS:
      return copyRowsPiece(first, last);
    case EXPERTS:
      return expertsPiece(first, last);
    case EXPERTS_GRADIENT:
      return expertsGradientPiece(first, last);
    case SLOT_SUMS:
      return slotSumsPiece(first, last);
  }
}

const MOST_ARGUMENTS = 32;
const MOST_PIECES = 32;

// The table that all threads look at: words by their places. Each of the first two is alone on its cache line.
const CALLS = 0; // Counts what was shared.
const OVER = 16; // Pieces that are done, or lost.
const KIND = 32;
const COUNT = 33; // Rows, columns or elements to cut up,
const GRAIN = 34; // so many to a piece.
const PIECES = 35;
const ARGUMENTS = 48; // What the kind of work wants to know.
const STATES = 80; // Of each piece: one of those below, or the number of the thread that has it, from 1 on.
const WORDS = 112;

const DONE = 0;
const OPEN = -1;
const LOST = -2;

const OURS = 1; // The number of the thread that has the work.
const WORTH = 80_000; // Nanoseconds of work from which on it is cut up: sleeping threads take some 20,000 to come.
const SPINS = 1 << 14; // Looks at the table (some ten microseconds) before a thread lies down to sleep.
const PATIENCE: i64 = 100_000_000; // Nanoseconds of sleep after which the pieces are counted again,
const LEAST_WAITS = 50; // so often at least without one more: a computer that sleeps meanwhile spends one of them only.
const WAITS_EACH: f64 = 10; // And for so many times what all of it should take: there are slower computers.
const TIMED_OUT = 2;

let table: usize = 0;
let own: usize = 0; // This thread's memory: the arguments of what it does.
let number = OURS;
let threads = 1;
let inPiece = false; // What a piece calls is not cut up again.
let held = -1; // The piece that this thread does for another.

/** Called where a piece is lost that cannot be done again. Throws. */
declare function pieceLost(): void;

/** Bytes of a thread's own memory. */
export function ownBytes(): i32 {
  return (MOST_ARGUMENTS << 2) + gemmBytes();
}

/** Give this thread its own memory, 64-byte aligned. */
export function bindOwn(memory: usize): void {
  own = memory;
  bindGemm(at(memory, MOST_ARGUMENTS));
}

/** Bytes of the table, which are to be zeros. */
export function threadsBytes(): i32 {
  return WORDS << 2;
}

/** From now on work is cut up for so many threads, this one among them. */
export function bindThreads(memory: usize, count: i32): void {
  table = memory;
  threads = count;
}

/** Bytes of working memory of which each thread needs so many. */
export function forEachThread(bytes: i32): i32 {
  return threads * bytes;
}

/** This thread's part of such working memory. */
export function ownPart(work: usize, bytes: i32): usize {
  return work + <usize>(number - OURS) * <usize>bytes;
}

/** Argument `i` of the work to come. */
export function give<T>(i: i32, value: T): void {
  store<T>(at(own, i), value);
}

/** Argument `i` of the piece that begins; what a piece calls has arguments in the same place. */
export function given<T>(i: i32): T {
  return load<T>(at(own, i));
}

/** Pieces of vectors begin at multiples of this: a vector's elements are computed together wherever the cuts are. */
export const LANES = 16;

/** Two pieces a thread, for they are not equally fast; a multiple of `step`. */
export function evenly(count: i32, step: i32): i32 {
  const pieces = min(2 * threads, MOST_PIECES);
  const even = (count + pieces - 1) / pieces;
  return ((even + step - 1) / step) * step;
}

/**
 * Do work of this kind, whose arguments are given, on `count` rows, columns or elements, which takes one thread so many
 * nanoseconds: if it is worth it, all do it, `grain` to a piece. `repeatable`: a piece that was begun may be done again.
 */
export function share(kind: i32, count: i32, grain: i32, nanoseconds: f64, repeatable: bool): void {
  if (inPiece || threads == 1 || count <= grain || nanoseconds < WORTH) return doPiece(kind, 0, count);
  const pieces = (count + grain - 1) / grain;
  memory.copy(at(table, ARGUMENTS), own, MOST_ARGUMENTS << 2);
  store<i32>(at(table, KIND), kind);
  store<i32>(at(table, COUNT), count);
  store<i32>(at(table, GRAIN), grain);
  store<i32>(at(table, PIECES), pieces);
  atomic.store<i32>(at(table, OVER), 0);
  for (let piece = 0; piece < pieces; piece++) atomic.store<i32>(at(table, STATES + piece), OPEN);
  atomic.add<i32>(at(table, CALLS), 1);
  atomic.notify(at(table, CALLS), threads - 1);
  inPiece = true;
  while (takePiece()) {}
  awaitOthers(pieces, LEAST_WAITS + <i32>((WAITS_EACH * nanoseconds) / <f64>PATIENCE));
  const whole = repairAll(pieces, repeatable);
  inPiece = false;
  if (!whole) pieceLost();
}

/** Wait until all pieces are over; after a while without news those under way are lost. */
function awaitOthers(pieces: i32, mostWaits: i32): void {
  let spins = 0;
  let waits = 0;
  for (let over = atomic.load<i32>(at(table, OVER)); over < pieces; ) {
    if (++spins > SPINS && atomic.wait<i32>(at(table, OVER), over, PATIENCE) == TIMED_OUT && ++waits == mostWaits) {
      for (let piece = 0; piece < pieces; piece++) {
        const holder = atomic.load<i32>(at(table, STATES + piece));
        if (holder > OURS) endPiece(piece, holder, LOST);
      }
    }
    const now = atomic.load<i32>(at(table, OVER));
    if (now != over) waits = 0;
    over = now;
  }
}

/** Do the lost pieces, if that may be. Returns whether all is done. */
function repairAll(pieces: i32, repeatable: bool): bool {
  for (let piece = 0; piece < pieces; piece++) {
    if (atomic.load<i32>(at(table, STATES + piece)) != LOST) continue;
    if (!repeatable) return false;
    compute(piece);
  }
  return true;
}

/** The life of a thread of the pool, whose number is from 2 on: it returns only if it was given up. */
export function serve(memory: usize, ownNumber: i32): void {
  table = memory;
  number = ownNumber;
  inPiece = true;
  let seen = 0;
  for (let spins = 0; number == ownNumber; spins++) {
    const calls = atomic.load<i32>(at(table, CALLS));
    if (calls != seen) {
      seen = calls;
      spins = 0;
      while (takePiece()) {}
    } else if (spins > SPINS) atomic.wait<i32>(at(table, CALLS), seen, -1);
  }
}

/** What a thread of the pool does after it was trapped: the piece it had is lost. */
export function abandon(): void {
  if (held >= 0) endPiece(held, number, LOST);
}

const GIVEN_UP = -1; // The number of a thread that was not waited for.

/** Take a piece and do it. Returns whether there was one. */
function takePiece(): bool {
  const pieces = load<i32>(at(table, PIECES));
  for (let piece = 0; piece < pieces; piece++) {
    const state = at(table, STATES + piece);
    if (atomic.load<i32>(state) != OPEN || atomic.cmpxchg<i32>(state, OPEN, number) != OPEN) continue;
    held = piece; // The table stays as it is until this piece is over.
    compute(piece);
    held = -1;
    if (endPiece(piece, number, DONE)) return true;
    number = GIVEN_UP;
    return false;
  }
  return false;
}

function compute(piece: i32): void {
  memory.copy(own, at(table, ARGUMENTS), MOST_ARGUMENTS << 2);
  const grain = load<i32>(at(table, GRAIN));
  const first = piece * grain;
  doPiece(load<i32>(at(table, KIND)), first, min(first + grain, load<i32>(at(table, COUNT))));
}

/** Returns whether the piece was still this thread's. */
function endPiece(piece: i32, holder: i32, state: i32): bool {
  const pieces = load<i32>(at(table, PIECES));
  if (atomic.cmpxchg<i32>(at(table, STATES + piece), holder, state) != holder) return false;
  if (atomic.add<i32>(at(table, OVER), 1) + 1 == pieces) atomic.notify(at(table, OVER), 1);
  return true;
}
