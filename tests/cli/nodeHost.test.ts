import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { nodeHost, readCheckpoint, removeCheckpoint, saveCheckpoint } from "../../src/cli/nodeHost.ts";
import type { Recipe } from "../../src/protocol/recipe.ts";
import type { Checkpoint, RunState } from "../../src/protocol/run.ts";
import { exampleReport } from "../evaluation/exampleReport.ts";

let folder: string;

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), "espalier-host-"));
});

afterEach(() => rmSync(folder, { recursive: true }));

function checkpoint(step: number): Checkpoint {
  const report = exampleReport();
  const state: RunState = {
    schemaVersion: 1,
    recipe: report.recipe,
    stage: 2,
    step,
    report,
    curve: [[step, 1.5]],
    tokens: 100,
    seconds: 1,
    part: "main",
    config: { hidden_size: 96 },
  };
  return { state, tensors: Uint8Array.from({ length: 999 }, (_, i) => (i * step) % 251) };
}

const files = () => readdirSync(folder).filter((name) => name.startsWith("checkpoint"));

describe("a checkpoint on disk", () => {
  it("comes back as it was saved", async () => {
    await saveCheckpoint(folder, checkpoint(7));
    expect(await readCheckpoint(folder)).toEqual(checkpoint(7));
  });

  it("replaces the one before and leaves nothing of it", async () => {
    await saveCheckpoint(folder, checkpoint(7));
    await saveCheckpoint(folder, checkpoint(8));
    expect(await readCheckpoint(folder)).toEqual(checkpoint(8));
    expect(files()).toHaveLength(2);
  });

  it("is the one before until the next one is whole", async () => {
    await saveCheckpoint(folder, checkpoint(7));
    // What a kill leaves that strikes while the next one is being written.
    writeFileSync(join(folder, "checkpoint-0123456789abcdef.safetensors"), "half of it");
    writeFileSync(join(folder, "checkpoint.json.new"), '{"tensors":');
    expect(await readCheckpoint(folder)).toEqual(checkpoint(7));
    await saveCheckpoint(folder, checkpoint(8));
    expect(await readCheckpoint(folder)).toEqual(checkpoint(8));
    expect(files()).toHaveLength(2);
  });

  it.each([
    ["changed", (bytes: Uint8Array) => bytes.map((byte, i) => (i === 500 ? byte ^ 1 : byte))],
    ["cut short", (bytes: Uint8Array) => bytes.slice(0, 400)],
  ])("is refused when its tensors were %s", async (_, damage) => {
    await saveCheckpoint(folder, checkpoint(7));
    const tensors = join(folder, files().find((name) => name.endsWith(".safetensors")) ?? "");
    writeFileSync(tensors, damage(readFileSync(tensors)));
    await expect(readCheckpoint(folder)).rejects.toThrow(/damaged: .* Start the run again without --resume/);
  });

  it("is none where none was saved, and none after it was removed", async () => {
    expect(await readCheckpoint(folder)).toBeNull();
    await saveCheckpoint(folder, checkpoint(7));
    await removeCheckpoint(folder);
    expect(await readCheckpoint(folder)).toBeNull();
    expect(files()).toEqual([]);
  });
});

describe("the host of a run on the command line", () => {
  const study = { kind: "imported", datasetId: "rows", validation: 0.2, test: 0.2 } as const;

  function host(data?: string) {
    const recipe: Recipe = { ...exampleReport().recipe, study };
    return nodeHost({ recipe, models: folder, data, out: folder, onEvent: () => {}, stopping: () => false });
  }

  it("splits a person's own rows into parts without a row in common", async () => {
    const rows = Array.from({ length: 10 }, (_, i) => JSON.stringify({ question: `What is ${i}?`, answer: `${i}` }));
    const file = join(folder, "rows.jsonl");
    writeFileSync(file, rows.join("\n"));
    const { train, validation, test } = await host(file).readStudy("rows");
    expect([train.length, validation.length, test.length]).toEqual([6, 2, 2]);
    expect(new Set([...train, ...validation, ...test].map(({ question }) => question)).size).toBe(10);
  });

  it("says which model file is missing", async () => {
    await expect(host().readModel("nano")).rejects.toThrow(/There is no base model in .*nano: config\.json is missing/);
  });

  it("writes files below its folder and nowhere else", async () => {
    const file = await host().openFile("model/config.json");
    await file.write(new TextEncoder().encode("{"));
    await file.write(new TextEncoder().encode("}"));
    expect(await file.close()).toEqual({
      sizeBytes: 2,
      sha256: "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a",
    });
    expect(readFileSync(join(folder, "model", "config.json"), "utf8")).toBe("{}");
    await expect(host().openFile("../escaped")).rejects.toThrow(/leads out of the run's folder/);
  });

  it("clears of a folder what an earlier export lists, and nothing else", async () => {
    const write = async (name: string, text: string) => {
      const file = await host().openFile(name);
      await file.write(new TextEncoder().encode(text));
      await file.close();
    };
    for (const name of ["model/old.safetensors", "model/data/rows.jsonl", "model/mine.txt"]) await write(name, "x");
    const hash = "0".repeat(64);
    await write("model/SHA256SUMS", `${hash}  old.safetensors\n${hash}  data/rows.jsonl\n`);
    await host().clearFolder("model");
    const left = readdirSync(join(folder, "model"), { recursive: true }) as string[];
    expect(left.toSorted()).toEqual(["data", "mine.txt"]);
    await write("model/SHA256SUMS", `${hash}  ../checkpoint.json\n`);
    await expect(host().clearFolder("model")).rejects.toThrow(/leads out of/);
    await host().clearFolder("gguf");
  });

  it("keeps the file before until the next one is whole, and nothing of one that was aborted", async () => {
    const write = async (text: string) => {
      const file = await host().openFile("report.json");
      await file.write(new TextEncoder().encode(text));
      return file;
    };
    const text = () => readFileSync(join(folder, "report.json"), "utf8");
    await (await write("first")).close();
    const second = await write("second");
    expect(text()).toBe("first");
    await second.abort();
    expect(readdirSync(folder)).toEqual(["report.json"]);
    await (await write("third")).close();
    expect(text()).toBe("third");
    await host().removeFile("report.json");
    await host().removeFile("report.json");
    expect(readdirSync(folder)).toEqual([]);
  });
});
