// The page's client with its real workers: what a person brings, and what becomes of calls when a worker ends.

import { afterEach, describe, expect, it, vi } from "vitest";
import dataWorkerUrl from "../../workers/data.worker.ts?worker&url";
import type { DataApi } from "../../workers/data.worker.ts";
import { openClient } from "../../src/app/client.ts";
import { Thread } from "../../src/app/thread.ts";
import { openDatabase } from "../../src/storage/database.ts";
import { Failure } from "../../src/storage/failure.ts";
import { runLock, withLock } from "../../src/storage/locks.ts";
import { appendEvents, createRun } from "../../src/storage/runs.ts";
import { recipe } from "../storage/states.ts";

const client = openClient({ onSilence: () => {}, onDeath: () => {} });
const threads: Thread<DataApi>[] = [];

function openThread(url = dataWorkerUrl) {
  const told = { silence: [] as boolean[], deaths: [] as Failure[] };
  const thread = new Thread<DataApi>(
    url,
    (silent) => told.silence.push(silent),
    (failure) => told.deaths.push(failure),
  );
  threads.push(thread);
  return { thread, told };
}

afterEach(() => {
  vi.useRealTimers();
  for (const thread of threads.splice(0)) thread.end(new Failure("workerDied", "The test is over."));
});

describe("importing", () => {
  it("stores the cases of a file, names the rows that cannot be used, and tells how far it is", async () => {
    const lines = Array.from(
      { length: 400 },
      (_, index) => `question ${index},${index === 70 ? "" : `answer ${index}`}`,
    );
    const file = new File([`question,answer\n${lines.join("\n")}\n`], "rows.csv");
    const progress: number[] = [];
    const result = await client.importFile(file, (done) => progress.push(done));
    expect(result).toMatchObject({
      dataset: { name: "rows.csv", cases: 399 },
      skippedCount: 1,
      skipped: [{ row: 72 }],
    });
    expect(progress.at(-1)).toBe(file.size);
    const id = result?.dataset.id ?? "";
    expect((await client.datasets()).map((dataset) => dataset.id)).toContain(id);

    const study = { kind: "imported", datasetId: id, validation: 0.1, test: 0.2 } as const;
    const drawn = await client.drawCase({ ...recipe, study }, 12_345);
    expect(drawn.answer).toBe(drawn.question.replace("question", "answer"));
    expect(await client.drawCase({ ...recipe, study }, 12_345)).toEqual(drawn);
    expect(await client.isRight(drawn, ` ${drawn.answer.toUpperCase()}. `)).toBe(true);
    expect(await client.isRight(drawn, "answer")).toBe(false);

    await client.deleteDataset(id);
    await expect(client.drawCase({ ...recipe, study }, 1)).rejects.toMatchObject({ name: "missing" });
  });

  it("stores nothing of a file that is cancelled", async () => {
    const before = (await client.datasets()).length;
    const file = new File(
      ["question,answer\n", ...Array.from({ length: 60_000 }, () => `${"why ".repeat(50)},so\n`)],
      "big.csv",
    );
    let cancelled: Promise<void> | null = null;
    const result = await client.importFile(file, () => {
      cancelled ??= client.cancelImport();
    });
    expect(cancelled).not.toBeNull();
    expect(result).toBeNull();
    expect(await client.datasets()).toHaveLength(before);
  });

  it("says what is wrong with a file of which nothing can be used", async () => {
    await expect(client.importFile(new File(["a,b\n1,2\n"], "x.csv"), () => {})).rejects.toMatchObject({
      name: "input",
      message: expect.stringContaining("question"),
    });
  });
});

describe("runs", () => {
  it("that say they are running and are held by no tab were cut off; one that is held is elsewhere", async () => {
    const database = await openDatabase();
    const { id } = await createRun(database, recipe);
    await appendEvents(database, id, 0, [{ type: "checkpointed", stage: 0, step: 1 }]);
    const status = async () => (await client.runs()).find(({ record }) => record.id === id)?.status;
    expect(await status()).toBe("interrupted");
    await withLock(runLock(id), "", async () => {
      expect(await status()).toBe("elsewhere");
      await expect(client.deleteRun(id)).rejects.toMatchObject({ name: "elsewhere" });
    });
    await client.deleteRun(id);
    expect(await status()).toBeUndefined();
    expect(await client.events(id)).toEqual([]);
  });

  it("remember language and draft", async () => {
    await client.saveSettings({ language: "zh" });
    expect(await client.settings()).toMatchObject({ language: "zh" });
  });
});

describe("a worker thread", () => {
  it("rejects what waits for it when it is ended, and whatever is asked afterwards", async () => {
    const { thread, told } = openThread();
    const waiting = thread.call((api) => api.drawCase(recipe, 1));
    const reason = new Failure("workerDied", "Ended by the test.");
    thread.end(reason);
    await expect(waiting).rejects.toBe(reason);
    await expect(thread.call((api) => api.drawCase(recipe, 1))).rejects.toBe(reason);
    expect(told.deaths).toEqual([]);
  });

  it("that cannot start tells it, and rejects what waits for it", async () => {
    const { thread, told } = openThread(`${location.origin}/workers/none.worker.ts`);
    await expect(thread.call((api) => api.drawCase(recipe, 1))).rejects.toMatchObject({ name: "workerDied" });
    expect(told.deaths).toHaveLength(1);
  });

  it("is silent when it does not answer for a minute, until it answers", async () => {
    vi.useFakeTimers({ toFake: ["setInterval", "clearInterval", "performance"] });
    const { told } = openThread();
    vi.advanceTimersByTime(70_000); // No message can come in between: as if the thread computed all that time.
    expect(told.silence).toEqual([true]);
    await vi.waitFor(() => expect(told.silence).toEqual([true, false]), { timeout: 10_000 });
  });

  it("is not silent while it tells of itself", () => {
    vi.useFakeTimers({ toFake: ["setInterval", "clearInterval", "performance"] });
    const { thread, told } = openThread();
    for (let count = 0; count < 10; count++) {
      vi.advanceTimersByTime(30_000);
      thread.noticeLife();
    }
    expect(told.silence).toEqual([]);
  });

  it.each([
    ["https://example.org/workers/data.worker.ts"],
    [`${location.origin}/elsewhere/data.worker.ts`],
    ["data:text/javascript,postMessage(1)"],
  ])("is not made from %s", (url) => {
    expect(() => openThread(url)).toThrow("is not a worker of this page");
  });
});
