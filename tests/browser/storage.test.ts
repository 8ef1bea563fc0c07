// Checkpoints, files and locks on a real browser's file system: what an in-memory one cannot show.

import { proxy, type Remote, wrap } from "comlink";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { cdp } from "vitest/browser";
import { openFiles } from "../../src/storage/files.ts";
import { heldLocks } from "../../src/storage/locks.ts";
import type { ProbeApi } from "./storageProbe.worker.ts";
import probeUrl from "./storageProbe.worker.ts?worker&url";

const MEGABYTE = 1024 * 1024;
const workers: Worker[] = [];
let runId: string;

/** A worker as a tab would have it; `end` stops it as a closed tab would, wherever it is. */
function openProbe(): { probe: Remote<ProbeApi>; end: () => void } {
  const worker = new Worker(probeUrl, { type: "module" });
  workers.push(worker);
  return { probe: wrap<ProbeApi>(worker), end: () => worker.terminate() };
}

beforeEach(() => {
  runId = crypto.randomUUID();
});

afterEach(async () => {
  for (const worker of workers.splice(0)) worker.terminate();
  const root = await navigator.storage.getDirectory();
  for await (const name of root.keys()) await root.removeEntry(name, { recursive: true }).catch(() => {});
});

/** The newest checkpoint as a worker started now finds it. */
const loaded = () => openProbe().probe.load(runId);

describe("checkpoints in a browser", () => {
  it("are there for the next worker, to the last byte", async () => {
    const { probe, end } = openProbe();
    await probe.save(runId, 5, 3 * MEGABYTE + 7);
    end();
    expect(await loaded()).toEqual({ step: 5, right: true });
  });

  it("fall back to the one before when the newest file is cut short", async () => {
    const { probe } = openProbe();
    await probe.save(runId, 5, MEGABYTE);
    const slot = await probe.save(runId, 10, MEGABYTE);
    const file = await (await openFiles()).file(`runs/${runId}/checkpoint-${slot}`);
    await probe.write(`runs/${runId}/checkpoint-${slot}`, new Uint8Array(await file.slice(0, -1).arrayBuffer()));
    expect(await loaded()).toEqual({ step: 5, right: true });
  });

  it("are never torn and never lost by a worker that ends in the middle of saving", async () => {
    let safe = 0;
    for (let round = 0; round < 6; round++) {
      const { probe, end } = openProbe();
      const saved = new Promise<void>((resolve) => {
        const onSaved = (step: number) => {
          safe = step;
          resolve();
        };
        probe.saveOn(runId, safe + 1, 8 * MEGABYTE, proxy(onSaved)).catch(() => {});
      });
      await saved; // The next save is under way, or about to be.
      await new Promise((resolve) => setTimeout(resolve, 23 * round));
      end();
      const found = await loaded();
      expect(found?.right).toBe(true);
      expect(found?.step).toBeGreaterThanOrEqual(safe);
      safe = found?.step ?? 0;
    }
    const { probe } = openProbe();
    await probe.save(runId, 1000, MEGABYTE);
    expect(await loaded()).toEqual({ step: 1000, right: true });
  });

  it("stay when the browser's quota is reached, which is told in a sentence", async () => {
    const { probe } = openProbe();
    await probe.save(runId, 5, MEGABYTE);
    const { usage = 0 } = await navigator.storage.estimate();
    const session = cdp() as unknown as { send(method: string, given: object): Promise<void> };
    await session.send("Storage.overrideQuotaForOrigin", { origin: location.origin, quotaSize: usage + 4 * MEGABYTE });
    try {
      await expect(probe.save(runId, 10, 24 * MEGABYTE)).rejects.toMatchObject({
        name: "quota",
        message: expect.stringMatching(/no room left for .*25\.\d MB.*what was stored before is untouched/),
      });
      expect(await loaded()).toEqual({ step: 5, right: true });
      await probe.save(runId, 15, MEGABYTE); // The room of the failed one was given back.
    } finally {
      await session.send("Storage.overrideQuotaForOrigin", { origin: location.origin });
    }
    expect(await loaded()).toEqual({ step: 15, right: true });
  });
});

describe("files in a browser", () => {
  it("reach the page as they were written in the worker, without a copy of them", async () => {
    const bytes = Uint8Array.from({ length: 5000 }, (_, index) => (index * 13) % 256);
    await openProbe().probe.write("runs/x/files/model/config.json", bytes);
    const file = await (await openFiles()).file("runs/x/files/model/config.json");
    expect(file.size).toBe(5000);
    expect(new Uint8Array(await file.arrayBuffer())).toEqual(bytes);
  });

  it("are not written from the page", async () => {
    await expect((await openFiles()).write("a", [new Uint8Array(3)])).rejects.toMatchObject({ name: "unsupported" });
  });
});

describe("locks in a browser", () => {
  it("keep a second tab out until the first one ends, however it ends", async () => {
    const [first, second] = [openProbe(), openProbe()];
    const name = `run:${runId}`;
    await first.probe.hold(name);
    expect((await heldLocks()).has(name)).toBe(true);
    await expect(second.probe.hold(name)).rejects.toMatchObject({
      name: "elsewhere",
      message: "Another tab holds it.",
    });
    first.end();
    await expect.poll(async () => (await heldLocks()).has(name)).toBe(false);
    await second.probe.hold(name);
  });
});
