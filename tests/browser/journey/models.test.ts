// A person's own checkpoint on the built page: chosen, weighed, brought in, stopped and gone on with, used, deleted; and
// what is said of files that cannot be used.

import { cpSync, mkdirSync, mkdtempSync, renameSync, rmSync, truncateSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Locator, Page } from "playwright";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { root } from "../../../src/cli/setup.mjs";
import { layOut } from "../../../src/formats/safetensorsHeader.ts";
import { accessibilityFaults, beginVisit, type Visit } from "./visit.ts";

const SHIPPED = join(root, "public", "models", "deepseek-nano");
const NEEDED = ["config.json", "tokenizer.json", "tokenizer_config.json"];

let visit: Visit;
let page: Page;
let folder: string;
let models: Locator;
let recipe: Locator;

beforeAll(async () => {
  visit = await beginVisit();
  page = visit.page;
  page.on("dialog", (dialog) => void dialog.accept());
  folder = mkdtempSync(join(tmpdir(), "espalier-models-"));
  [models, recipe] = ["Models", "Recipe"].map((name) => page.getByRole("region", { name, exact: true }));
  await page.goto(visit.url);
  await page.locator(".engine-ready").waitFor({ timeout: 30_000 });
});

afterAll(async () => {
  await visit?.end();
  rmSync(folder, { recursive: true });
});

/** The shipped model's files in a folder of that name, as if they had been fetched from a hub. */
function nano(name: string, change: (path: string) => void = () => {}): string {
  const path = join(folder, name);
  mkdirSync(path);
  for (const file of [...NEEDED, "model.safetensors", "README.md"]) cpSync(join(SHIPPED, file), join(path, file));
  change(path);
  return path;
}

/** A Qwen2 checkpoint of zeros in bfloat16 that takes next to nothing of the disk. */
function zeros(name: string, { hidden, intermediate, layers }: Record<"hidden" | "intermediate" | "layers", number>) {
  const config = {
    architectures: ["Qwen2ForCausalLM"],
    model_type: "qwen2",
    hidden_act: "silu",
    hidden_size: hidden,
    intermediate_size: intermediate,
    max_position_embeddings: 512,
    num_attention_heads: hidden / 64,
    num_hidden_layers: layers,
    num_key_value_heads: 2,
    rms_norm_eps: 1e-6,
    rope_theta: 10_000,
    tie_word_embeddings: true,
    vocab_size: 2048,
  };
  const linears: [string, number, number][] = [
    ["self_attn.q_proj", hidden, hidden],
    ["self_attn.k_proj", 128, hidden],
    ["self_attn.v_proj", 128, hidden],
    ["self_attn.o_proj", hidden, hidden],
    ["mlp.gate_proj", intermediate, hidden],
    ["mlp.up_proj", intermediate, hidden],
    ["mlp.down_proj", hidden, intermediate],
  ];
  const shapes = new Map<string, number[]>([
    ["model.embed_tokens.weight", [2048, hidden]],
    ["model.norm.weight", [hidden]],
  ]);
  for (let layer = 0; layer < layers; layer++) {
    const at = `model.layers.${layer}`;
    for (const norm of ["input_layernorm", "post_attention_layernorm"]) shapes.set(`${at}.${norm}.weight`, [hidden]);
    for (const [linear, out, width] of linears) {
      shapes.set(`${at}.${linear}.weight`, [out, width]);
      if (/[qkv]_proj/.test(linear)) shapes.set(`${at}.${linear}.bias`, [out]);
    }
  }
  const { head, size } = layOut([...shapes].map(([tensor, shape]) => ({ name: tensor, dtype: "BF16", shape })));
  return nano(name, (path) => {
    writeFileSync(join(path, "config.json"), JSON.stringify(config));
    writeFileSync(join(path, "model.safetensors"), head);
    truncateSync(join(path, "model.safetensors"), size);
  });
}

const choose = (path: string) => models.getByLabel("Choose a folder…").setInputFiles(path);
const item = (text: string | RegExp) => models.getByRole("listitem").filter({ hasText: text });
const press = (name: string, within = models) => within.getByRole("button", { name, exact: true }).click();

describe("a checkpoint that a person brings", () => {
  it("is looked at, and weighed in four forms, of which one is recommended", async () => {
    await choose(nano("Qwen-of-mine"));
    await models.getByText("Qwen-of-mine: 1.12M parameters, 2.2 MB of weights.").waitFor();
    expect(await models.getByRole("radio").count()).toBe(4);
    const whole = models.getByRole("radio", { name: "float32 recommended" }); // So small a model can be pruned.
    expect(await whole.isChecked()).toBe(true);
    await models.getByText(/^Weights 1\.3 MB · tuning \d\.\d MB · fits$/).waitFor();
    expect(await accessibilityFaults(page)).toEqual([]);
  });

  it("is brought in as int8 and told of in the list", async () => {
    await models.getByRole("radio", { name: "int8" }).check();
    await press("Bring it in");
    await models.getByText("Qwen-of-mine is now kept here as int8.").waitFor();
    await item("1.12M parameters · int8 · 1.3 MB").waitFor();
    expect(await accessibilityFaults(page)).toEqual([]);
  });

  it("is chosen in the recipe, which then leaves out what would change its weights", async () => {
    await press("Choose it in the recipe");
    const model = recipe.getByLabel("Base model");
    expect(await model.locator("option:checked").textContent()).toBe("Qwen-of-mine (int8)");
    expect(await model.getAttribute("title")).toMatch(/^local-[\da-f]{16}$/);
    const included = async () =>
      Promise.all((await recipe.getByLabel(/^Include: /).all()).map((one) => one.isChecked()));
    expect(await included()).toEqual([false, false, false, true, true]);
    await recipe.getByText("This model is kept as int8").waitFor();
    expect(await accessibilityFaults(page)).toEqual([]);
    await model.selectOption("deepseek-nano");
    expect(await included()).toEqual([true, true, true, true, true]);
    await model.selectOption({ label: "Qwen-of-mine (int8)" });
  });

  it("answers a question, also after the page was loaded again", async () => {
    await page.reload();
    await page.locator(".engine-ready").waitFor({ timeout: 30_000 });
    const chat = page.getByRole("region", { name: "Ask the model", exact: true });
    await chat.getByText("It goes to Qwen-of-mine, the recipe's base model.").waitFor();
    await chat.getByRole("button", { name: "Draw a test case" }).click();
    await expect.poll(() => chat.getByLabel("Question", { exact: true }).inputValue()).not.toBe("");
    await chat.getByRole("button", { name: "Ask", exact: true }).click();
    await chat.getByRole("heading", { name: "Answer", exact: true }).waitFor({ timeout: 60_000 });
    await chat.getByText(/tokens in/).waitFor();
  });

  it("is called by its name in its runs and their results", async () => {
    const fill = (label: string, value: number, within = recipe) =>
      within.getByLabel(label, { exact: true }).fill(String(value));
    const chains = recipe.getByRole("listitem").filter({ has: page.getByLabel("Include: Chains of thought") });
    await recipe.getByText("Amounts", { exact: true }).click();
    await fill("Training cases", 4);
    await fill("Test cases", 2);
    await recipe.getByLabel("Include: Fine-tune").uncheck();
    await chains.locator("summary").first().click();
    await fill("Steps", 1, chains);
    await fill("Cases per step", 2, chains);
    await chains.getByLabel("Also tune a control on direct answers").uncheck();
    await recipe.getByText("Evaluation and repetition", { exact: true }).click();
    await fill("Cases asked at each point", 1);
    await fill("Longest reply, tokens", 4);
    await recipe.getByText("What you take away").click();
    await recipe.getByText("Nothing is pruned, so the model has one shape, which loads everywhere.").waitFor();
    await press("Run the whole recipe", recipe);
    for (const name of ["Before and after", "Runs in this browser"]) {
      const named = page.getByRole("region", { name, exact: true }).getByText("Qwen-of-mine", { exact: true });
      await named.waitFor({ timeout: 60_000 });
      expect(await named.getAttribute("title")).toMatch(/^local-[\da-f]{16}$/);
    }
    await page
      .getByText(/^Finished in /)
      .first()
      .waitFor({ timeout: 60_000 });
    await page.getByText("The base is as it was computed with, rounded to int8").first().waitFor();
    expect(await accessibilityFaults(page)).toEqual([]);
  });

  it("is gone when it is deleted, and the recipe says so", async () => {
    await press("Delete Qwen-of-mine (int8)");
    await expect.poll(() => item("Qwen-of-mine").count()).toBe(0);
    const runs = page.getByRole("region", { name: "Runs in this browser", exact: true });
    await runs.getByText("A model that is no longer here").waitFor();
    await runs.getByRole("button", { name: /^Delete the run / }).click(); // The disk is to be empty for what follows.
    await runs.waitFor({ state: "detached" });
    await recipe.getByText("The recipe's model is no longer kept in this browser.").waitFor();
    expect(await recipe.getByRole("button", { name: "Run the whole recipe" }).isDisabled()).toBe(true);
    await recipe.getByLabel("Base model").selectOption("deepseek-nano");
    expect(await recipe.getByRole("button", { name: "Run the whole recipe" }).isEnabled()).toBe(true);
  });

  it("can be dropped as a folder", async () => {
    const { x, y } = (await models.locator(".drop-zone").boundingBox()) as { x: number; y: number };
    const session = await page.context().newCDPSession(page);
    const data = { items: [], files: [join(folder, "Qwen-of-mine")], dragOperationsMask: 1 };
    for (const type of ["dragEnter", "dragOver", "drop"] as const) {
      await session.send("Input.dispatchDragEvent", { type, x: x + 20, y: y + 20, data });
    }
    await models.getByText("Qwen-of-mine: 1.12M parameters, 2.2 MB of weights.").waitFor();
    await press("Cancel");
    expect(await models.getByRole("radio").count()).toBe(0);
  });
});

describe("an import that is stopped", () => {
  it("is kept as far as it came, and goes on from there with the same files", async () => {
    const path = zeros("half", { hidden: 1024, intermediate: 4096, layers: 5 });
    await choose(path);
    await models.getByRole("radio", { name: "int8" }).check();
    await page.evaluate(() => {
      const timer = setInterval(() => {
        const card = document.querySelector(".models") as HTMLElement;
        const [, share] = /converting(?:.|\n)*?(\d+)%: /.exec(card.innerText) ?? [];
        if (Number(share) < 10 || share === undefined) return;
        clearInterval(timer);
        card.querySelector<HTMLElement>(".bringing > button")?.click();
      }, 5);
    });
    await press("Bring it in");
    await models.getByText(/^half: stopped at \d+%\. What is done is kept\.$/).waitFor();
    await item(/half.*\d+%, bring the files again to go on/).waitFor();
    expect(await recipe.getByLabel("Base model").locator("option").allTextContents()).toEqual(["deepseek-nano"]);
    expect(await accessibilityFaults(page)).toEqual([]);

    await page.reload(); // The files themselves are forgotten with the page.
    await page.locator(".engine-ready").waitFor({ timeout: 30_000 });
    await choose(path);
    expect(await models.getByRole("radio", { name: "int8" }).isChecked()).toBe(true);
    await models.getByText(/\d+% of it is here already: it goes on there\./).waitFor();
    await press("Bring it in");
    await models.getByText("half is now kept here as int8.").waitFor({ timeout: 60_000 });
    await press("Delete half (int8)");
    await expect.poll(() => item("half").count()).toBe(0);
  });
});

describe("what cannot be brought in", () => {
  it.each<[string, (path: string) => void, RegExp]>([
    ["no-config", (path) => rmSync(join(path, "config.json")), /have no config\.json\. Choose the checkpoint's whole/],
    [
      "in-pytorch",
      (path) => renameSync(join(path, "model.safetensors"), join(path, "pytorch_model.bin")),
      /pytorch_model\.bin holds weights in PyTorch's own format, which can run code and is not read\./,
    ],
    ["cut-off", (path) => truncateSync(join(path, "model.safetensors"), 1_000_000), /model\.safetensors.*cut off/],
    ["no-json", (path) => writeFileSync(join(path, "config.json"), "{"), /config\.json is not JSON/],
  ])("says why: %s", async (name, change, sentence) => {
    await choose(nano(name, change));
    const alert = models.getByRole("alert");
    await alert.filter({ hasText: `${name} could not be brought in.` }).waitFor();
    expect(await alert.textContent()).toMatch(sentence);
  });

  it("says with numbers that it is too large for the device, and what to do", async () => {
    await choose(zeros("giant", { hidden: 8192, intermediate: 28_672, layers: 16 }));
    const alert = models.getByRole("alert").filter({ hasText: "giant does not fit on this device" });
    await alert.waitFor({ timeout: 60_000 });
    expect(await alert.textContent()).toMatch(/even kept as int4, tuning takes \d\.\d\d GB, and there are 4\.16 GB\./);
    expect(await models.getByRole("button", { name: "Bring it in" }).count()).toBe(0);
    await press("Close");
  });

  it("says beforehand that the disk may have no room, and when it has none", async () => {
    await page.evaluate(() => {
      navigator.storage.estimate = async () => ({ quota: 5e6, usage: 3e6 });
    });
    await choose(join(folder, "Qwen-of-mine"));
    await models.getByText(/^It takes 4\.5 MB on the disk, and this browser says .* room for 2\.0 MB only\./).waitFor();
    await models.getByRole("radio", { name: "int8" }).check();
    await models.getByText("It takes 1.3 MB on the disk; this browser says that it has room for 2.0 MB.").waitFor();
    const session = await page.context().newCDPSession(page);
    const origin = new URL(visit.url).origin;
    await session.send("Storage.overrideQuotaForOrigin", { origin, quotaSize: 1_000_000 });
    await press("Bring it in");
    await models.getByRole("alert").filter({ hasText: "This browser has no room left for" }).waitFor();
    await session.send("Storage.overrideQuotaForOrigin", { origin });
    await choose(join(folder, "Qwen-of-mine"));
    await press("Bring it in");
    await models.getByText("Qwen-of-mine is now kept here as int8.").waitFor();
  });
});

it("has asked nobody else for anything, and met no error", () => {
  expect(visit.trouble).toEqual([]);
});
