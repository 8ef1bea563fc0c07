// Threads for the engine on the page: workers of the GPU worker.

import { type ThreadHost, type ThreadWork, threadsFor } from "../src/engine/wasm/threads.ts";
import kernelUrl from "./kernel.worker.ts?worker&url";

/** None where memory cannot be shared: that takes a page isolated from other origins. */
export function pageThreads(): ThreadHost | undefined {
  if (!globalThis.crossOriginIsolated) return undefined;
  return { count: threadsFor(navigator.hardwareConcurrency), start };
}

interface TrustedTypes {
  createPolicy(name: string, rules: { createScriptURL: () => string }): { createScriptURL(url: string): URL };
}

let script: string | URL | undefined;

/** The one script that this thread starts; the page's policy wants its address to come through this door. */
function scriptUrl(): string | URL {
  const { href } = new URL(kernelUrl, location.href);
  const { trustedTypes } = globalThis as { trustedTypes?: TrustedTypes };
  script ??= trustedTypes?.createPolicy("app-worker", { createScriptURL: () => href }).createScriptURL(href) ?? href;
  return script;
}

function start(work: ThreadWork): Promise<void> {
  return new Promise((resolve, reject) => {
    const thread = new Worker(scriptUrl(), { type: "module" });
    thread.addEventListener("message", () => resolve(), { once: true });
    thread.addEventListener("error", ({ message }) => reject(new Error(`A thread did not start: ${message}`)));
    thread.postMessage(work, []);
  });
}
