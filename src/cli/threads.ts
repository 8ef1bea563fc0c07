// Threads for the engine in Node.

import { availableParallelism } from "node:os";
import { Worker } from "node:worker_threads";
import { kernelThread, type ThreadHost, threadsFor } from "../engine/wasm/threads.ts";

/** As text, because a bundle's file holds more than a thread should load. */
const script = `
  const { parentPort, workerData } = require("node:worker_threads");
  (${kernelThread.toString()})(workerData, () => parentPort.postMessage("ready"));
`;

export function nodeThreads(count = threadsFor(availableParallelism())): ThreadHost {
  return {
    count,
    start: (work) =>
      new Promise((resolve, reject) => {
        const thread = new Worker(script, { eval: true, workerData: work });
        thread.once("message", () => {
          thread.unref(); // It serves as long as the process has other things to do.
          resolve();
        });
        thread.once("error", reject);
      }),
  };
}
