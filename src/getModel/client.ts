// The page's side of its worker.

import { proxy, wrap } from "comlink";
import type { GetModelApi } from "./getModel.worker.ts";
import workerUrl from "./getModel.worker.ts?worker&url";
import type { Snapshot } from "./hub.ts";
import type { Job, JobProgress } from "./job.ts";

interface TrustedTypes {
  createPolicy(
    name: string,
    rules: { createScriptURL: (url: string) => string },
  ): { createScriptURL(url: string): URL };
}

/** The page's policy lets a script's address through only by this door. */
const policy = (globalThis as { trustedTypes?: TrustedTypes }).trustedTypes?.createPolicy("app-worker", {
  createScriptURL: onlyOurs,
});

function onlyOurs(url: string): string {
  const { href } = new URL(url, location.href);
  if (href !== new URL(workerUrl, location.href).href) throw new Error(`${href} is not the worker of this page.`);
  return href;
}

export type Client = ReturnType<typeof openClient>;

/** Start the worker. `onDeath` is told if it ends; what it was asked for then never comes. */
export function openClient(onDeath: () => void) {
  const worker = new Worker(policy ? policy.createScriptURL(workerUrl) : onlyOurs(workerUrl), { type: "module" });
  const api = wrap<GetModelApi>(worker);
  worker.addEventListener("error", onDeath);
  return {
    open: () => api.open(),
    list: (text: string) => api.list(text),
    choose: (chosen: Snapshot) => api.choose(chosen),
    run: (job: Job, onProgress: (progress: JobProgress) => void) => api.run(job, proxy(onProgress)),
    pause: () => api.pause(),
    remove: () => api.remove(),
  };
}
