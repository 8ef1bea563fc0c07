// Threads that end while they are wanted: work is finished without them, or refused by name where it cannot be.

import { readFileSync } from "node:fs";
import { Worker } from "node:worker_threads";
import { beforeAll, describe, expect, it } from "vitest";
import { startBackend } from "../../../src/engine/backend.ts";
import { matmul } from "../../../src/engine/ops/matmul.ts";
import * as tf from "../../../src/engine/tf.ts";
import { at, cpu, make, startThreads } from "../../../src/engine/wasm/heap.ts";
import { kernelThread, ThreadLostError, type ThreadWork } from "../../../src/engine/wasm/threads.ts";
import { normal, toTensor } from "../harness.ts";

const WASM_FILE = "node_modules/@tensorflow/tfjs-backend-wasm/dist/tfjs-backend-wasm-simd.wasm";

/** A thread as src/cli/threads.ts starts it. */
const SOUND = kernelThread.toString();

/** One that says nothing when it is trapped. */
const SILENT = `({ module, memory, own, table, number }, ready) => {
  const { exports } = new WebAssembly.Instance(module, { env: { memory }, threads: { pieceLost() {} } });
  exports.bindOwn(own);
  ready();
  setTimeout(() => exports.serve(table, number));
}`;

/** Start a thread and resolve when it is ready. Its end resolves `ended`. */
function startThread(life: string, work: ThreadWork): Promise<{ thread: Worker; ended: Promise<unknown> }> {
  const script = `
    const { parentPort, workerData } = require("node:worker_threads");
    (${life})(workerData, () => parentPort.postMessage("ready"));
  `;
  return new Promise((resolve) => {
    const thread = new Worker(script, { eval: true, workerData: work });
    thread.on("error", () => {});
    const ended = new Promise((end) => thread.once("exit", end));
    thread.once("message", () => resolve({ thread, ended }));
  });
}

const NOWHERE = 2 ** 32 - 64; // Of no memory: a thread with its own memory there is trapped by its first piece.

/** From now on one thread helps. */
async function haveThread(life: string, trapped: boolean) {
  let started: Awaited<ReturnType<typeof startThread>> | undefined;
  const start = async (work: ThreadWork) => {
    started = await startThread(life, trapped ? { ...work, own: NOWHERE } : work);
  };
  await startThreads({ count: 2, start });
  return started!;
}

describe("a backend with two threads", () => {
  let wanted: Buffer;
  const [a, b] = [normal([300, 400], 1), normal([400, 500], 2)];

  function product(): Buffer {
    const c = tf.tidy(() => matmul(toTensor(a), toTensor(b)));
    const values = c.dataSync();
    c.dispose();
    return Buffer.from(values.buffer);
  }

  const isRight = () => product().equals(wanted);

  beforeAll(async () => {
    const wasmUrl = `data:application/wasm;base64,${readFileSync(WASM_FILE).toString("base64")}`;
    const alone = { count: 2, start: () => Promise.reject(new Error("none")) };
    await startBackend({ prefer: "wasm", wasmUrl, threads: alone }); // Its memory can be shared.
    wanted = product();
  });

  /** Compute until the thread has had a piece. */
  async function productsUntil(ended: Promise<unknown>): Promise<void> {
    const over = ended.then(() => true);
    for (let round = 0; round < 500; round++) {
      expect(isRight()).toBe(true);
      const passed = new Promise<boolean>((resolve) => setTimeout(() => resolve(false)));
      if (await Promise.race([over, passed])) return;
    }
    throw new Error("the thread has had no piece");
  }

  it("does the piece again of one that was trapped", async () => {
    const { ended } = await haveThread(SOUND, true);
    await productsUntil(ended);
    expect(isRight()).toBe(true);
  });

  it("gives up one that vanished in the middle of a piece", async () => {
    const { ended } = await haveThread(SILENT, true);
    await productsUntil(ended);
    const startedMs = performance.now();
    expect(isRight()).toBe(true);
    expect(performance.now() - startedMs).toBeLessThan(1000); // Once is enough.
  });

  it("goes on after one was killed", async () => {
    const { thread } = await haveThread(SOUND, false);
    expect(isRight()).toBe(true);
    const killed = thread.terminate();
    for (let round = 0; round < 20; round++) expect(isRight()).toBe(true);
    await killed;
    expect(isRight()).toBe(true);
  });

  it("refuses to go on with tensors that a lost thread has changed in part", async () => {
    await haveThread(SOUND, true);
    const n = 2_000_000;
    const x = at(make([n]));
    const scaleOften = () => {
      for (let round = 0; round < 500; round++) cpu().scale(x, 0.5, x, n);
    };
    expect(scaleOften).toThrow(ThreadLostError);
    expect(isRight()).toBe(true);
  });
});
