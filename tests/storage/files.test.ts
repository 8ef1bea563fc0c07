import { createHash } from "node:crypto";
import { beforeEach, describe, expect, it } from "vitest";
import { type Files, filesIn, sha256 } from "../../src/storage/files.ts";
import { type MemoryFileSystem, memoryFileSystem } from "./memoryFileSystem.ts";

const MEGABYTE = 1024 * 1024;
let system: MemoryFileSystem;
let files: Files;

beforeEach(() => {
  system = memoryFileSystem(12 * MEGABYTE);
  files = filesIn(system.root);
});

const bytes = (length: number, seed = 1) =>
  Uint8Array.from({ length }, (_, i) => (i * 31 + seed * 17 + (i >> 8)) & 255);
const hashOf = (...parts: Uint8Array[]) => createHash("sha256").update(Buffer.concat(parts)).digest("hex");

describe("files", () => {
  it("come back as they were written, with size and SHA-256, across chunk borders", async () => {
    const parts = [bytes(3), bytes(4 * MEGABYTE + 1, 2), new Uint8Array(), bytes(7, 3)];
    const written = await files.write("runs/1/model/model.safetensors", parts);
    expect(written).toEqual({ sizeBytes: 4 * MEGABYTE + 11, sha256: hashOf(...parts) });
    const read = await files.read("runs/1/model/model.safetensors");
    expect(hashOf(read)).toBe(written.sha256);
    expect(await sha256(read)).toBe(written.sha256);
  });

  it("are replaced whole by shorter ones", async () => {
    await files.write("a/b", [bytes(100)]);
    await files.write("a/b", [bytes(9, 5)]);
    expect(await files.read("a/b")).toEqual(bytes(9, 5));
  });

  it("say which is missing", async () => {
    await expect(files.read("a/none")).rejects.toMatchObject({ name: "missing", message: /^a\/none / });
    await expect(files.file("none")).rejects.toMatchObject({ name: "missing" });
  });

  it("notice a full disk that reports itself only by the returned count, and give the room back", async () => {
    await files.write("old", [bytes(5 * MEGABYTE)]);
    await expect(files.write("new", [bytes(6 * MEGABYTE), bytes(2 * MEGABYTE)])).rejects.toMatchObject({
      name: "quota",
      message: /new \(8\.4 MB\)/,
    });
    expect(system.disk.usedBytes).toBe(5 * MEGABYTE);
    await files.write("new", [bytes(7 * MEGABYTE)]);
  });

  it("say when another tab is writing the same one", async () => {
    await files.write("a", [bytes(4)]);
    const handle = await (
      (await system.root.getFileHandle("a")) as unknown as { createSyncAccessHandle(): Promise<{ close(): void }> }
    ).createSyncAccessHandle();
    await expect(files.write("a", [bytes(4)])).rejects.toMatchObject({ name: "elsewhere" });
    handle.close();
    await files.write("a", [bytes(4)]);
  });

  it("are removed with the folder they are in, and removing what is not there is no fault", async () => {
    await files.write("runs/1/x", [bytes(4)]);
    await files.write("runs/2/x", [bytes(4)]);
    await files.remove("runs/1");
    await files.remove("runs/1");
    await expect(files.read("runs/1/x")).rejects.toMatchObject({ name: "missing" });
    expect(await files.read("runs/2/x")).toEqual(bytes(4));
  });

  it.each(["", "../x", "a//b", "a/./b", "/a", "a/"])("refuse %j as a path", async (path) => {
    await expect(files.write(path, [])).rejects.toMatchObject({ name: "input" });
  });
});
