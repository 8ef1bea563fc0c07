// Asking a server again until it answers: connections break, and a hub that is busy says so.

import { Troubled } from "./trouble.ts";

/** A request that may succeed when it is made again. */
export class Broken extends Error {}

export interface Patience {
  /** Ends the work at once. */
  signal: AbortSignal;
  /** Before the attempt after the first, second, … failure in a row; when there are no more, it is given up. */
  waitsMs: readonly number[];
  /** A connection that brings nothing for so long counts as broken. */
  silenceMs: number;
  /** Told when it waits. */
  onWait?: (waitMs: number) => void;
}

export const PATIENCE = { waitsMs: [1000, 2000, 4000, 8000, 16_000, 32_000], silenceMs: 60_000 } as const;

/** Nothing of this page or its person goes along; nothing is put aside in the browser's cache (some abort large answers). */
const PLAIN: RequestInit = { cache: "no-store", credentials: "omit", referrerPolicy: "no-referrer" };

/**
 * Make `attempt` until it succeeds. `reached` tells how far it is: whoever gets further than ever before is given all the
 * patience again.
 */
export async function patiently<T>(
  what: string,
  { signal, waitsMs, onWait }: Patience,
  attempt: () => Promise<T>,
  reached: () => number = () => 0,
): Promise<T> {
  let [failures, furthest] = [0, reached()];
  for (;;) {
    try {
      return await attempt();
    } catch (error) {
      signal.throwIfAborted();
      if (!(error instanceof Broken)) throw error;
      failures = reached() > furthest ? 1 : failures + 1;
      furthest = Math.max(furthest, reached());
      if (failures > waitsMs.length) throw new Troubled({ kind: "unreachable", what });
      onWait?.(waitsMs[failures - 1]);
      await rest(waitsMs[failures - 1], signal);
    }
  }
}

/**
 * Fetch `url` and hand the answer to `use`, which calls `alive` for every sign of life. Throws Broken for what may go
 * better next time, a trouble for what will not.
 */
export async function request<T>(
  url: string,
  { what, headers, accept }: { what: string; headers?: Record<string, string>; accept: readonly number[] },
  { signal, silenceMs }: Patience,
  use: (response: Response, alive: () => void) => Promise<T>,
): Promise<T> {
  const silence = new AbortController();
  const fallSilent = () => silence.abort();
  let timer = setTimeout(fallSilent, silenceMs);
  const alive = () => {
    clearTimeout(timer);
    timer = setTimeout(fallSilent, silenceMs);
  };
  try {
    const both = AbortSignal.any([signal, silence.signal]);
    const response = await broken(() => fetch(url, { ...PLAIN, headers, signal: both }));
    if (accept.includes(response.status)) return await use(response, alive);
    await response.body?.cancel().catch(() => {}); // A connection that nobody reads would stay open.
    throw refusal(response.status, what);
  } finally {
    clearTimeout(timer);
    silence.abort();
  }
}

/** What fetch and its streams throw is a broken connection. */
export async function broken<T>(network: () => Promise<T>): Promise<T> {
  try {
    return await network();
  } catch (error) {
    throw new Broken(String(error), { cause: error });
  }
}

function refusal(status: number, what: string): Error {
  if (status === 408 || status === 429 || status >= 500) return new Broken(`status ${status}`);
  // The hub answers 401 for what it does not have, so as not to tell private from absent.
  if (status === 401 || status === 404) return new Troubled({ kind: "notFound", what });
  if (status === 403) return new Troubled({ kind: "gated", what });
  return new Troubled({ kind: "status", what, status });
}

async function rest(ms: number, signal: AbortSignal): Promise<void> {
  signal.throwIfAborted(); // Whoever was told of the wait may have ended it.
  await new Promise<void>((resolve, reject) => {
    const onAbort = () => {
      clearTimeout(timer);
      reject(signal.reason as Error);
    };
    const timer = setTimeout(() => {
      signal.removeEventListener("abort", onAbort);
      resolve();
    }, ms);
    signal.addEventListener("abort", onAbort, { once: true });
  });
}
