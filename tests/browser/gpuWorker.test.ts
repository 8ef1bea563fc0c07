// A short run in the worker that the page uses, with its storage, cut off and gone on with.

import { proxy, type Remote, wrap } from "comlink";
import { afterEach, beforeAll, describe, expect, it } from "vitest";
import type { Recipe } from "../../src/protocol/recipe.ts";
import type { RunEvent } from "../../src/protocol/run.ts";
import { openDatabase } from "../../src/storage/database.ts";
import { openFiles } from "../../src/storage/files.ts";
import { filePath, latestCheckpoint, listFiles, readEvents, readRun } from "../../src/storage/runs.ts";
import type { GpuApi } from "../../workers/gpu.worker.ts";
import gpuUrl from "../../workers/gpu.worker.ts?worker&url";

const STEPS = 7;

const recipe: Recipe = {
  schemaVersion: 1,
  name: "short",
  model: "deepseek-nano",
  study: { kind: "hospital", seed: 3, train: 12, validation: 2, test: 2 },
  stages: [{ kind: "recover", steps: STEPS, batch: 2, learningRate: 1e-3 }],
  evaluation: { cases: 2, maxNewTokens: 3, batch: 2 },
  checkpointEvery: 2,
  seed: 5,
};

let worker: Worker | null = null;

/** A fresh worker, as after a reload of the page. */
async function openWorker(): Promise<Remote<GpuApi>> {
  worker?.terminate();
  worker = new Worker(gpuUrl, { type: "module" });
  const gpu = wrap<GpuApi>(worker);
  await gpu.start();
  return gpu;
}

afterEach(() => {
  worker?.terminate();
  worker = null;
});

const steps = (events: RunEvent[]) =>
  events.filter((event) => event.type === "step").map(({ step, loss }) => [step, loss]);

/** Resolves when the run has told its step of this number. */
function reached(step: number): { event: Promise<void>; onEvent: (event: RunEvent) => void } {
  let tell = () => {};
  const event = new Promise<void>((resolve) => {
    tell = resolve;
  });
  return { event, onEvent: (told) => told.type === "step" && told.step === step && tell() };
}

it("tells what of a model cannot be exported, and of which there is no file", async () => {
  const gpu = await openWorker();
  const shapes = { perLayer: null, uniform: null, padded: null };
  expect(await gpu.exportLimits("deepseek-nano")).toMatchObject({ pruned: false, shapes, gguf: null });
  await expect(gpu.exportLimits("nobody")).rejects.toThrow(/nobody\/config\.json cannot be read/);
  await expect(gpu.exportLimits("local-0")).rejects.toThrow(/is not kept in this browser/);
});

describe("a run in the worker", () => {
  let uninterrupted: [number, number][];

  beforeAll(async () => {
    const gpu = await openWorker();
    const { id } = await gpu.createRun(recipe);
    const end = await gpu.continueRun(
      id,
      proxy(() => {}),
    );
    expect(end.type).toBe("finished");
    const { report, status } = await readRun(await openDatabase(), id);
    expect(status).toBe("finished");
    uninterrupted = report?.stages[0].curve ?? [];
    expect(uninterrupted).toHaveLength(STEPS);
  });

  it("that was cut off between two steps ends with the numbers of one that was not", async () => {
    const first = await openWorker();
    const { id } = await first.createRun(recipe);
    const five = reached(5);
    const cutOff = first.continueRun(id, proxy(five.onEvent));
    await Promise.race([five.event, cutOff]);
    worker?.terminate();
    const database = await openDatabase();
    expect((await readRun(database, id)).status).toBe("running");
    expect((await latestCheckpoint(database, id))?.step).toBe(4);

    const second = await openWorker();
    await second.continueRun(
      id,
      proxy(() => {}),
    );
    expect((await readRun(database, id)).report?.stages[0].curve).toEqual(uninterrupted);
    expect(steps(await readEvents(database, id))).toEqual(uninterrupted);
  });

  it("that was stopped has lost no step", async () => {
    const gpu = await openWorker();
    const { id } = await gpu.createRun(recipe);
    const three = reached(3);
    const end = gpu.continueRun(id, proxy(three.onEvent));
    await Promise.race([three.event, end]);
    await gpu.stop();
    expect(await end).toEqual({ type: "stopped" });
    const database = await openDatabase();
    const told = steps(await readEvents(database, id)).length;
    expect((await latestCheckpoint(database, id))?.step).toBe(told);
    expect(told).toBeLessThan(STEPS);
    expect(
      (
        await gpu.continueRun(
          id,
          proxy(() => {}),
        )
      ).type,
    ).toBe("finished");
    expect(steps(await readEvents(database, id))).toEqual(uninterrupted);
  });

  it("writes the files its report names, and a model that answers", async () => {
    const gpu = await openWorker();
    const database = await openDatabase();
    const [{ runId }] = await database.getAll("files");
    const { report } = await readRun(database, runId);
    const records = await listFiles(database, runId);
    for (const { name, sizeBytes, sha256 } of report?.files ?? []) {
      expect(records).toContainEqual({ runId, name, sizeBytes, sha256 });
      expect((await (await openFiles()).file(filePath(runId, name))).size).toBe(sizeBytes);
    }
    const options = { maxNewTokens: 3, temperature: 0, seed: 0 };
    const reply = await gpu.ask(
      { kind: "run", runId },
      "fever?",
      "direct",
      options,
      proxy(() => {}),
    );
    expect(reply.tokens).toBeGreaterThan(0);
    expect(reply.size.total).toBe(report?.model.after.total);
  });
});

describe("what the worker cannot do", () => {
  it("is told in a sentence with a code", async () => {
    const gpu = await openWorker();
    const strange = { ...recipe, model: "not-there" };
    const { id } = await gpu.createRun(strange);
    await expect(
      gpu.continueRun(
        id,
        proxy(() => {}),
      ),
    ).rejects.toMatchObject({
      message: expect.stringMatching(
        /models\/not-there\/config\.json cannot be read .*Serve Espalier together with its models/,
      ),
    });
    expect(await readRun(await openDatabase(), id)).toMatchObject({ status: "failed" });
    await expect(gpu.createRun({ ...recipe, stages: [] })).rejects.toThrow(/recipe is not usable: stages/);
    await expect(
      gpu.continueRun(
        "no-such-run",
        proxy(() => {}),
      ),
    ).rejects.toMatchObject({ name: "missing" });
  });

  it("is two things at a time", async () => {
    const gpu = await openWorker();
    const { id } = await gpu.createRun(recipe);
    const one = reached(1);
    const end = gpu.continueRun(id, proxy(one.onEvent));
    await Promise.race([one.event, end]);
    const options = { maxNewTokens: 3, temperature: 0, seed: 0 };
    await expect(
      gpu.ask(
        { kind: "base", model: recipe.model },
        "fever?",
        "direct",
        options,
        proxy(() => {}),
      ),
    ).rejects.toMatchObject({ name: "busy" });
    await gpu.stop();
    await end;
  });
});
