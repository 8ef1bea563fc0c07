import "fake-indexeddb/auto";
import * as fc from "fast-check";
import { beforeEach, describe, expect, it } from "vitest";
import { openCheckpoints } from "../../src/storage/checkpoints.ts";
import { type Database, openDatabase } from "../../src/storage/database.ts";
import { type Files, filesIn } from "../../src/storage/files.ts";
import { type MemoryFileSystem, memoryFileSystem } from "./memoryFileSystem.ts";
import { checkpointAt } from "./states.ts";

const RUN = "run-1";
let database: Database;
let system: MemoryFileSystem;
let files: Files;

beforeEach(async () => {
  database = await openDatabase(crypto.randomUUID());
  system = memoryFileSystem();
  files = filesIn(system.root);
});

const reopened = () => openCheckpoints(database, files, RUN);

/** Save steps 5, 10, 15 and so on. Returns the slot of the last one. */
async function saveSteps(count: number): Promise<string> {
  const checkpoints = reopened();
  let slot = "";
  for (let index = 1; index <= count; index++) slot = (await checkpoints.save(checkpointAt(2, index * 5), index)).slot;
  return `runs/${RUN}/checkpoint-${slot}`;
}

describe("the checkpoints of a run", () => {
  it("are none before the first is saved", async () => {
    expect(await reopened().load()).toBeNull();
  });

  it("come back to the last byte, with how many events had been told", async () => {
    await saveSteps(3);
    const loaded = await reopened().load();
    expect({ state: loaded?.state, tensors: loaded?.tensors }).toEqual(checkpointAt(2, 15));
    expect(loaded?.record).toMatchObject({ stage: 2, step: 15, events: 3, sequence: 3 });
  });

  it("keep two of one run apart from those of another", async () => {
    await saveSteps(2);
    expect(await openCheckpoints(database, files, "run-2").load()).toBeNull();
  });

  it("fall back to the one before when any byte of the newest has changed", async () => {
    const path = await saveSteps(2);
    const whole = system.peek(path).bytes;
    await fc.assert(
      fc.asyncProperty(fc.nat(whole.byteLength - 1), fc.integer({ min: 1, max: 255 }), async (at, mask) => {
        const damaged = whole.slice();
        damaged[at] ^= mask;
        system.peek(path).bytes = damaged;
        expect((await reopened().load())?.state.step).toBe(5);
      }),
      { numRuns: 60, seed: 1 },
    );
  });

  it("fall back to the one before when the newest was cut off anywhere", async () => {
    const path = await saveSteps(3);
    const whole = system.peek(path).bytes;
    for (const length of [0, 1, 7, 8, 9, 500, whole.byteLength - 1]) {
      system.peek(path).bytes = whole.slice(0, length);
      expect((await reopened().load())?.state.step).toBe(10);
    }
  });

  it("spare the whole one when they go on after a fall back", async () => {
    const path = await saveSteps(2);
    system.peek(path).bytes = new Uint8Array(3);
    const checkpoints = reopened();
    await checkpoints.load();
    const { slot, sequence } = await checkpoints.save(checkpointAt(2, 11), 4);
    expect(path).toMatch(new RegExp(`checkpoint-${slot}$`));
    expect(sequence).toBe(2);
    expect((await reopened().load())?.state.step).toBe(11);
  });

  it("spare the newest whole one when saving begins without loading", async () => {
    const path = await saveSteps(3);
    const { slot } = await reopened().save(checkpointAt(2, 20), 4);
    expect(path).not.toMatch(new RegExp(`checkpoint-${slot}$`));
  });

  it("say that they are damaged when none is whole", async () => {
    await saveSteps(2);
    for (const slot of ["a", "b"]) system.peek(`runs/${RUN}/checkpoint-${slot}`).bytes = new Uint8Array(40);
    await expect(reopened().load()).rejects.toMatchObject({ name: "damaged", message: /None of the 2 checkpoints/ });
  });

  it("leave the last one as it was when the disk is full, and say how much was wanted", async () => {
    await saveSteps(2);
    system.disk.capacityBytes = system.disk.usedBytes + 100;
    const checkpoints = reopened();
    await checkpoints.load();
    await expect(checkpoints.save(checkpointAt(2, 15, 5_000_000), 3)).rejects.toMatchObject({
      name: "quota",
      message: /5\.0 MB.*no room|no room left for .*5\.0 MB/,
    });
    expect((await reopened().load())?.state.step).toBe(10);
  });

  it("are not read by a version that does not know them", async () => {
    const strange = checkpointAt(2, 5);
    await reopened().save({ ...strange, state: { ...strange.state, schemaVersion: 2 as 1 } }, 0);
    await expect(reopened().load()).rejects.toMatchObject({ name: "version" });
  });
});
