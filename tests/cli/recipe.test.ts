// The command as people run it: as a program of its own, its output read from outside.

import { spawn } from "node:child_process";
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import * as v from "valibot";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import type { Recipe } from "../../src/protocol/recipe.ts";
import type { Report } from "../../src/protocol/report.ts";
import { ReportSchema } from "../../src/protocol/report.ts";
import { writeTinyModel } from "./tinyModel.ts";

const script = resolve("src/cli/run.mjs");
let folder: string;

/** Every stage, one or two steps each. */
const recipe: Recipe = {
  schemaVersion: 1,
  name: "tiny",
  model: "tiny",
  study: { kind: "hospital", seed: 1, train: 12, validation: 2, test: 2 },
  stages: [
    { kind: "score", method: "gateFisher", cases: 2 },
    { kind: "prune", removeParameters: 0.4 },
    { kind: "recover", steps: 2, batch: 2, learningRate: 1e-3 },
    { kind: "chains", steps: 2, batch: 2, learningRate: 2e-3, rank: 4, alpha: 8, control: true },
    { kind: "sft", method: "lora", steps: 2, batch: 2, learningRate: 1e-3, rank: 4, alpha: 8 },
  ],
  evaluation: { cases: 2, maxNewTokens: 4, batch: 2 },
  checkpointEvery: 1,
  seed: 3,
};

interface Ended {
  code: number | null;
  stdout: string;
  stderr: string;
}

/** Run `npm run recipe -- ARGS`, npm aside. `interruptAt`: press Ctrl-C once this shows on stderr. */
function command(args: string[], interruptAt?: string): Promise<Ended> {
  return new Promise((done) => {
    const child = spawn(process.execPath, [script, "recipe", "--models", "models", ...args], {
      env: { ...process.env, INIT_CWD: folder },
    });
    let [stdout, stderr, interrupted] = ["", "", false];
    child.stdout.on("data", (chunk) => (stdout += String(chunk)));
    child.stderr.on("data", (chunk) => {
      stderr += String(chunk);
      if (!interrupted && interruptAt !== undefined && stderr.includes(interruptAt)) {
        interrupted = true;
        child.kill("SIGINT");
      }
    });
    child.on("close", (code) => done({ code, stdout, stderr }));
  });
}

/** The report without what differs from run to run: times, and what is made of times. */
function lasting(report: Report): unknown {
  return JSON.parse(JSON.stringify(report), (key, value: unknown) =>
    ["seconds", "tokensPerSecond", "latency"].includes(key) ? undefined : value,
  );
}

beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), "espalier-recipe-"));
  writeFileSync(join(folder, "tiny.json"), JSON.stringify(recipe));
  await writeTinyModel(join(folder, "models"), "tiny");
});

afterAll(() => rmSync(folder, { recursive: true }));

describe("npm run recipe", () => {
  it.each([
    [[], "One recipe is wanted"],
    [["nowhere"], 'There is no recipe "nowhere"'],
    [["hospital", "--bogus"], "Unknown option '--bogus'"],
    [["hospital", "--budget", "huge"], "--budget wants one of full, quick"],
    [["tiny.json", "--budget", "quick"], "--budget is for built-in recipes"],
    [["hospital", "--seed", "1.5"], "--seed wants a whole number"],
    [["hospital", "--backend", "cuda"], "--backend wants one of webgpu, wasm, cpu"],
    [["hospital", "--resume", "--out", "empty"], "There is no checkpoint in"],
    [["broken.json"], "The recipe is not usable: stages.1.removeParameters"],
    [["text.json"], "is not valid JSON"],
    [["ghost.json"], "There is no base model in"],
    [["own.json"], "--data FILE"],
  ])("refuses %j with one sentence and exit code 2", async (args, sentence) => {
    const broken = { ...recipe, stages: [recipe.stages[0], { kind: "prune", removeParameters: 2 }] };
    const own = { ...recipe, study: { kind: "imported", datasetId: "rows", validation: 0.2, test: 0.2 } };
    writeFileSync(join(folder, "broken.json"), JSON.stringify(broken));
    writeFileSync(join(folder, "text.json"), "not a recipe");
    writeFileSync(join(folder, "ghost.json"), JSON.stringify({ ...recipe, model: "ghost" }));
    writeFileSync(join(folder, "own.json"), JSON.stringify(own));
    const { code, stdout, stderr } = await command(args);
    expect([code, stdout]).toEqual([2, ""]);
    expect(stderr).toContain(sentence);
    expect(stderr).not.toMatch(/\n\s+at /); // No stack.
  });

  it("prints one JSON report, leaves every file it names, and gives the same numbers when stopped and resumed", async () => {
    const whole = await command(["tiny.json", "--json", "--out", "whole"]);
    expect(whole.code, whole.stderr).toBe(0);
    const report = v.parse(ReportSchema, JSON.parse(whole.stdout));
    expect(report.recipe).toEqual(recipe);
    expect(report.evaluations.map(({ point, mode }) => `${point} ${mode}`)).toEqual([
      "before direct",
      "before chain",
      "pruned direct",
      "pruned chain",
      "recovered direct",
      "recovered chain",
      "directControl direct",
      "chains direct",
      "chains chain",
      "sft direct",
      "sft chain",
    ]);
    for (const { name, sizeBytes } of report.files) {
      expect(readFileSync(join(folder, "whole", name)).length).toBe(sizeBytes);
    }
    expect(readdirSync(join(folder, "whole")).filter((name) => name.startsWith("checkpoint"))).toEqual([]);
    expect(existsSync(join(folder, "whole", "report.html"))).toBe(true);

    const stopped = await command(["tiny.json", "--json", "--out", "parts"], "[3/5 recover] recovered, direct");
    expect([stopped.code, stopped.stdout]).toEqual([130, ""]);
    expect(stopped.stderr).toContain("--resume");
    const resumed = await command(["tiny.json", "--json", "--out", "parts", "--resume"]);
    expect(resumed.code, resumed.stderr).toBe(0);
    expect(resumed.stderr).not.toContain("[2/5");
    expect(lasting(v.parse(ReportSchema, JSON.parse(resumed.stdout)))).toEqual(lasting(report));
  }, 240_000);

  it("with --handover ends before tuning, with a folder for other tools", async () => {
    const { code, stdout, stderr } = await command(["tiny.json", "--json", "--handover", "--out", "cluster"]);
    expect(code, stderr).toBe(0);
    expect(stderr).toContain(
      "In cluster are handover/, the report and the model.".replace("cluster", join(folder, "cluster")),
    );
    expect(stderr).toContain("it holds the training data as text");
    const { stages, recipe: own } = v.parse(ReportSchema, JSON.parse(stdout));
    expect(stages.map(({ kind }) => kind)).toEqual(["score", "prune", "recover"]);
    expect(own.exports?.handover?.thenStop).toBe(true);
    for (const name of [
      "base/config.json",
      "llamafactory/chains.yaml",
      "axolotl/sft.yaml",
      "trl/train.py",
      "README.md",
    ]) {
      expect(existsSync(join(folder, "cluster", "handover", name)), name).toBe(true);
    }
    writeFileSync(join(folder, "untuned.json"), JSON.stringify({ ...recipe, stages: recipe.stages.slice(0, 3) }));
    const refused = await command(["untuned.json", "--handover"]);
    expect([refused.code, refused.stderr]).toEqual([
      2,
      expect.stringContaining("a stage chains or sft, and there is none"),
    ]);
  }, 120_000);
});
