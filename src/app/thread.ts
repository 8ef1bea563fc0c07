// A worker thread with a beginning and an end. When it dies, everything that still waits for it is told so.

import { type Remote, releaseProxy, wrap } from "comlink";
import { Failure } from "../storage/failure.ts";

const BEAT_MS = 5000;
const SILENT_AFTER_MS = 60_000;

interface TrustedTypes {
  createPolicy(
    name: string,
    rules: { createScriptURL: (url: string) => string },
  ): { createScriptURL(url: string): URL };
}

/** The page's policy lets a script's address through only by this door. */
const policy = (globalThis as { trustedTypes?: TrustedTypes }).trustedTypes?.createPolicy("app-worker", {
  createScriptURL: checkedUrl,
});

function checkedUrl(url: string): string {
  const { origin, pathname, href } = new URL(url, location.href);
  if (origin !== location.origin || !/\/(?:assets|workers)\/[\w.-]+$/.test(pathname)) {
    throw new Error(`${href} is not a worker of this page.`);
  }
  return href;
}

interface Heartbeat {
  ping(): void;
}

export class Thread<Api extends Heartbeat> {
  readonly #worker: Worker;
  readonly #api: Remote<Api>;
  readonly #timer: ReturnType<typeof setInterval>;
  readonly #onSilence: (silent: boolean) => void;
  /** How to end each call that has not been answered yet. */
  readonly #waiting = new Set<(failure: Failure) => void>();
  #ended: Failure | null = null;
  #lastBeatMs = performance.now();
  #beating = false;
  #silent = false;

  /** `onSilence` is told when the thread stops answering and when it answers again; `onDeath` once, why it ended by itself. */
  constructor(url: string, onSilence: (silent: boolean) => void, onDeath: (failure: Failure) => void) {
    this.#worker = new Worker(policy ? policy.createScriptURL(url) : checkedUrl(url), {
      type: "module",
    });
    this.#api = wrap<Api>(this.#worker);
    this.#onSilence = onSilence;
    this.#worker.addEventListener("error", (event) => {
      const said = event.message ? ` It said: ${event.message}` : "";
      const failure = new Failure(
        "workerDied",
        `A worker of this page ended.${said} Stored work is safe: start the engine again or reload the page.`,
      );
      this.end(failure);
      onDeath(failure);
    });
    this.#timer = setInterval(() => this.#beat(), BEAT_MS);
  }

  /** Call the worker. Rejects with its failure, or with "workerDied" if it ends before it answers. */
  call<R extends Promise<unknown>>(use: (api: Remote<Api>) => R): Promise<Awaited<R>> {
    return new Promise<Awaited<R>>((resolve, reject) => {
      if (this.#ended) {
        reject(this.#ended);
        return;
      }
      this.#waiting.add(reject);
      (use(this.#api) as Promise<Awaited<R>>).then(resolve, reject).finally(() => this.#waiting.delete(reject));
    });
  }

  /** It said something of itself: it is not silent, even if it has not come round to answering. */
  noticeLife(): void {
    this.#lastBeatMs = performance.now();
    this.#setSilent(false);
  }

  /** End the thread. Whoever still waits for it gets `failure`. */
  end(failure: Failure): void {
    if (this.#ended) return;
    this.#ended = failure;
    clearInterval(this.#timer);
    this.#worker.terminate();
    for (const reject of this.#waiting) reject(failure);
    this.#waiting.clear();
    this.#api[releaseProxy]();
  }

  #beat(): void {
    if (!this.#beating) {
      this.#beating = true;
      this.call((api) => (api as Remote<Heartbeat>).ping())
        .then(() => {
          this.#beating = false;
          this.noticeLife();
        })
        .catch(() => {}); // It ended; who asked for something has been told.
      return;
    }
    if (performance.now() - this.#lastBeatMs > SILENT_AFTER_MS) this.#setSilent(true);
  }

  #setSilent(silent: boolean): void {
    if (silent === this.#silent) return;
    this.#silent = silent;
    this.#onSilence(silent);
  }
}
