// Downloads against a hub on this machine that does what networks do.

import { createHash } from "node:crypto";
import type { Server } from "node:http";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { HUB, listFiles, readRepository, type Snapshot } from "../../src/getModel/hub.ts";
import {
  chooseJob,
  type Estimate,
  type JobProgress,
  keptPath,
  openJob,
  removeJob,
  runJob,
} from "../../src/getModel/job.ts";
import { PINNED_MODELS } from "../../src/getModel/pinned.ts";
import type { Patience } from "../../src/getModel/request.ts";
import { orTrouble, type Trouble } from "../../src/getModel/trouble.ts";
import { filesIn } from "../../src/storage/files.ts";
import { type MemoryFileSystem, memoryFileSystem } from "../storage/memoryFileSystem.ts";
import { type HubFolder, type LocalHub, listening, localHub } from "./hubServer.ts";

const COMMIT = "0123456789abcdef0123456789abcdef01234567";
const WEIGHTS = Uint8Array.from({ length: 400_003 }, (_, index) => (index * 7919) % 251);
const CONFIG = new TextEncoder().encode('{"model_type":"qwen2"}');

let system: MemoryFileSystem;
let folder: HubFolder;
let local: LocalHub;
let hub: string;
let servers: Server[];

beforeEach(async () => {
  system = memoryFileSystem();
  folder = {
    repository: "someone/tiny-model",
    commit: COMMIT,
    revisions: { main: COMMIT, "refs/pr/1": COMMIT },
    files: {
      "config.json": CONFIG,
      "model.safetensors": WEIGHTS,
      "pytorch_model.bin": CONFIG,
      "tokenizer.json": new Uint8Array(5000).fill(32),
      "empty.safetensors": new Uint8Array(),
      LICENSE: CONFIG,
      "onnx/model.onnx": CONFIG,
    },
    large: ["model.safetensors"],
  };
  const cdn = await listening((request, response) => local.cdn(request, response));
  const own = await listening((request, response) => local.hub(request, response));
  local = localHub(folder, () => cdn.origin);
  servers = [cdn.server, own.server];
  hub = own.origin;
});

afterEach(() => {
  for (const server of servers) {
    server.closeAllConnections();
    server.close();
  }
});

const files = () => filesIn(system.root);
const patience = (more: Partial<Patience> = {}): Patience => ({
  signal: new AbortController().signal,
  waitsMs: [1, 1, 1],
  silenceMs: 5000,
  ...more,
});
const plenty: Estimate = () => Promise.resolve({ quota: 1e12, usage: 0 });

const list = (text = "someone/tiny-model", more?: Partial<Patience>) =>
  orTrouble(() => listFiles(hub, text, patience(more)));
const listed = async () => (await list()) as Snapshot;

/** List, choose and fetch everything; what was told on the way. */
async function fetchAll(more: Partial<Patience> = {}, estimate = plenty) {
  const told: JobProgress[] = [];
  const job = await chooseJob(files(), await listed());
  const result = await orTrouble(() =>
    runJob(files(), hub, job, { patience: patience(more), estimate, tell: (progress) => told.push(progress) }),
  );
  return { result, told };
}

const stored = async (path: string) => files().read(keptPath({ repository: folder.repository, commit: COMMIT }, path));
const isStored = async (path: string, bytes: Uint8Array) => Buffer.compare(await stored(path), bytes) === 0;
const isWhole = (result: unknown) => !("trouble" in (result as object));
const rangesOf = (path: string) => local.asked.filter((one) => one.path === path).map(({ range }) => range);

describe("a repository", () => {
  it.each([
    ["Qwen/Qwen2.5-0.5B", "Qwen/Qwen2.5-0.5B", "main"],
    ["  Qwen/Qwen2.5-0.5B@refs/pr/3 ", "Qwen/Qwen2.5-0.5B", "refs/pr/3"],
    [`${HUB}/Qwen/Qwen2.5-0.5B@v1.0`, "Qwen/Qwen2.5-0.5B", "v1.0"],
  ])("is read from %j", (text, repository, revision) => {
    expect(readRepository(text)).toEqual({ repository, revision });
  });

  it.each([
    "",
    "gpt2",
    "a/b/c",
    "../../etc/passwd",
    "a/..",
    "a/b@../../x",
    "https://other.example/a/b",
    "a/b?x=1",
    "a/b@c d",
  ])("is not read from %j", async (text) =>
    expect(await list(text)).toEqual({ trouble: { kind: "notARepository", text } }),
  );
});

describe("the hub's list", () => {
  it("is read over several answers, for the commit that a revision stands for, and holds what Espalier reads", async () => {
    for (const text of ["someone/tiny-model", "someone/tiny-model@refs/pr/1", `someone/tiny-model@${COMMIT}`]) {
      const { commit, files: found } = (await list(text)) as Snapshot;
      expect(commit).toBe(COMMIT);
      expect(found.map(({ path }) => path)).toEqual([
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "empty.safetensors",
        "LICENSE",
      ]);
    }
  });

  it("gives SHA-256 for large files and git's SHA-1 for the others, both said by the hub", async () => {
    const { files: found } = await listed();
    const hashOf = (name: string, bytes: Uint8Array) => createHash(name).update(bytes).digest("hex");
    expect(found.find(({ path }) => path === "model.safetensors")).toEqual({
      path: "model.safetensors",
      sizeBytes: WEIGHTS.byteLength,
      checksum: { algorithm: "sha256", hex: hashOf("sha256", WEIGHTS), saidBy: "hub" },
    });
    const asGit = new TextEncoder().encode(`blob ${CONFIG.byteLength}\0{"model_type":"qwen2"}`);
    expect(found[0].checksum).toEqual({ algorithm: "git", hex: hashOf("sha1", asGit), saidBy: "hub" });
  });

  it("is held against what this page knows of a model", async () => {
    const [model] = PINNED_MODELS;
    Object.assign(folder, { repository: model.repository, commit: model.commit });
    local = localHub(folder, () => "");
    const text = `${model.repository}@${model.commit}`;
    const wanted = model.sha256["model.safetensors"];
    expect(await list(text)).toMatchObject({ trouble: { kind: "notAsPinned", path: "model.safetensors", wanted } });
    folder.told = { "model.safetensors": wanted };
    const { files: found } = (await list(text)) as Snapshot;
    const by = Object.fromEntries(found.map(({ path, checksum }) => [path, checksum]));
    expect(by["model.safetensors"]).toEqual({ algorithm: "sha256", hex: wanted, saidBy: "page" });
    expect(by["tokenizer.json"]).toEqual({ algorithm: "sha256", hex: model.sha256["tokenizer.json"], saidBy: "page" });
    expect(by["config.json"].saidBy).toBe("hub");
  });

  it("is not there for what the hub does not have, will not give, or says wrongly", async () => {
    expect(await list("someone/else")).toEqual({ trouble: { kind: "notFound", what: "someone/else@main" } });
    expect(await list("someone/tiny-model@v9")).toEqual({
      trouble: { kind: "notFound", what: "someone/tiny-model@v9" },
    });
    folder.files = { "pytorch_model.bin": CONFIG, "config.json": CONFIG };
    expect(await list()).toEqual({ trouble: { kind: "nothingToFetch", repository: "someone/tiny-model@main" } });
    folder.files = { "model.safetensors": CONFIG };
    folder.told = { "model.safetensors": "no checksum" };
    expect(await list()).toEqual({ trouble: { kind: "notUnderstood", what: "someone/tiny-model@main" } });
  });

  it("never leads to another host", async () => {
    local.hub = (_, response) => {
      response.setHeader("Link", '<https://other.example/tree>; rel="next"');
      response.end("[]");
    };
    expect(await list(`someone/tiny-model@${COMMIT}`)).toMatchObject({ trouble: { kind: "notUnderstood" } });
  });

  it("is asked for again while the hub is busy or away, and given up after a while", async () => {
    const { hub: answer } = local;
    let busy = 2;
    local.hub = (request, response) => {
      if (busy-- > 0) response.writeHead(429).end();
      else answer(request, response);
    };
    expect((await listed()).files).toHaveLength(5);
    const waits: number[] = [];
    busy = 100;
    expect(await list(undefined, { waitsMs: [1, 2, 3], onWait: (ms) => waits.push(ms) })).toEqual({
      trouble: { kind: "unreachable", what: "someone/tiny-model@main" },
    });
    expect(waits).toEqual([1, 2, 3]);
  });

  it("is asked for without anything of the person's", async () => {
    await listed();
    for (const { headers } of local.heard) {
      expect([headers.cookie, headers.authorization, headers.referer]).toEqual([undefined, undefined, undefined]);
      expect(headers["cache-control"]).toBe("no-cache");
    }
  });
});

describe("a download", () => {
  it("brings every file to the last byte, the smallest first, through the redirect", async () => {
    const { result, told } = await fetchAll();
    expect(isWhole(result)).toBe(true);
    expect(await isStored("model.safetensors", WEIGHTS)).toBe(true);
    expect(await stored("config.json")).toEqual(CONFIG);
    expect((await stored("empty.safetensors")).byteLength).toBe(0);
    expect(told.filter(({ phase }) => phase === "whole").map(({ path }) => path)).toEqual([
      "empty.safetensors",
      "config.json",
      "LICENSE",
      "tokenizer.json",
      "model.safetensors",
    ]);
    const sizes = told.filter(({ path }) => path === "model.safetensors").map(({ haveBytes }) => haveBytes);
    expect(sizes).toEqual(sizes.toSorted((a, b) => a - b));
    expect(sizes.at(-1)).toBe(WEIGHTS.byteLength);
  });

  it("goes on where a connection broke, with one open range", async () => {
    local.faults.set("model.safetensors", [{ cutAfter: 100_000 }, "busy", { cutAfter: 50_000 }]);
    const { result, told } = await fetchAll();
    expect(isWhole(result)).toBe(true);
    expect(await isStored("model.safetensors", WEIGHTS)).toBe(true);
    expect(rangesOf("model.safetensors")).toEqual([undefined, "bytes=100000-", "bytes=100000-", "bytes=150000-"]);
    expect(told.some(({ phase }) => phase === "waiting")).toBe(true);
  });

  it("goes on where an answer ended too early, and where nothing came for a while", async () => {
    local.faults.set("model.safetensors", [{ endAfter: 70_000 }, { stallAfter: 0 }, { stallAfter: 5000 }]);
    const { result } = await fetchAll({ silenceMs: 150 });
    expect(isWhole(result)).toBe(true);
    expect(rangesOf("model.safetensors")).toEqual([undefined, "bytes=70000-", "bytes=70000-", "bytes=75000-"]);
    expect(await isStored("model.safetensors", WEIGHTS)).toBe(true);
  });

  it("begins again where the server knows no ranges, and when it begins elsewhere than asked", async () => {
    for (const fault of ["noRange", "elsewhere"] as const) {
      await removeJob(files());
      local.faults.set("model.safetensors", [{ cutAfter: 100_000 }, fault]);
      expect(isWhole((await fetchAll()).result)).toBe(true);
      expect(await isStored("model.safetensors", WEIGHTS)).toBe(true);
    }
  });

  it("is given up when connections keep breaking at the same place, and keeps what it has", async () => {
    local.faults.set("model.safetensors", [{ cutAfter: 100_000 }, "busy", "busy", "busy", "busy"]);
    const { result } = await fetchAll();
    expect(result).toEqual({ trouble: { kind: "unreachable", what: "model.safetensors" } });
    expect((await stored("model.safetensors")).byteLength).toBe(100_000);
  });

  it("has all its patience again whenever it gets further", async () => {
    const steps = Array.from({ length: 12 }, () => ({ cutAfter: 20_000 }));
    local.faults.set("model.safetensors", steps);
    expect(isWhole((await fetchAll()).result)).toBe(true);
    expect(rangesOf("model.safetensors")).toHaveLength(13);
  });

  it.each<[what: string, faults: LocalHub["faults"] extends Map<string, infer F> ? F : never, kind: Trouble["kind"]]>([
    ["wrong bytes", ["wrongBytes"], "wrongChecksum"],
    ["wrong bytes after a break", [{ cutAfter: 1000 }, "wrongBytes"], "wrongChecksum"],
    ["too many bytes", ["tooMany"], "wrongSize"],
    ["a file that has gone", ["gone"], "notFound"],
  ])("refuses %s, and keeps none of them", async (_, faults, kind) => {
    local.faults.set("model.safetensors", faults);
    const { result } = await fetchAll();
    expect(result).toMatchObject({ trouble: { kind } });
    await expect(stored("model.safetensors")).rejects.toMatchObject({ name: "missing" });
    expect(isWhole((await fetchAll()).result)).toBe(true); // And takes the right ones the next time.
  });

  it("refuses a file that is shorter than the hub says", async () => {
    const job = await chooseJob(files(), await listed());
    folder.files["model.safetensors"] = WEIGHTS.slice(0, 300_000);
    const result = await orTrouble(() =>
      runJob(files(), hub, job, { patience: patience(), estimate: plenty, tell: () => {} }),
    );
    expect(result).toEqual({
      trouble: { kind: "wrongSize", path: "model.safetensors", wantedBytes: WEIGHTS.byteLength },
    });
    await expect(stored("model.safetensors")).rejects.toMatchObject({ name: "missing" });
  });

  it("refuses a small file that is not what git has", async () => {
    folder.told = { "config.json": "f".repeat(40) };
    expect((await fetchAll()).result).toMatchObject({ trouble: { kind: "wrongChecksum", path: "config.json" } });
  });

  it("can be paused, and goes on after a reload: whole files stay, the rest is hashed and continued", async () => {
    const pausing = new AbortController();
    const job = await chooseJob(files(), await listed());
    local.faults.set("model.safetensors", [{ cutAfter: 200_000 }]);
    const tell = ({ path, haveBytes, phase }: JobProgress) => {
      if (path === "model.safetensors" && phase === "waiting" && haveBytes > 0) pausing.abort();
    };
    await expect(
      runJob(files(), hub, job, {
        patience: patience({ signal: pausing.signal, waitsMs: [9999] }),
        estimate: plenty,
        tell,
      }),
    ).rejects.toThrow();
    const again = await openJob(files()); // Nothing of the first attempt but what is stored.
    expect(again?.job.files.filter(({ whole }) => whole)).toHaveLength(4);
    expect(again?.progress.at(-1)).toEqual({ path: "model.safetensors", phase: "waiting", haveBytes: 200_000 });
    local.asked.length = 0;
    const told: JobProgress[] = [];
    if (!again) return;
    await runJob(files(), hub, again.job, { patience: patience(), estimate: plenty, tell: (one) => told.push(one) });
    expect(local.asked).toEqual([{ path: "model.safetensors", range: "bytes=200000-" }]);
    expect(told[0].phase).toBe("reading");
    expect(await isStored("model.safetensors", WEIGHTS)).toBe(true);
  });

  it("finds out when what lay there in between was changed", async () => {
    const pausing = new AbortController();
    const job = await chooseJob(files(), await listed());
    local.faults.set("model.safetensors", [{ cutAfter: 200_000 }]);
    const tell = ({ path, phase }: JobProgress) => {
      if (path === "model.safetensors" && phase === "waiting") pausing.abort();
    };
    const running = { patience: patience({ signal: pausing.signal, waitsMs: [9999] }), estimate: plenty, tell };
    await runJob(files(), hub, job, running).catch(() => {});
    system.peek(keptPath(job, "model.safetensors")).bytes[1234] ^= 1;
    expect((await fetchAll()).result).toMatchObject({ trouble: { kind: "wrongChecksum" } });
  });

  it("does not begin where there is no room, and says how much is missing", async () => {
    const small: Estimate = () => Promise.resolve({ quota: 250_000, usage: 50_000 });
    const { result } = await fetchAll({}, small);
    const neededBytes = WEIGHTS.byteLength + 5000 + 2 * CONFIG.byteLength;
    expect(result).toEqual({ trouble: { kind: "noRoom", neededBytes, freeBytes: 200_000 } });
    expect(local.asked).toEqual([]);
  });

  it("ends with the storage's sentence when the browser promised too much, and goes on when there is room", async () => {
    system = memoryFileSystem(120_000);
    const { result } = await fetchAll();
    expect(result).toMatchObject({ trouble: { kind: "storage", message: expect.stringContaining("no room left") } });
    system.disk.capacityBytes = 1e9;
    expect(isWhole((await fetchAll()).result)).toBe(true);
    expect(await isStored("model.safetensors", WEIGHTS)).toBe(true);
  });

  it("takes the place of the one before it, whose bytes go; the same one keeps them", async () => {
    await fetchAll();
    const again = await chooseJob(files(), await listed());
    expect(again.files.every(({ whole }) => whole)).toBe(true);
    await chooseJob(files(), { ...(await listed()), repository: "someone/other-model" });
    await expect(stored("model.safetensors")).rejects.toMatchObject({ name: "missing" });
    await removeJob(files());
    expect(await openJob(files())).toBeNull();
    expect(system.disk.usedBytes).toBe(0);
  });

  it("is not there when its record is torn, and takes up the bytes when it is chosen again", async () => {
    await fetchAll();
    await files().write("get-model/job.json", [new TextEncoder().encode('{"schemaVersion":1,"repos')]);
    expect(await openJob(files())).toBeNull();
  });
});
