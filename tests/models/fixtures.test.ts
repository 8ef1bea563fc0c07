// Both families against the reference implementations (see tests/fixtures/README.md for how the numbers were made).

import { existsSync, readdirSync, readFileSync } from "node:fs";
import { describe, expect, it } from "vitest";
import * as tf from "../../src/engine/tf.ts";
import { compareWithReference, isWithin, type Quantity } from "../../src/evaluation/compareReference.ts";
import { type ReadFile, readReference } from "../../src/evaluation/reference.ts";
import { useBackend } from "../engine/harness.ts";

const read: ReadFile = (path) => {
  const file = `tests/fixtures/${path}`;
  return existsSync(file) ? readFileSync(file) : null;
};

const FOLDERS = readdirSync("tests/fixtures").filter((name) => read(`${name}/config.json`));

const FORWARD: Quantity[] = ["logits", "loss", "continuation"];
const LORA: Quantity[] = ["LoRA losses", "LoRA gradients", "LoRA weights", "LoRA logits"];

/** What there are numbers of: the bf16 folders have fewer, and not for each model an adapter was trained. */
function quantitiesOf(folder: string): Quantity[] {
  if (folder.endsWith("-bf16")) return FORWARD;
  const routing: Quantity[] = folder.startsWith("deepseek") ? ["routing"] : [];
  return [...FORWARD, "gradients", ...routing, ...(folder === "qwen2-tiny" ? LORA : [])];
}

describe.each(["cpu", "wasm", "webgpu"] as const)("on %s", (backend) => {
  useBackend(backend);

  it.each(FOLDERS)("%s gives the reference's numbers", async (folder) => {
    const before = tf.memory().numTensors;
    const measures = await compareWithReference(readReference(folder, read));
    expect(measures.map(({ quantity }) => quantity).toSorted()).toEqual(quantitiesOf(folder).toSorted());
    expect(measures.filter((measure) => !isWithin(measure))).toEqual([]);
    expect(tf.memory().numTensors).toBe(before);
  });
});

describe("another number than the reference's is seen:", () => {
  useBackend("wasm");

  /** The file with one of its JSON's values changed. */
  const changed = (path: string, change: (json: Record<string, never>) => object): ReadFile => {
    return (file) => {
      if (file !== path) return read(file);
      const json = JSON.parse(new TextDecoder().decode(read(file)!)) as Record<string, never>;
      return new TextEncoder().encode(JSON.stringify({ ...json, ...change(json) }));
    };
  };

  it.each<[string, string, (json: Record<string, never>) => object, Quantity[]]>([
    ["another model", "config.json", () => ({ rope_theta: 10_100 }), ["logits", "loss", "gradients", ...LORA]],
    ["another loss", "expected.json", ({ loss }) => ({ loss: loss + 2e-5 }), ["loss"]],
    [
      "another gradient",
      "expected.json",
      ({ grad_stats: stats }) => ({ grad_stats: { ...(stats as object), "model.norm.weight": { l2: 1 } } }),
      ["gradients"],
    ],
    [
      "a gradient that nobody takes",
      "expected.json",
      ({ grad_stats: stats }) => ({ grad_stats: { ...(stats as object), "model.norm.bias": { l2: 1 } } }),
      ["gradients"],
    ],
    [
      "another continuation",
      "expected.json",
      ({ greedy }: Record<string, { continuation: number[] }>) => ({
        greedy: { ...greedy, continuation: greedy.continuation.with(11, 3) },
      }),
      ["continuation"],
    ],
    [
      "another learning rate",
      "lora/optimizer.json",
      () => ({ lr: 0.0101 }),
      ["LoRA losses", "LoRA weights", "LoRA logits"],
    ],
    ["another scale", "lora/adapter_config.json", () => ({ lora_alpha: 8.1 }), LORA],
  ])("%s (%s)", async (_, file, change, wrong) => {
    const reference = readReference("qwen2-tiny", changed(`qwen2-tiny/${file}`, change));
    const measures = await compareWithReference(reference);
    const found = measures.filter((measure) => !isWithin(measure)).map(({ quantity }) => quantity);
    expect(found.filter((quantity) => quantity !== "continuation" || wrong.includes(quantity)).toSorted()).toEqual(
      wrong.toSorted(),
    );
  });

  it("experts that other tokens chose", async () => {
    const folder = "deepseek-v3-tiny-yarn";
    const other = changed(`${folder}/expected.json`, ({ routing }: Record<string, { experts_ascending: object }>) => {
      const [[layer, [[first, ...tokens], ...rows]]] = Object.entries(routing.experts_ascending) as [
        string,
        number[][][],
      ][];
      return { routing: { experts_ascending: { [layer]: [[first.map((e) => 7 - e), ...tokens], ...rows] } } };
    });
    const measures = await compareWithReference(readReference(folder, other));
    expect(measures.filter((measure) => !isWithin(measure))).toEqual([
      { quantity: "routing", error: 1, where: "layer 1, token 0" },
    ]);
  });

  it.each([
    ["nowhere", "qwen2-tiny has no expected.json"],
    ["qwen2-tiny/model.safetensors", "qwen2-tiny has no model.safetensors.index.json"],
    ["qwen2-tiny/lora/optimizer.json", "qwen2-tiny/lora has no optimizer.json"],
  ])("and a missing file is named: %s", (path, message) => {
    const without: ReadFile = (file) => (file === path || path === "nowhere" ? null : read(file));
    expect(() => readReference("qwen2-tiny", without).load()).toThrow(message);
  });
});
