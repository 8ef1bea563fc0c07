// A checkpoint that a person brings: kept once, taken up where it was interrupted, never mistaken for another.

import "fake-indexeddb/auto";
import { readFileSync } from "node:fs";
import { beforeEach, describe, expect, it } from "vitest";
import { type ByteSource, sourceOf } from "../../src/formats/bytes.ts";
import { openCheckpoint } from "../../src/formats/checkpoint.ts";
import { openKept } from "../../src/models/keptWeights.ts";
import { type Database, openDatabase } from "../../src/storage/database.ts";
import { type Files, filesIn } from "../../src/storage/files.ts";
import { deleteModel, listModels, readModel, weightsPath } from "../../src/storage/models.ts";
import { type ImportProgress, importModel } from "../../workers/models.ts";
import { type MemoryFileSystem, memoryFileSystem } from "../storage/memoryFileSystem.ts";

let database: Database;
let system: MemoryFileSystem;
let files: Files;
let databases = 0;

beforeEach(async () => {
  database = await openDatabase(`models ${databases++}`);
  system = memoryFileSystem(40_000_000);
  files = filesIn(system.root);
});

const FOLDER = "public/models/deepseek-nano";
const NAMES = ["config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"];

/** The shipped model's files; `change` may change a file's bytes. */
function chosen(change: (name: string, bytes: Uint8Array) => Uint8Array = (_, bytes) => bytes): ByteSource[] {
  return NAMES.map((name) => sourceOf(change(name, new Uint8Array(readFileSync(`${FOLDER}/${name}`))), name));
}

function bring(sources: ByteSource[], tell: (progress: ImportProgress) => void = () => {}, storage = "int8" as const) {
  const checkpoint = openCheckpoint(sources);
  return importModel(database, files, {
    name: "nano",
    storage,
    checkpoint,
    tell: async (progress) => tell(progress),
  });
}

describe("a checkpoint that is brought", () => {
  it("is kept with what it came from, and told how far it is", async () => {
    const told: ImportProgress[] = [];
    const record = await bring(chosen(), (progress) => told.push(progress));
    expect(record).toMatchObject({ name: "nano", storage: "int8", doneBytes: record.sizeBytes });
    expect(record.sources.map(({ name }) => name)).toEqual(["model.safetensors"]);
    expect(record.sources[0].sha256).toMatch(/^[0-9a-f]{64}$/);
    expect(told.map(({ phase }) => phase).filter((phase, i, all) => phase !== all[i - 1])).toEqual([
      "checking",
      "converting",
    ]);
    for (const phase of ["checking", "converting"]) {
      const last = told.findLast((one) => one.phase === phase)!;
      expect(last.doneBytes).toBe(last.totalBytes);
    }
    const { parts, weights } = await readModel(database, files, record.id);
    expect((parts as { config: { model_type: string } }).config.model_type).toBe("deepseek_v3");
    const bytes = new Uint8Array(await weights.arrayBuffer());
    expect(openKept(sourceOf(bytes, "kept"), "int8").tensors.get("model.embed_tokens.weight")!.shape).toEqual([
      2048, 96,
    ]);
  });

  it("is not converted twice, and is another with other bytes, another config or kept in another way", async () => {
    const { id } = await bring(chosen());
    let converted = 0;
    const again = await bring(chosen(), ({ phase }) => void (converted += Number(phase === "converting")));
    expect([again.id, converted]).toEqual([id, 0]);
    const flipped = chosen((name, bytes) => {
      if (name === "model.safetensors") bytes[bytes.length - 3] ^= 1;
      return bytes;
    });
    const others = [await bring(flipped), await bring(chosen(), undefined, "f16" as "int8")];
    const edited = chosen((name, bytes) =>
      name === "config.json"
        ? new TextEncoder().encode(new TextDecoder().decode(bytes).replace("10000", "20000"))
        : bytes,
    );
    others.push(await bring(edited));
    expect(new Set([id, ...others.map((other) => other.id)]).size).toBe(4);
    expect(await listModels(database)).toHaveLength(4);
  });

  it("is taken up where its import was interrupted, and is then the same", async () => {
    const whole = await bring(chosen());
    const bytes = await files.read(weightsPath(whole.id));
    await deleteModel(database, files, whole.id);
    const stop = ({ phase, doneBytes, totalBytes }: ImportProgress): void => {
      if (phase === "converting" && doneBytes > totalBytes / 2) throw new Error("stop");
    };
    await expect(bring(chosen(), stop)).rejects.toThrow("stop");
    const [half] = await listModels(database);
    expect(half.doneBytes).toBeGreaterThan(half.sizeBytes / 2);
    expect(half.doneBytes).toBeLessThan(half.sizeBytes);
    await expect(readModel(database, files, half.id)).rejects.toThrow("was not brought in to its end");
    const first: number[] = [];
    const onFirst = ({ phase, doneBytes }: ImportProgress) => void (phase === "converting" && first.push(doneBytes));
    expect((await bring(chosen(), onFirst)).id).toBe(whole.id);
    expect(first[0]).toBeGreaterThan(half.doneBytes);
    expect(Buffer.compare(await files.read(weightsPath(whole.id)), bytes)).toBe(0);
  });

  it("that the disk has no room for says so, and goes on when there is room", async () => {
    system.disk.capacityBytes = system.disk.usedBytes + 600_000;
    await expect(bring(chosen())).rejects.toMatchObject({ name: "quota" });
    system.disk.capacityBytes = 40_000_000;
    const record = await bring(chosen());
    expect(record.doneBytes).toBe(record.sizeBytes);
  });

  it("is gone with all its bytes when it is deleted", async () => {
    const { id } = await bring(chosen());
    await deleteModel(database, files, id);
    expect(await listModels(database)).toEqual([]);
    expect(system.disk.usedBytes).toBe(0);
    await expect(readModel(database, files, id)).rejects.toMatchObject({ name: "missing" });
  });
});
