// The JavaScript heaps of a page and its workers, buffers outside of the heap included, over DevTools' protocol.

import type { Page } from "playwright";

export interface HeapWatch {
  /** The most that any one of them has taken so far. */
  peakBytes: () => number;
}

const EVERY_MS = 50;

interface HeapUsage {
  usedSize: number;
  backingStorageSize?: number;
}

/** Begin to watch; workers that start later are watched too. */
export async function watchHeaps(page: Page): Promise<HeapWatch> {
  const session = await page.context().newCDPSession(page);
  let [peak, next] = [0, 1];
  const workers = new Set<string>();
  const note = ({ usedSize, backingStorageSize = 0 }: HeapUsage): void => {
    peak = Math.max(peak, usedSize + backingStorageSize);
  };
  session.on("Target.attachedToTarget", ({ sessionId }) => workers.add(sessionId));
  session.on("Target.detachedFromTarget", ({ sessionId }) => workers.delete(sessionId));
  session.on("Target.receivedMessageFromTarget", ({ message }) => {
    const { result } = JSON.parse(message) as { result?: HeapUsage };
    if (result?.usedSize !== undefined) note(result);
  });
  await session.send("Target.setAutoAttach", { autoAttach: true, waitForDebuggerOnStart: false, flatten: false });
  const timer = setInterval(() => {
    for (const sessionId of workers) {
      const message = JSON.stringify({ id: next++, method: "Runtime.getHeapUsage" });
      session.send("Target.sendMessageToTarget", { sessionId, message }).catch(() => workers.delete(sessionId));
    }
  }, EVERY_MS);
  page.once("close", () => clearInterval(timer));
  return { peakBytes: () => peak };
}
