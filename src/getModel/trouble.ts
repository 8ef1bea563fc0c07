// What can go wrong here, as data: the words for it are in en.ts and zh.ts, because errors lose all but a text between
// threads.

import { asFailure, Failure } from "../storage/failure.ts";

export type Trouble =
  /** What was typed is no owner/name@revision. */
  | { kind: "notARepository"; text: string }
  /** The hub did not answer, or broke off again and again. */
  | { kind: "unreachable"; what: string }
  /** It has no such repository or revision, or shows it to nobody who has not signed in. */
  | { kind: "notFound"; what: string }
  /** Its owner asks for a signature first. */
  | { kind: "gated"; what: string }
  | { kind: "status"; what: string; status: number }
  /** The hub said something else than its interface promises. */
  | { kind: "notUnderstood"; what: string }
  /** There is nothing in it that Espalier reads. */
  | { kind: "nothingToFetch"; repository: string }
  /** The hub tells another checksum than the one that this page knows. */
  | { kind: "notAsPinned"; path: string; wanted: string; found: string }
  | { kind: "wrongSize"; path: string; wantedBytes: number }
  | { kind: "wrongChecksum"; path: string; wanted: string; found: string }
  | { kind: "noRoom"; neededBytes: number; freeBytes: number }
  /** The browser's storage said no; its own sentence says why. */
  | { kind: "storage"; message: string };

/** Work that ended because of a trouble. */
export class Troubled extends Error {
  readonly trouble: Trouble;

  constructor(trouble: Trouble) {
    super(JSON.stringify(trouble));
    this.trouble = trouble;
  }
}

/** What `work` gives, or the trouble that it met. */
export async function orTrouble<T>(work: () => Promise<T>): Promise<T | { trouble: Trouble }> {
  try {
    return await work();
  } catch (error) {
    if (error instanceof Troubled) return { trouble: error.trouble };
    const failure = error instanceof Failure ? error : asFailure(error);
    return { trouble: { kind: "storage", message: failure.message } };
  }
}
