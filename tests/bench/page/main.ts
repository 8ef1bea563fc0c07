// The bench's page: hands the contest to a worker, because the app computes in one too.

import type { ContestRequest, ContestResult } from "./contest.ts";

declare global {
  var contest: (request: ContestRequest) => Promise<ContestResult>;
}

/** Called by the bench from outside of the browser. */
globalThis.contest = (request) =>
  new Promise((resolve, reject) => {
    const worker = new Worker(new URL("./contest.worker.ts", import.meta.url), { type: "module" });
    worker.addEventListener("message", ({ data }: MessageEvent<ContestResult | { failed: string }>) => {
      worker.terminate();
      if ("failed" in data) reject(new Error(data.failed));
      else resolve(data);
    });
    worker.addEventListener("error", ({ message }) => reject(new Error(message)));
    worker.postMessage(request, []);
  });
