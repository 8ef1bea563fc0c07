import "fake-indexeddb/auto";
import { beforeEach, describe, expect, it, vi } from "vitest";
import type { Case } from "../../src/protocol/data.ts";
import type { RunEvent } from "../../src/protocol/run.ts";
import { openCheckpoints } from "../../src/storage/checkpoints.ts";
import { type Database, openDatabase } from "../../src/storage/database.ts";
import { deleteDataset, listDatasets, readDataset, saveDataset } from "../../src/storage/datasets.ts";
import { type Files, filesIn } from "../../src/storage/files.ts";
import {
  appendEvents,
  createRun,
  deleteRun,
  filePath,
  latestCheckpoint,
  listFiles,
  listRuns,
  readEvents,
  readRun,
  removeRunFiles,
  truncateEvents,
  openRunFile,
  updateRun,
} from "../../src/storage/runs.ts";
import { readSettings, writeSettings } from "../../src/storage/settings.ts";
import { type MemoryFileSystem, memoryFileSystem } from "./memoryFileSystem.ts";
import { checkpointAt, recipe } from "./states.ts";

let database: Database;
let system: MemoryFileSystem;
let files: Files;

beforeEach(async () => {
  database = await openDatabase(crypto.randomUUID());
  system = memoryFileSystem();
  files = filesIn(system.root);
});

const step = (number: number): RunEvent => ({
  type: "step",
  kind: "recover",
  step: number,
  steps: 12,
  loss: 1 / number,
  tokensPerSecond: 100,
});
const steps = (from: number, to: number) => Array.from({ length: to - from + 1 }, (_, index) => step(from + index));

const cases = (count: number): Case[] =>
  Array.from({ length: count }, (_, index) => ({
    id: `c${index}`,
    language: index % 2 ? "zh" : "en",
    question: `question ${index}`,
    chain: "a\nb",
    answer: "yes",
    slices: [],
  }));

async function writeFile(id: string, name: string, sizeBytes: number): Promise<void> {
  const file = await openRunFile(database, files, id, name);
  await file.write(new Uint8Array(sizeBytes));
  await file.close();
}

describe("runs", () => {
  it("are listed newest first, with what has been changed", async () => {
    const first = await createRun(database, recipe);
    vi.useFakeTimers({ toFake: ["Date"], now: Date.now() + 1 });
    const second = await createRun(database, { ...recipe, name: "second" });
    vi.useRealTimers();
    await updateRun(database, first.id, { status: "failed", message: "The device was lost." });
    expect((await listRuns(database)).map(({ id, status }) => [id, status])).toEqual([
      [second.id, "running"],
      [first.id, "failed"],
    ]);
    expect((await readRun(database, first.id)).message).toBe("The device was lost.");
  });

  it("say which is not there", async () => {
    await expect(readRun(database, "x")).rejects.toMatchObject({ name: "missing", message: /run x/ });
    await expect(updateRun(database, "x", { status: "stopped" })).rejects.toMatchObject({ name: "missing" });
  });

  it("remember what they told, in order, past ten events", async () => {
    const { id } = await createRun(database, recipe);
    const other = await createRun(database, recipe);
    await appendEvents(database, id, 0, steps(1, 3));
    await appendEvents(database, other.id, 0, steps(50, 50));
    await appendEvents(database, id, 3, steps(4, 12));
    expect(await readEvents(database, id)).toEqual(steps(1, 12));
  });

  it("forget the steps after a checkpoint, and those of no other run", async () => {
    const { id } = await createRun(database, recipe);
    const other = await createRun(database, recipe);
    await appendEvents(database, id, 0, steps(1, 12));
    await appendEvents(database, other.id, 0, steps(1, 12));
    await truncateEvents(database, id, 10);
    expect(await readEvents(database, id)).toEqual(steps(1, 10));
    expect(await readEvents(database, other.id)).toEqual(steps(1, 12));
  });

  it("list only files that were written whole", async () => {
    const { id } = await createRun(database, recipe);
    await writeFile(id, "adapter/adapter_config.json", 3);
    await writeFile(id, "report.json", 10);
    system.disk.capacityBytes = system.disk.usedBytes + 5;
    await expect(writeFile(id, "report.json", 100)).rejects.toMatchObject({
      name: "quota",
    });
    expect((await listFiles(database, id)).map(({ name, sizeBytes }) => [name, sizeBytes])).toEqual([
      ["adapter/adapter_config.json", 3],
    ]);
  });

  it("hold a file once it is closed, with the hash of its pieces, and nothing of one that was aborted", async () => {
    const { id } = await createRun(database, recipe);
    const used = system.disk.usedBytes;
    const whole = await openRunFile(database, files, id, "model/model.safetensors");
    await whole.write(new Uint8Array([1, 2]));
    await whole.write(new Uint8Array([3]));
    expect(await listFiles(database, id)).toEqual([]);
    const sha256 = "039058c6f2c0cb492c533b0a4d14ef77cc0f78abccced5287d84a1a2011cfb81";
    expect(await whole.close()).toEqual({ sizeBytes: 3, sha256 });
    expect(await listFiles(database, id)).toEqual([
      { runId: id, name: "model/model.safetensors", sizeBytes: 3, sha256 },
    ]);
    const again = await openRunFile(database, files, id, "model/model.safetensors");
    await again.write(new Uint8Array(9));
    await again.abort();
    expect(await listFiles(database, id)).toEqual([]);
    expect(system.disk.usedBytes).toBe(used);
  });

  it("are cleared of a folder's files alone", async () => {
    const { id } = await createRun(database, recipe);
    for (const name of ["model/a", "model/b/c", "models", "report.json"]) await writeFile(id, name, 5);
    await removeRunFiles(database, files, id, "model/");
    expect((await listFiles(database, id)).map(({ name }) => name)).toEqual(["models", "report.json"]);
    await expect(files.read(filePath(id, "model/a"))).rejects.toMatchObject({ name: "missing" });
  });

  it("leave nothing behind when they are deleted", async () => {
    const [gone, kept] = [await createRun(database, recipe), await createRun(database, recipe)];
    for (const { id } of [gone, kept]) {
      await appendEvents(database, id, 0, steps(1, 2));
      await writeFile(id, "report.json", 10);
      await openCheckpoints(database, files, id).save(checkpointAt(2, 5), 2);
    }
    const half = system.disk.usedBytes / 2;
    await deleteRun(database, files, gone.id);
    expect((await listRuns(database)).map(({ id }) => id)).toEqual([kept.id]);
    expect(await readEvents(database, gone.id)).toEqual([]);
    expect(await latestCheckpoint(database, gone.id)).toBeNull();
    await expect(files.read(filePath(gone.id, "report.json"))).rejects.toMatchObject({ name: "missing" });
    expect(system.disk.usedBytes).toBe(half);
    expect(await latestCheckpoint(database, kept.id)).toMatchObject({ step: 5, events: 2 });
  });
});

describe("data sets", () => {
  it("come back in order, past one chunk", async () => {
    const { id } = await saveDataset(database, "cases.csv", cases(1203));
    const { record, cases: read } = await readDataset(database, id);
    expect(record).toMatchObject({ name: "cases.csv", cases: 1203 });
    expect(read).toEqual(cases(1203));
  });

  it("are gone when deleted, and the recipe that asks for one says so", async () => {
    const { id } = await saveDataset(database, "a", cases(3));
    await deleteDataset(database, id);
    expect(await listDatasets(database)).toEqual([]);
    await expect(readDataset(database, id)).rejects.toMatchObject({
      name: "missing",
      message: /Import its file again/,
    });
  });

  it("are not stored empty", async () => {
    await expect(saveDataset(database, "empty.csv", [])).rejects.toMatchObject({ name: "input" });
  });
});

describe("settings", () => {
  it("are changed one by one", async () => {
    await writeSettings(database, { language: "zh", draft: recipe });
    await writeSettings(database, { language: "en" });
    expect(await readSettings(database)).toEqual({ language: "en", draft: recipe });
  });

  it("count as not set when they cannot be read", async () => {
    await database.put("settings", { key: "language", value: "tlh" });
    expect(await readSettings(database)).toEqual({});
  });
});
