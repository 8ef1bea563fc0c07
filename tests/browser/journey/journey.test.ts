// One person's way through the built page, on the server that serves it: look, run a recipe, lose the page in the middle,
// go on, read, take away, ask, in both languages.

import { createHash } from "node:crypto";
import { mkdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import type { Locator, Page } from "playwright";
import * as v from "valibot";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { root } from "../../../src/cli/setup.mjs";
import { readSafetensors } from "../../../src/formats/safetensors.ts";
import type { Report } from "../../../src/protocol/report.ts";
import { ReportSchema } from "../../../src/protocol/report.ts";
import { accessibilityFaults, beginVisit, type Visit } from "./visit.ts";

const CONTROL_STEPS = 40;
const CHECKPOINT_EVERY = 2;
const RUN_MS = 240_000;

const pictures = join(root, "tests", "artefacts");
let visit: Visit;
let page: Page;
let report: Report;

beforeAll(async () => {
  visit = await beginVisit();
  page = visit.page;
  mkdirSync(pictures, { recursive: true });
});

afterAll(() => visit?.end());

/** The section of the page with this heading. */
const section = (name: string): Locator => page.getByRole("region", { name, exact: true });

/** The settings of a stage, opened. */
async function stage(name: string): Promise<Locator> {
  const item = section("Recipe")
    .getByRole("listitem")
    .filter({ has: page.getByLabel(`Include: ${name}`, { exact: true }) });
  await item.locator("summary").first().click();
  return item;
}

async function fill(scope: Locator, values: Record<string, number>): Promise<void> {
  for (const [label, value] of Object.entries(values)) {
    await scope.getByLabel(label, { exact: true }).fill(String(value));
  }
}

async function picture(name: string): Promise<void> {
  await page.screenshot({ path: join(pictures, `${name}.png`), fullPage: true });
}

/** Save a file of the run; its bytes. */
async function save(name: string): Promise<Buffer> {
  const [download] = await Promise.all([
    page.waitForEvent("download"),
    page.getByRole("button", { name: `Save ${name}`, exact: true }).click(),
  ]);
  expect(name.endsWith(download.suggestedFilename())).toBe(true);
  return readFileSync(await download.path());
}

describe("the built page", () => {
  it("opens, says what computes and why, and that nothing leaves", async () => {
    await page.goto(visit.url);
    await page.getByRole("button", { name: "Run the whole recipe" }).waitFor();
    const engine = page.getByRole("button", { name: /^What computes/ });
    await expect.poll(() => engine.textContent(), { timeout: 30_000 }).toContain("CPU (SIMD");
    await engine.click();
    await page.getByText(/the only GPU adapter is|there is no GPU/).waitFor();
    await page.keyboard.press("Escape");
    await page.getByRole("button", { name: "Nothing leaves this machine" }).waitFor();
    expect(await page.evaluate(() => crossOriginIsolated)).toBe(true);
    await picture("1-opened");
    expect(await accessibilityFaults(page)).toEqual([]);
  });

  it("runs a recipe that was made smaller with its own controls, and shows the loss", async () => {
    const recipe = section("Recipe");
    await recipe.getByRole("radio", { name: "Quick", exact: true }).check();
    await recipe.getByText("Amounts", { exact: true }).click();
    await fill(recipe, { "Training cases": 40, "Validation cases": 4, "Test cases": 6 });
    await fill(await stage("Score"), { Cases: 4 });
    await fill(await stage("Recover"), { Steps: 3, "Cases per step": 2 });
    await fill(await stage("Chains of thought"), { Steps: CONTROL_STEPS, "Cases per step": 2, "LoRA rank": 4 });
    await fill(await stage("Fine-tune"), { Steps: 3, "Cases per step": 2, "LoRA rank": 4 });
    await recipe.getByText("Evaluation and repetition", { exact: true }).click();
    await fill(recipe, {
      "Cases asked at each point": 6,
      "Longest reply, tokens": 24,
      "Steps between checkpoints": CHECKPOINT_EVERY,
    });
    await recipe.getByText("What you take away").click();
    await recipe.getByLabel("Type of the merged weights").selectOption("bf16");
    await fill(recipe, { "Largest file, MB": 1 });
    await recipe.getByRole("radio", { name: "uniform", exact: true }).check();
    await recipe.getByText("Pruning seldom leaves all layers alike.").waitFor();
    await recipe.getByRole("radio", { name: "padded", exact: true }).check();
    await recipe.getByLabel(/^Q8_0: /).check();
    await recipe.getByLabel("TRL", { exact: true }).check();
    await recipe.getByText("The hand-over folder will hold the training cases as text.").waitFor();
    expect(await accessibilityFaults(page)).toEqual([]);
    await picture("2-export");
    await recipe.getByRole("button", { name: "Run the whole recipe" }).click();
    const progress = section("Progress");
    // Not from the first step on: a checkpoint of this stage should have been written.
    await progress
      .getByText(/^Control: direct answers: step ([4-9]|[1-3]\d) of 40$/)
      .first()
      .waitFor({ timeout: RUN_MS });
    await section("What matters").getByRole("figure").first().waitFor();
    await picture("2-running");
  });

  it("offers to go on after it was reloaded in the middle, and has lost the steps since the last checkpoint at most", async () => {
    const shown = await section("Progress")
      .getByText(/^Control: direct answers: step/)
      .first()
      .textContent();
    const seen = Number(/step (\d+)/.exec(shown ?? "")?.[1]);
    await page.reload();
    const progress = section("Progress");
    await progress.getByText("This run was cut off.").first().waitFor({ timeout: 30_000 });
    const text = await progress.getByText(/^Last checkpoint: /).textContent();
    const [, step] = /Chains of thought, step (\d+)/.exec(text ?? "") ?? [];
    expect(Number(step)).toBeGreaterThan(seen - CHECKPOINT_EVERY - 1);
    await picture("3-reloaded");
    await progress.getByRole("button", { name: "Resume" }).click();
    await progress
      .getByText(/^Finished in /)
      .first()
      .waitFor({ timeout: RUN_MS });
  });

  it("shows the scores before and after, of all points of the run", async () => {
    const rows = section("Before and after").locator("table.evaluations tbody tr");
    expect(await rows.locator("th").allTextContents()).toEqual([
      "Before",
      "After pruning",
      "After recovery",
      "After chains of thought",
      "Control: direct answers only",
      "After fine-tuning",
    ]);
    for (const accuracy of await rows.locator("strong").allTextContents()) expect(accuracy).toMatch(/^\d+(\.\d)?\s?%$/);
    await section("What was cut").waitFor();
    await picture("4-finished");
    expect(await accessibilityFaults(page)).toEqual([]);
  });

  it("hands out a report that names every file by its hash, as if it had never been reloaded", async () => {
    report = v.parse(ReportSchema, JSON.parse((await save("report.json")).toString("utf8")));
    const control = report.stages.find(({ kind }) => kind === "directControl");
    expect(control?.curve.map(([step]) => step)).toEqual(Array.from({ length: CONTROL_STEPS }, (_, i) => i + 1));
    expect(report.environment.backend).toBe("wasm");
    expect(report.model.after.total).toBeLessThanOrEqual(report.model.before.total * 0.61);
  });

  it("hands out the adapter and the model, whole", async () => {
    for (const folder of await section("Take away")
      .getByText(/^All \d+ files of /)
      .all())
      await folder.click();
    for (const name of ["adapter/adapter_model.safetensors", "model/model-00001-of-00003.safetensors"]) {
      const bytes = await save(name);
      const named = report.files.find((file) => file.name === name);
      expect(createHash("sha256").update(bytes).digest("hex")).toBe(named?.sha256);
      expect(readSafetensors(new Uint8Array(bytes)).size).toBeGreaterThan(4);
    }
  });

  it("lists what was chosen to be taken away, and says what each form means", async () => {
    const files = section("Take away");
    const named = report.files.map(({ name }) => name);
    const shards = named.filter((name) => /^model\/model-\d{5}-of-\d{5}\.safetensors$/.test(name));
    expect(shards.length).toBeGreaterThan(1);
    for (const name of [...shards, "gguf/hospital-Q8_0.gguf", "gguf/Modelfile", "handover/README.md"]) {
      await files.getByRole("button", { name: `Save ${name}`, exact: true }).waitFor();
    }
    await files.getByText(`weights, part 1 of ${shards.length}`).first().waitFor();
    await files.getByText("it holds the training data as text").waitFor();
    await files.getByText("The weights are rounded to bf16").waitFor();
    expect(await files.getByText("What pruning removed is written as zeros").count()).toBe(4);
    expect(named).toEqual(expect.arrayContaining(["model/SHA256SUMS", "gguf/SHA256SUMS", "handover/SHA256SUMS"]));
    expect((await save("gguf/hospital-Q8_0.gguf")).subarray(0, 4).toString()).toBe("GGUF");
    expect(await accessibilityFaults(page)).toEqual([]);
    await page.setViewportSize({ width: 360, height: 780 });
    await section("Recipe").getByText("What you take away").click();
    await picture("5-files-narrow");
    expect(await page.evaluate(() => document.documentElement.scrollWidth)).toBeLessThanOrEqual(360);
    await page.setViewportSize({ width: 1440, height: 1000 });
  });

  it("hands out a report for people that needs nothing else", async () => {
    const html = (await save("report.html")).toString("utf8");
    const reader = await page.context().browser()!.newPage();
    const requests: string[] = [];
    reader.on("request", (request) => requests.push(request.url()));
    await reader.setContent(html);
    expect(await reader.getByRole("heading", { level: 1 }).textContent()).toBe(report.recipe.name);
    await reader.screenshot({ path: join(pictures, "5-report.png"), fullPage: true });
    expect(requests).toEqual([]);
    await reader.close();
  });

  it("lets the person ask the tuned model a test case", async () => {
    const chat = section("Ask the model");
    await chat.getByRole("radio", { name: "Tuned in this run", exact: true }).check();
    await chat.getByRole("button", { name: "Draw a test case" }).click();
    await expect.poll(() => chat.getByLabel("Question", { exact: true }).inputValue()).not.toBe("");
    await chat.getByRole("button", { name: "Ask", exact: true }).click();
    await chat.getByRole("heading", { name: "Answer", exact: true }).waitFor({ timeout: 60_000 });
    await chat.getByText(/tokens in/).waitFor();
    await picture("6-asked");
  });

  it("speaks Chinese, and remembers it", async () => {
    await page.getByRole("radio", { name: "中文", exact: true }).check();
    await page.getByRole("region", { name: "方案", exact: true }).waitFor();
    expect(await page.evaluate(() => document.documentElement.lang)).toBe("zh-CN");
    await section("带走结果").getByText("剪掉的部分写成零").first().waitFor();
    await picture("7-chinese");
    await page.reload();
    await page.getByRole("region", { name: "方案", exact: true }).waitFor();
  });

  it("has asked nobody else for anything, and met no error", () => {
    expect(visit.trouble).toEqual([]);
  });
});
