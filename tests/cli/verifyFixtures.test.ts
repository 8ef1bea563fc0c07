// The command as people run it: as a program of its own, its output read from outside.

import { spawnSync } from "node:child_process";
import { cpSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";

const script = resolve("src/cli/run.mjs");
let folder: string;

function command(...args: string[]): { code: number | null; stdout: string; stderr: string } {
  const env = { ...process.env, INIT_CWD: folder };
  const { status, stdout, stderr } = spawnSync(process.execPath, [script, "verifyFixtures", ...args], { env });
  return { code: status, stdout: String(stdout), stderr: String(stderr) };
}

beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), "fixtures-"));
  for (const name of ["qwen2-tiny", "qwen2-tiny-bf16"]) {
    cpSync(join("tests", "fixtures", name), join(folder, "models", name), { recursive: true });
  }
});

afterAll(() => rmSync(folder, { recursive: true }));

describe("npm run verify:fixtures", () => {
  it("prints the largest errors of every folder, on the backend that is asked for", () => {
    const { code, stdout } = command("--dir", "models", "--backend", "wasm");
    expect(stdout).toMatch(/^wasm: CPU \(SIMD.*\)\n\nlargest error +logits +loss +gradients +routing +continuation/);
    expect(stdout).toMatch(/^qwen2-tiny( +(\d\.\de-\d|0)){3} +- +0( +(\d\.\de-\d|0)){4}$/m);
    expect(stdout).toMatch(/^qwen2-tiny-bf16 .*e-6 .* - +- +0( +-){4}$/m);
    expect(stdout).toMatch(/^allowed +2\.0e-5 +1\.0e-5/m);
    expect(stdout).toMatch(/\nAll are within what is allowed\.\n$/);
    expect(code).toBe(0);
  });

  it("ends with 1 where one is beyond its tolerance, or a folder is damaged, and says which", () => {
    const path = join(folder, "models", "qwen2-tiny-bf16", "expected.json");
    const expected = JSON.parse(readFileSync(path, "utf8")) as { loss: number };
    writeFileSync(path, JSON.stringify({ ...expected, loss: expected.loss + 1 }));
    rmSync(join(folder, "models", "qwen2-tiny", "lora", "optimizer.json"));
    const { code, stdout } = command("--dir", "models", "--backend", "wasm");
    expect(stdout).toContain("1.0e+0!");
    expect(stdout).toMatch(
      /\nqwen2-tiny on wasm could not be compared: qwen2-tiny\/lora has no optimizer\.json\. .*\nqwen2-tiny-bf16 on wasm: the error of loss is 1\.0e\+0; at most 1\.0e-5 is allowed\.\n$/,
    );
    expect(code).toBe(1);
  });

  it.each([
    [["--dir", "nowhere"], "There is no folder of a model (with a config.json) in"],
    [["--backend", "abacus"], '--backend wants one of wasm, cpu, webgpu and got "abacus".'],
  ])("%j is wrongly asked for", (args, message) => {
    const { code, stderr } = command(...args);
    expect(stderr).toContain(message);
    expect(code).toBe(2);
  });
});
