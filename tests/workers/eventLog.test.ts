import "fake-indexeddb/auto";
import { beforeEach, describe, expect, it, vi } from "vitest";
import type { RunEvent } from "../../src/protocol/run.ts";
import { type Database, openDatabase } from "../../src/storage/database.ts";
import { readEvents } from "../../src/storage/runs.ts";
import { openEventLog } from "../../workers/eventLog.ts";
import { events } from "../app/recordedRun.ts";

const RUN = "run-1";
let database: Database;

beforeEach(async () => {
  database = await openDatabase(crypto.randomUUID());
});

const fleeting = new Set(["scoring", "evaluating", "measuringLatency", "exporting", "finished"]);
const kept = (told: RunEvent[]) => told.filter(({ type }) => !fleeting.has(type));

describe("the event log", () => {
  it("stores all but what is of the moment, in order", async () => {
    const log = openEventLog(database, RUN, 0);
    for (const event of events) log.add(event);
    expect(await log.flush()).toBe(kept(events).length);
    expect(await readEvents(database, RUN)).toEqual(kept(events));
  });

  it("goes on where a run was cut off", async () => {
    const told = kept(events);
    const first = openEventLog(database, RUN, 0);
    for (const event of told.slice(0, 10)) first.add(event);
    const stored = await first.flush();
    const second = openEventLog(database, RUN, stored);
    for (const event of told.slice(10)) second.add(event);
    expect(await second.flush()).toBe(told.length);
    expect(await readEvents(database, RUN)).toEqual(told);
  });

  it("writes by itself once a second has gone by", async () => {
    vi.useFakeTimers({ toFake: ["performance"] });
    const log = openEventLog(database, RUN, 0);
    log.add(kept(events)[0]);
    expect(await readEvents(database, RUN)).toEqual([]);
    vi.advanceTimersByTime(1001);
    log.add(kept(events)[1]);
    vi.useRealTimers();
    await vi.waitFor(async () => expect(await readEvents(database, RUN)).toHaveLength(2));
  });

  it("keeps what could not be written, and says so at the next flush", async () => {
    const log = openEventLog(database, RUN, 0);
    const add = vi.spyOn(database, "transaction").mockImplementationOnce(() => {
      throw new DOMException("full", "QuotaExceededError");
    });
    log.add(kept(events)[0]);
    await expect(log.flush()).rejects.toMatchObject({ name: "QuotaExceededError" });
    add.mockRestore();
    log.add(kept(events)[1]);
    expect(await log.flush()).toBe(2);
    expect(await readEvents(database, RUN)).toEqual(kept(events).slice(0, 2));
  });
});
