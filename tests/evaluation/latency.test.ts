import { expect, it } from "vitest";
import { measureLatency } from "../../src/evaluation/latency.ts";
import { disposeModel } from "../../src/models/weights.ts";
import { activate } from "../engine/harness.ts";
import { expectNoLeak, tinyModel } from "../models/tiny.ts";

const SETTING = { rows: 2, promptTokens: 24, newTokens: 4, repeats: 5 };

it("a model of several times the size takes longer to read a prompt, measured in turns", async () => {
  await activate("wasm");
  const small = tinyModel("qwen2");
  const large = tinyModel("qwen2", { intermediate_size: 4000, num_hidden_layers: 4 });
  const told: number[] = [];
  await expectNoLeak(async () => {
    const [first, second] = await measureLatency([small, large], SETTING, (done) => told.push(done));
    expect(first.repeats).toBe(5);
    expect(second.prefillMs).toBeGreaterThan(first.prefillMs);
    for (const { prefillMs, prefillSpreadMs, decodeMs, decodeSpreadMs } of [first, second]) {
      expect(Math.min(prefillMs, decodeMs)).toBeGreaterThan(0);
      expect(Math.min(prefillSpreadMs, decodeSpreadMs)).toBeGreaterThanOrEqual(0);
    }
  });
  expect(told).toEqual([0, 1, 2, 3, 4, 5]);
  for (const model of [small, large]) disposeModel(model);
});
