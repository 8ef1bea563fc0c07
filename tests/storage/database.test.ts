import "fake-indexeddb/auto";
import { openDB } from "idb";
import { describe, expect, it } from "vitest";
import { DATABASE_VERSION, openDatabase } from "../../src/storage/database.ts";

const fresh = () => crypto.randomUUID();

describe("the database", () => {
  it("has every store at the newest version", async () => {
    const database = await openDatabase(fresh());
    expect(database.version).toBe(DATABASE_VERSION);
    expect([...database.objectStoreNames]).toEqual([
      "checkpoints",
      "datasetChunks",
      "datasets",
      "events",
      "files",
      "models",
      "runs",
      "settings",
    ]);
  });

  it("keeps what an older version stored when it is brought up to date", async () => {
    const name = fresh();
    const old = await openDB(name, 1, {
      upgrade(database) {
        database.createObjectStore("runs", { keyPath: "id" }).createIndex("createdAt", "createdAt");
        database.createObjectStore("events", { keyPath: ["runId", "seq"] });
        database.createObjectStore("checkpoints", { keyPath: ["runId", "slot"] });
        database.createObjectStore("files", { keyPath: ["runId", "name"] });
      },
    });
    await old.put("runs", { id: "1", createdAt: 5, name: "kept" });
    old.close();
    const database = await openDatabase(name);
    expect(await database.get("runs", "1")).toMatchObject({ name: "kept" });
    expect(await database.getAll("datasets")).toEqual([]);
  });

  it("is not touched when a newer version of the page wrote it", async () => {
    const name = fresh();
    (await openDB(name, DATABASE_VERSION + 1)).close();
    await expect(openDatabase(name)).rejects.toMatchObject({ name: "version", message: /newer version/ });
  });

  it("lets a newer page take over", async () => {
    const name = fresh();
    await openDatabase(name);
    const newer = await openDB(name, DATABASE_VERSION + 1);
    expect(newer.version).toBe(DATABASE_VERSION + 1);
  });
});
