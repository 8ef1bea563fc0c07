import { createHash } from "node:crypto";
import * as v from "valibot";
import { beforeAll, describe, expect, it } from "vitest";
import type { BackendChoice } from "../../src/engine/backend.ts";
import { readConfig } from "../../src/formats/hfConfig.ts";
import { readAdapter } from "../../src/formats/peftAdapter.ts";
import { disposeModel, loadModel, loadModelFrom, modelSize } from "../../src/models/weights.ts";
import { parseRecipe, type Recipe } from "../../src/protocol/recipe.ts";
import { type Report, ReportSchema } from "../../src/protocol/report.ts";
import type { Checkpoint, RunEnd } from "../../src/protocol/run.ts";
import type { ModelFiles } from "../../src/recipes/host.ts";
import { runRecipe } from "../../src/recipes/run.ts";
import { unpackCheckpoint } from "../../src/training/checkpoint.ts";
import { attachAdapter, mergeLora } from "../../src/training/lora.ts";
import { activate } from "../engine/harness.ts";
import { changedNames, contents, expectNear, expectNoLeak, logitsOf, tinyIds } from "../models/tiny.ts";
import { MemoryHost, tinyModelFiles } from "./host.ts";

const BACKEND: BackendChoice = { name: "wasm", device: "CPU (SIMD)", reason: "it was asked for" };

const training = { batch: 2, learningRate: 5e-3 };
const adapter = { rank: 2, alpha: 6 };

const recipeOf = (name: string, stages: unknown[]): Recipe =>
  parseRecipe({
    schemaVersion: 1,
    name,
    model: "tiny",
    study: { kind: "hospital", seed: 3, train: 5, validation: 2, test: 2 },
    stages,
    evaluation: { cases: 2, maxNewTokens: 2, batch: 2 },
    checkpointEvery: 2,
    seed: 1,
  });

const RECIPES = {
  "cuts, recovers, learns chains beside their control, and tunes the same adapter": recipeOf("whole", [
    { kind: "score", method: "gateFisher", cases: 2 },
    { kind: "prune", removeParameters: 0.05 },
    { kind: "recover", steps: 2, ...training },
    { kind: "chains", steps: 3, ...training, ...adapter, control: true },
    { kind: "sft", method: "lora", steps: 2, ...training, ...adapter },
  ]),
  "learns chains, merges them, and unfreezes layer by layer": recipeOf("unfreeze", [
    { kind: "chains", steps: 1, ...training, ...adapter, control: false },
    { kind: "sft", method: "unfreeze", steps: 3, ...training, packing: true },
  ]),
};

type Name = keyof typeof RECIPES;
const NAMES = Object.keys(RECIPES) as Name[];
const [WHOLE] = NAMES;

/** Measured times, on which no two runs agree. */
const TIMES = new Set(["seconds", "tokensPerSecond", "latency"]);

/** A copy without measured times. */
function timeless<T>(value: T): T {
  return JSON.parse(JSON.stringify(value, (key, inner) => (TIMES.has(key) ? undefined : inner)));
}

/** The exported files but the report, which has times in it: names and hashes. */
function hashes({ files }: MemoryHost): [string, string][] {
  const kept = [...files].filter(([name]) => !name.startsWith("report."));
  return kept.map(([name, bytes]): [string, string] => [name, createHash("sha256").update(bytes).digest("hex")]);
}

const reportOf = (end: RunEnd): Report => {
  if (end.type !== "finished") throw new Error("the run was stopped");
  return end.report;
};

/** What a checkpoint holds, as something that can be compared. */
function fingerprint({ state, tensors }: Checkpoint): string {
  return JSON.stringify([timeless(state), createHash("sha256").update(tensors).digest("hex")]);
}

let model: ModelFiles;
/** Each recipe run to its end without a stop. */
const whole = new Map<Name, { host: MemoryHost; report: Report; askedAt: number[] }>();

beforeAll(async () => {
  await activate("wasm");
  model = await tinyModelFiles();
  for (const name of NAMES) {
    const host = new MemoryHost(model);
    const askedAt: number[] = [];
    const saveCheckpoint = host.saveCheckpoint.bind(host);
    host.saveCheckpoint = (checkpoint) => {
      askedAt.push(host.asked);
      return saveCheckpoint(checkpoint);
    };
    await expectNoLeak(async () => {
      const report = reportOf(await runRecipe(RECIPES[name], host, BACKEND));
      whole.set(name, { host, report, askedAt });
    });
  }
}, 60_000); // Two whole runs; a busy machine is slow.

describe.each(NAMES)("a recipe that %s", (name) => {
  it("ends in a report of its schema, with every stage and every measured point", () => {
    const { report } = whole.get(name)!;
    expect(v.safeParse(ReportSchema, JSON.parse(JSON.stringify(report))).success).toBe(true);
    const points = report.evaluations.map(({ point, mode }) => `${point} ${mode}`);
    const both = (point: string) => [`${point} direct`, `${point} chain`];
    expect(report.stages.map(({ kind, steps }) => [kind, steps])).toEqual(
      name === WHOLE
        ? [
            ["score", 0],
            ["prune", 0],
            ["recover", 2],
            ["directControl", 3],
            ["chains", 3],
            ["sft", 2],
          ]
        : [
            ["chains", 1],
            ["sft", 3],
          ],
    );
    expect(points).toEqual(
      name === WHOLE
        ? [
            ...both("before"),
            ...both("pruned"),
            ...both("recovered"),
            "directControl direct",
            ...both("chains"),
            ...both("sft"),
          ]
        : [...both("before"), ...both("chains"), ...both("sft")],
    );
    for (const { curve, steps } of report.stages) expect(curve.map(([step]) => step)).toEqual(range(1, steps));
  });

  it("stopped after each of its checkpoints and resumed comes to the same numbers and the same files", async () => {
    const { host: wanted, report } = whole.get(name)!;
    let from: Checkpoint | undefined;
    let end: RunEnd = { type: "stopped" };
    let sessions = 0;
    for (; end.type === "stopped" && sessions < 40; sessions++) {
      const host = new MemoryHost(model);
      host.stopping = () => host.checkpoints.length > 0;
      end = await runRecipe(RECIPES[name], host, BACKEND, from);
      from = host.checkpoints.at(-1);
      if (end.type === "finished") expect(hashesOfAll(host, name)).toEqual(hashesOfAll(wanted, name));
    }
    expect(timeless(reportOf(end))).toEqual(timeless(report));
    expect(sessions).toBeGreaterThan(3);
  });

  it("lists every file it wrote with its size and hash", () => {
    const { host, report } = whole.get(name)!;
    const written = [...host.files].filter(([file]) => !file.startsWith("report."));
    expect(report.files).toEqual(
      written.map(([file, bytes]) => ({
        name: file,
        sizeBytes: bytes.length,
        sha256: createHash("sha256").update(bytes).digest("hex"),
      })),
    );
    expect(JSON.parse(new TextDecoder().decode(host.files.get("report.json"))).files).toEqual(report.files);
  });

  it("exports a model that loads to the bits of the last checkpoint, merged, and an adapter that makes it of its base", () => {
    const { host, report } = whole.get(name)!;
    const json = (file: string) => JSON.parse(new TextDecoder().decode(host.files.get(file)));
    const load = (folder: string) =>
      loadModel(readConfig(json(`${folder}/config.json`)), host.files.get(`${folder}/model.safetensors`)!);
    const exported = load("model");
    const last = host.checkpoints.at(-1)!;
    const kept = unpackCheckpoint(readConfig(last.state.config), last.tensors, adapter.alpha / adapter.rank).model;
    mergeLora(kept);
    expect(changedNames(contents(kept), contents(exported))).toEqual([]);
    const ids = tinyIds(exported, [9, 9]);
    expect(logitsOf(exported, ids)).toEqual(logitsOf(kept, ids));
    expect(modelSize(exported)).toEqual(report.model.after);

    // Where nothing changed the base before the adapter, it is the one that everybody has.
    expect(host.files.has("base/config.json")).toBe(name === WHOLE);
    const base = name === WHOLE ? load("base") : loadModelFrom(readConfig(model.config), model.weights);
    attachAdapter(
      base,
      readAdapter(json("adapter/adapter_config.json"), host.files.get("adapter/adapter_model.safetensors")!),
    );
    if (name === WHOLE) {
      expectNear(logitsOf(base, ids), logitsOf(exported, ids), 1e-5);
      mergeLora(base);
      expect(changedNames(contents(base), contents(exported))).toEqual([]);
    }
    for (const one of [exported, kept, base]) disposeModel(one);
  });
});

/** The base and the adapter of a stage that was merged are written on the way, by the session that merges. */
function hashesOfAll(host: MemoryHost, name: Name): [string, string][] {
  return hashes(host).filter(([file]) => name === WHOLE || file.startsWith("model/"));
}

describe("a run", () => {
  it("stopped at any point keeps what it had: its next checkpoint is the one of the run that was never stopped", async () => {
    const { host: wanted, askedAt } = whole.get(WHOLE)!;
    const known = wanted.checkpoints.map(fingerprint);
    const recipe = RECIPES[WHOLE];
    let extra = 0;
    for (let point = 1; point <= wanted.asked; point++) {
      // Up to its last checkpoint before the point, the run is the one without a stop.
      const before = askedAt.findLastIndex((asked) => asked < point);
      const start = wanted.checkpoints[before];
      const host = new MemoryHost(model, point - (askedAt[before] ?? 0));
      expect((await runRecipe(recipe, host, BACKEND, start)).type, `stop ${point}`).toBe("stopped");
      const saved = host.checkpoints.map(fingerprint);
      const own = saved.filter((one) => !known.includes(one));
      expect(own.length, `stop ${point}`).toBeLessThanOrEqual(1);
      if (own.length === 0) continue; // It resumes from a checkpoint of the whole run, as tested above.
      extra += 1;
      const resumed = new MemoryHost(model);
      resumed.stopping = () => resumed.checkpoints.length > 0;
      await runRecipe(recipe, resumed, BACKEND, host.checkpoints.at(-1));
      expect(known, `after stop ${point}`).toContain(fingerprint(resumed.checkpoints[0]));
    }
    expect(extra).toBeGreaterThan(0);
  });

  it("stopped while it trains loses no step that is done", async () => {
    const recipe = recipeOf("steps", [{ kind: "recover", steps: 5, ...training }]);
    for (const stopAfter of [1, 2, 3, 4]) {
      const host = new MemoryHost(model);
      let done = 0;
      const onEvent = host.onEvent.bind(host);
      host.onEvent = (event) => {
        onEvent(event);
        // The page's message comes in between two steps.
        if (event.type === "step") setTimeout(() => (done = event.step));
      };
      host.stopping = () => done >= stopAfter;
      await expectNoLeak(async () => {
        expect((await runRecipe(recipe, host, BACKEND)).type).toBe("stopped");
      });
      const last = host.checkpoints.at(-1);
      expect(last?.state.step).toBe(host.events.filter(({ type }) => type === "step").length);
    }
  });

  it("trains the layers of multi-token prediction where it asks for them, and resumed does the same", async () => {
    const files = await tinyModelFiles({ num_nextn_predict_layers: 1 });
    const stage = { kind: "recover", steps: 2, ...training };
    const recipe = recipeOf("further", [{ ...stage, mtpWeight: 0.3 }]);
    const run = async (own: Recipe, stopAfter = Infinity, from?: Checkpoint) => {
      const host = new MemoryHost(files);
      host.stopping = () => host.events.filter(({ type }) => type === "step").length >= stopAfter;
      await expectNoLeak(() => runRecipe(own, host, BACKEND, from));
      return host.checkpoints;
    };
    const trained = (await run(recipe)).at(-1)!;
    const resumed = (await run(recipe, Infinity, (await run(recipe, 1)).at(-1))).at(-1)!;
    expect(fingerprint(resumed)).toBe(fingerprint(trained));
    const plain = (await run(recipeOf("plain", [stage]))).at(-1)!;
    const moved = ({ tensors }: Checkpoint) => {
      const config = readConfig(files.config);
      const models = [loadModelFrom(config, files.weights), unpackCheckpoint(config, tensors, 1).model];
      const [before, after] = models.map(contents);
      models.forEach(disposeModel);
      return changedNames(before, after).some((name) => name.endsWith("eh_proj.weight"));
    };
    expect([moved(trained), moved(plain)]).toEqual([true, false]);
  });

  it("that asks for multi-token prediction where there is none is refused before anything runs", async () => {
    const stage = { kind: "recover", steps: 2, ...training, mtpWeight: 0.3 };
    const host = new MemoryHost(model);
    await expectNoLeak(async () => {
      await expect(runRecipe(recipeOf("further", [stage]), host, BACKEND)).rejects.toThrow(
        "tiny has no multi-token prediction layers (num_nextn_predict_layers is 0). Leave mtpWeight out of the recipe.",
      );
    });
    expect(host.events).toEqual([]);
    const cut = [{ kind: "score", method: "gateFisher", cases: 2 }, { kind: "prune", removeParameters: 0.05 }, stage];
    expect(() => recipeOf("cut", cut)).toThrow("pruning removes the layers of multi-token prediction");
  });

  it("that cannot go on says why, and leaves no tensors behind", async () => {
    const recipe = recipeOf("too much", [
      { kind: "score", method: "meanGradient", cases: 2 },
      { kind: "prune", removeParameters: 0.95 },
    ]);
    const host = new MemoryHost(model);
    await expectNoLeak(async () => {
      await expect(runRecipe(recipe, host, BACKEND)).rejects.toThrow("Removing 95 % of the parameters was asked for");
    });
    expect(host.checkpoints).toHaveLength(1); // Of the scores: they stay.
  });

  it("on a model whose tokenizer has more tokens is refused before anything runs", async () => {
    const small = { ...model, config: { ...(model.config as object), vocab_size: 100 } };
    const host = new MemoryHost(small);
    await expectNoLeak(async () => {
      await expect(runRecipe(RECIPES[WHOLE], host, BACKEND)).rejects.toThrow("and the model 100 embeddings");
    });
    expect(host.events).toEqual([]);
  });
});

function range(from: number, to: number): number[] {
  return Array.from({ length: Math.max(0, to - from + 1) }, (_, i) => from + i);
}
