// The command as people run it: as a program of its own, its output read from outside.

import { spawnSync } from "node:child_process";
import { cpSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { readAdapter } from "../../src/formats/peftAdapter.ts";

const script = resolve("src/cli/run.mjs");
let folder: string;

function command(...args: string[]): { code: number | null; stdout: string; stderr: string } {
  const env = { ...process.env, INIT_CWD: folder };
  const { status, stdout, stderr } = spawnSync(process.execPath, [script, "averageAdapters", ...args], { env });
  return { code: status, stdout: String(stdout), stderr: String(stderr) };
}

const inside = (...names: string[]) => join(folder, ...names);

beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), "average-"));
  for (const name of ["a", "b"]) {
    mkdirSync(inside(name, "base"), { recursive: true });
    cpSync("tests/fixtures/qwen2-tiny/lora", inside(name, "adapter"), { recursive: true });
    writeFileSync(inside(name, "base", "model.safetensors"), "the same");
  }
});

afterAll(() => rmSync(folder, { recursive: true }));

describe("npm run average-adapters", () => {
  it("writes an adapter that PEFT loads, and says what it is", () => {
    const { code, stdout } = command("--out", "mean", "a/adapter:300", "b/adapter:100");
    expect(stdout).toBe(
      `Stacked: exact, of rank 8, the sum of the sites'.\nThe average of 2 adapters is in ${inside("mean")}.\n`,
    );
    expect(code).toBe(0);
    const config = JSON.parse(readFileSync(inside("mean", "adapter_config.json"), "utf8")) as object;
    const adapter = readAdapter(config, readFileSync(inside("mean", "adapter_model.safetensors")));
    expect([...adapter.modules.values()]).toMatchObject(Array.from({ length: 6 }, () => ({ rank: 8, alpha: 8 })));
    expect(command("--out", "mean", "a/adapter:300", "b/adapter:100")).toMatchObject({
      code: 2,
      stderr: `${inside("mean")} holds an adapter already. Choose another --out.\n`,
    });
  });

  it("keeps the rank if that is asked for, and says what it costs", () => {
    const { code, stdout } = command("--same-rank", "--out", "plain", "a/adapter:1", "b/adapter:1");
    expect(stdout).toContain("differs from the exact mean by 0.00 % of it. Without --same-rank it is exact.");
    expect(code).toBe(0);
  });

  it("refuses bases of one name that were pruned apart", () => {
    writeFileSync(inside("b", "base", "model.safetensors"), "another");
    const { code, stderr } = command("--out", "c", "a/adapter:1", "b/adapter:1");
    expect(stderr).toContain("differ: the adapters are of two bases. Prune once, and give each site that base.");
    expect(code).toBe(1);
  });

  it.each([
    [["a/adapter:1"], 2, "--out wants the folder that the average goes to."],
    [
      ["--out", "c", "a/adapter"],
      2,
      'A folder and its rows are wanted, such as site-a:120, and "a/adapter" was given.',
    ],
    [["--out", "c", "a/adapter:0"], 2, 'wants a whole number of rows and got "0".'],
    [["--out", "c", "nowhere:1"], 2, "nowhere/adapter_config.json. A folder with adapter_config.json and"],
    [["--out", "c", "a/adapter:1"], 1, "An average wants two adapters or more, and 1 were given."],
  ])("%j ends with %i", (args, code, message) => {
    const ended = command(...args);
    expect(ended.stderr).toContain(message);
    expect(ended).toMatchObject({ code, stdout: "" });
  });
});
