import { beforeEach, describe, expect, it } from "vitest";
import { type Actions, createActions, firstDraft } from "../../src/app/actions.ts";
import { draftOf } from "../../src/app/draft.ts";
import type { KnownRun } from "../../src/app/state.ts";
import { createState, type State } from "../../src/app/store.ts";
import type { InspectedModel } from "../../workers/data.worker.ts";
import type { Case } from "../../src/protocol/data.ts";
import type { RunEvent } from "../../src/protocol/run.ts";
import type { ExportLimits } from "../../src/recipes/export/limits.ts";
import type {
  CheckpointRecord,
  DatasetRecord,
  FileRecord,
  ModelRecord,
  RunRecord,
} from "../../src/storage/database.ts";
import { Failure } from "../../src/storage/failure.ts";
import type { Settings } from "../../src/storage/settings.ts";
import { recipe } from "../storage/states.ts";
import { atStep8, events, report } from "./recordedRun.ts";
import { type RecordedClient, recordedClient } from "./recordedClient.ts";

const record: RunRecord = { schemaVersion: 1, id: "r1", createdAt: 5, name: "tiny", recipe, status: "running" };
const file: FileRecord = { runId: "r1", name: "model/config.json", sizeBytes: 3, sha256: "00" };
const choice = { name: "wasm", device: "CPU (SIMD)", reason: "there is no GPU" } as const;
const size = report.model.before;
const drawn: Case = { id: "c", language: "en", question: "which?", chain: "a", answer: "this", slices: [] };
const checkpoint: CheckpointRecord = {
  schemaVersion: 1,
  runId: "r1",
  slot: "a",
  sequence: 3,
  sizeBytes: 1,
  sha256: "00",
  stage: 2,
  step: 5,
  events: events.findIndex((event) => event.type === "step" && event.step === 6),
  savedAt: 1,
};

let state: State;
let actions: Actions;
let recorded: RecordedClient;
/** What storage holds in this test. */
let stored: {
  runs: KnownRun[];
  events: RunEvent[];
  settings: Settings;
  files: FileRecord[];
  datasets: DatasetRecord[];
  models: ModelRecord[];
};

beforeEach(() => {
  stored = { runs: [], events: [], settings: {}, files: [], datasets: [], models: [] };
  recorded = recordedClient({
    settings: () => stored.settings,
    datasets: () => stored.datasets,
    models: () => stored.models,
    freeBytes: () => 1e9,
    cancelModelImport: () => undefined,
    deleteModel: () => {
      stored.models = [];
    },
    runs: () => stored.runs,
    events: () => stored.events,
    files: () => stored.files,
    storageBytes: () => 1000,
    saveSettings: () => undefined,
    stop: () => undefined,
    isRight: () => true,
    deleteRun: () => {
      stored.runs = [];
    },
  });
  state = createState(draftOf(recipe), "en");
  actions = createActions(state, recorded.client);
});

async function opened(): Promise<void> {
  const opening = actions.open();
  await recorded.answer("startEngine", choice);
  await opening;
}

/** Start a run and let it tell `told`. Resolves while it goes on. */
async function begun(told: RunEvent[]): Promise<{ end: Promise<void> }> {
  await opened();
  const end = actions.startRun();
  await recorded.answer("createRun", record);
  recorded.given("continueRun")[1](told);
  return { end };
}

describe("opening the page", () => {
  it("starts the engine and shows no run where there was none", async () => {
    await opened();
    expect(state.engine.value).toEqual({ status: "ready", choice });
    expect(state.run.value).toEqual({ status: "none" });
    expect(state.storageBytes.value).toBe(1000);
  });

  it("says why the engine did not start, and starts it when asked again", async () => {
    const opening = actions.open();
    await recorded.fail("startEngine", new Failure("unsupported", "There is no WebAssembly."));
    await opening;
    expect(state.engine.value).toMatchObject({ status: "failed", trouble: { code: "unsupported" } });
    const again = actions.restartEngine();
    await recorded.answer("startEngine", choice);
    await again;
    expect(state.engine.value.status).toBe("ready");
  });

  it("shows a run that was cut off as far as it is stored, with its last checkpoint", async () => {
    stored.runs = [{ record, status: "interrupted", checkpoint }];
    stored.events = atStep8;
    await opened();
    expect(state.run.value).toEqual({ status: "interrupted", runId: "r1" });
    expect(state.view.value?.curves[0].points).toHaveLength(8);
    expect(state.view.value?.checkpoint).toEqual({ stage: 2, step: 5 });
  });

  it("shows a finished run with its report and files", async () => {
    stored.runs = [{ record: { ...record, status: "finished", report }, status: "finished", checkpoint }];
    stored.files = [file];
    await opened();
    expect(state.view.value?.report).toEqual(report);
    expect(state.files.value).toEqual([file]);
    expect(state.question.value.whom).toBe("tuned");
  });

  it("brings back language and recipe, and leaves out a recipe that cannot be read", async () => {
    stored.settings = { language: "zh", draft: { recipe: { ...recipe, name: "kept" }, skipped: [1] } };
    await opened();
    expect(state.messages.value.recipe.title).toBe("方案");
    expect(state.recipe.value).toMatchObject({ name: "kept", stages: [{ kind: "score" }, { kind: "recover" }] });
    stored.settings = { draft: { recipe: { name: "broken" }, skipped: [] } };
    await opened();
    expect(state.recipe.value.name).toBe("kept");
  });

  it("goes back to the built-in study when the recipe's data set is gone", async () => {
    const study = { kind: "imported", datasetId: "gone", validation: 0.1, test: 0.1 } as const;
    stored.settings = { draft: draftOf({ ...recipe, study }) };
    await opened();
    expect(state.recipe.value.study).toEqual(firstDraft().recipe.study);
  });
});

describe("a run", () => {
  it("is shown as it goes, then as it is stored", async () => {
    const { end } = await begun(atStep8);
    expect(state.run.value).toEqual({ status: "running", runId: "r1" });
    expect(state.view.value?.progress).toMatchObject({ what: "training", step: 8 });
    stored.runs = [{ record: { ...record, status: "finished", report }, status: "finished", checkpoint }];
    stored.files = [file];
    await recorded.answer("continueRun", { type: "finished", report });
    await end;
    expect(state.run.value).toEqual({ status: "finished", runId: "r1" });
    expect(state.view.value?.report).toEqual(report);
    expect(state.files.value).toEqual([file]);
  });

  it("is not changed by events that arrive after its end", async () => {
    const { end } = await begun(atStep8);
    const tell = recorded.given("continueRun")[1];
    stored.runs = [{ record: { ...record, status: "finished", report }, status: "finished", checkpoint }];
    await recorded.answer("continueRun", { type: "finished", report });
    await end;
    const view = state.view.value;
    tell(atStep8);
    expect(state.view.value).toBe(view);
  });

  it("is not started twice, nor with a recipe that cannot be run", async () => {
    await begun([]);
    await actions.startRun();
    expect(recorded.verbs().filter((verb) => verb === "createRun")).toHaveLength(1);
    state.run.value = { status: "none" };
    await actions.includeStage(0, false);
    await actions.startRun();
    expect(recorded.verbs().filter((verb) => verb === "createRun")).toHaveLength(1);
  });

  it("leaves no trace when it cannot begin, but the reason", async () => {
    await opened();
    const starting = actions.startRun();
    await recorded.fail("createRun", new Failure("elsewhere", "Another tab trains."));
    await starting;
    expect(state.run.value).toEqual({ status: "none" });
    expect(state.trouble.value).toEqual({ code: "elsewhere", message: "Another tab trains." });
    actions.dismissTrouble();
    expect(state.trouble.value).toBeNull();
  });

  it("is asked to stop once, and can be resumed from its checkpoint", async () => {
    const { end } = await begun(atStep8);
    await actions.stopRun();
    expect(state.run.value.status).toBe("stopping");
    await actions.stopRun();
    expect(recorded.verbs().filter((verb) => verb === "stop")).toHaveLength(1);
    stored.runs = [{ record: { ...record, status: "stopped" }, status: "stopped", checkpoint }];
    stored.events = atStep8;
    await recorded.answer("continueRun", { type: "stopped" });
    await end;
    expect(state.run.value).toEqual({ status: "stopped", runId: "r1" });

    const resumed = actions.resumeRun();
    await recorded.answer("storageBytes", 1); // Lets what is under way go on.
    expect(state.run.value.status).toBe("running");
    expect(state.view.value?.curves[0].points.map(([step]) => step)).toEqual([1, 2, 3, 4, 5]);
    stored.runs = [{ record: { ...record, status: "finished", report }, status: "finished", checkpoint }];
    await recorded.answer("continueRun", { type: "finished", report });
    await resumed;
    expect(state.run.value.status).toBe("finished");
  });

  it("that fails says why, keeps what it showed and can be resumed", async () => {
    const { end } = await begun(atStep8);
    stored.runs = [{ record: { ...record, status: "failed", message: "…" }, status: "failed", checkpoint }];
    stored.events = atStep8;
    await recorded.fail("continueRun", new Failure("quota", "There is no room left."));
    await end;
    expect(state.run.value).toMatchObject({ status: "failed", trouble: { code: "quota" } });
    expect(state.view.value?.curves[0].points).toHaveLength(8);
  });

  it("is gone from the page when it is deleted", async () => {
    stored.runs = [{ record, status: "interrupted", checkpoint }];
    await opened();
    await actions.deleteRun("r1");
    expect(state.run.value).toEqual({ status: "none" });
    expect(state.view.value).toBeNull();
    expect(state.runs.value).toEqual([]);
  });
});

describe("asking", () => {
  const reply = { chain: "a", answer: "this", tokens: 9, seconds: 1, size };

  it("shows the reply as it comes and grades it where the answer is known", async () => {
    await opened();
    const drawing = actions.drawCase();
    await recorded.answer("drawCase", drawn);
    await drawing;
    const asking = actions.ask();
    const [question, onPart] = recorded.given("ask");
    expect(question).toEqual({
      whom: { kind: "base", model: recipe.model },
      text: "which?",
      mode: "chain",
      maxNewTokens: recipe.evaluation.maxNewTokens,
    });
    onPart({ chain: "a", answer: "" });
    expect(state.answer.value).toMatchObject({ status: "thinking", part: { chain: "a" } });
    await recorded.answer("ask", reply);
    await asking;
    onPart({ chain: "late", answer: "" });
    expect(state.answer.value).toMatchObject({ status: "answered", reply, graded: { expected: "this", right: true } });
  });

  it("does not grade a question that was changed after it was drawn", async () => {
    await opened();
    const drawing = actions.drawCase();
    await recorded.answer("drawCase", drawn);
    await drawing;
    actions.setQuestion({ text: "which one?" });
    const asking = actions.ask();
    await recorded.answer("ask", reply);
    await asking;
    expect(state.answer.value).toMatchObject({ status: "answered", graded: null });
    expect(recorded.verbs()).not.toContain("isRight");
  });

  it("goes to the model of the run that is shown once it has finished", async () => {
    stored.runs = [{ record: { ...record, status: "finished", report }, status: "finished", checkpoint }];
    await opened();
    actions.setQuestion({ text: "which?" });
    void actions.ask();
    expect(recorded.given("ask")[0].whom).toEqual({ kind: "run", runId: "r1" });
  });

  it("asks nothing when the question is empty, and tells what went wrong otherwise", async () => {
    await opened();
    actions.setQuestion({ text: "  " });
    await actions.ask();
    expect(recorded.verbs()).not.toContain("ask");
    actions.setQuestion({ text: "which?" });
    const asking = actions.ask();
    await recorded.fail("ask", new Failure("busy", "A run is under way."));
    await asking;
    expect(state.answer.value).toMatchObject({ status: "failed", trouble: { code: "busy" } });
  });
});

describe("importing", () => {
  const dataset = { schemaVersion: 1, id: "d1", createdAt: 1, name: "rows.csv", cases: 40 } as const;

  it("shows how far it is, then chooses what was imported", async () => {
    await opened();
    const importing = actions.importFile(new File(["x".repeat(10)], "rows.csv"));
    recorded.given("importFile")[1](5);
    expect(state.importing.value).toMatchObject({ status: "reading", doneBytes: 5, totalBytes: 10 });
    stored.datasets = [dataset];
    const answered = recorded.answer("importFile", {
      dataset,
      skipped: [{ row: 3, message: "empty" }],
      skippedCount: 1,
    });
    await answered;
    await importing;
    expect(state.importing.value).toMatchObject({ status: "imported", skippedCount: 1 });
    expect(state.recipe.value.study).toMatchObject({ kind: "imported", datasetId: "d1" });
  });

  it("goes back to where it was when it is cancelled", async () => {
    await opened();
    const importing = actions.importFile(new File(["x"], "rows.csv"));
    await recorded.answer("importFile", null);
    await importing;
    expect(state.importing.value).toEqual({ status: "idle" });
    expect(state.recipe.value.study.kind).toBe("hospital");
  });

  it("names the file that could not be used, and why", async () => {
    await opened();
    const importing = actions.importFile(new File(["x"], "rows.csv"));
    await recorded.fail("importFile", new Failure("input", "There is no answer."));
    await importing;
    expect(state.importing.value).toMatchObject({ status: "failed", name: "rows.csv", trouble: { code: "input" } });
  });
});

describe("bringing a model", () => {
  const config = new File(["{}"], "config.json");
  const weights = new File(["12345"], "model.safetensors");
  const folder = [config, weights].map((file) => ({ file, path: `mine/${file.name}` }));
  const keptBytes = { f32: 400, f16: 200, int8: 120, int4: 70 };
  const found: InspectedModel = { config: {}, tensors: [["a", [10, 10]]], parameters: 100, sizeBytes: 5, keptBytes };
  const plans = (["f32", "f16", "int8", "int4"] as const).map((storage) => {
    const weightBytes = 1e6 * keptBytes[storage];
    return { storage, weightBytes, tuningBytes: 2 * weightBytes, budgetBytes: 3e8, fits: 2 * weightBytes <= 3e8 };
  });
  const whole: ModelRecord = {
    schemaVersion: 1,
    id: "local-1",
    createdAt: 1,
    name: "mine",
    storage: "int8",
    parameters: 100,
    sources: [{ name: "model.safetensors", sizeBytes: 5, sha256: "00" }],
    sizeBytes: 120,
    doneBytes: 120,
  };

  async function looked(): Promise<void> {
    await opened();
    const looking = actions.bringModel(folder);
    await recorded.answer("storageBytes", 1); // Lets what is under way go on.
    expect(state.bringing.value).toEqual({ status: "looking", name: "mine" });
    await recorded.answer("inspectModel", found);
    await recorded.answer("planModel", plans);
    await looking;
  }

  it("looks at the files, then asks how to keep it, with what fits and loses least", async () => {
    await looked();
    expect(recorded.given("inspectModel")).toEqual([[config, weights]]);
    expect(state.bringing.value).toMatchObject({ status: "choosing", recommended: "int8", storage: "int8" });
    actions.chooseKeeping({ storage: "int4" });
    actions.chooseKeeping({ name: "ours" });
    expect(state.bringing.value).toMatchObject({ chosen: { name: "ours" }, storage: "int4", recommended: "int8" });
    actions.dismissModel();
    expect(state.bringing.value).toEqual({ status: "idle" });
  });

  it("shows how far it is, then that it is kept; chosen, it takes the place of the recipe's model", async () => {
    await looked();
    const importing = actions.importModel();
    const [chosen, storage, onProgress] = recorded.given("importModel");
    expect([chosen.name, storage]).toEqual(["mine", "int8"]);
    onProgress({ phase: "converting", doneBytes: 1, totalBytes: 2 });
    expect(state.bringing.value).toMatchObject({ status: "importing", progress: { doneBytes: 1 } });
    stored.models = [whole];
    await recorded.answer("importModel", whole);
    await importing;
    onProgress({ phase: "converting", doneBytes: 2, totalBytes: 2 }); // Late.
    expect(state.bringing.value).toEqual({ status: "brought", model: whole });
    await actions.chooseModel("local-1");
    expect(state.recipe.value).toMatchObject({ model: "local-1", storage: "int8" });
    await actions.chooseModel("deepseek-nano");
    expect(state.recipe.value.storage).toBeUndefined();
  });

  it("that is cancelled says so and goes on when it is asked to", async () => {
    await looked();
    const importing = actions.importModel();
    await actions.cancelModelImport();
    expect(state.bringing.value).toMatchObject({ status: "importing", stopping: true });
    stored.models = [{ ...whole, doneBytes: 60 }];
    await recorded.answer("importModel", null);
    await importing;
    expect(state.bringing.value).toMatchObject({ status: "stopped", storage: "int8" });
    void actions.importModel();
    expect(recorded.given("importModel")[1]).toBe("int8");
    expect(state.bringing.value.status).toBe("importing");
  });

  it("whose files were brought before goes on in the form it was begun in", async () => {
    stored.models = [{ ...whole, storage: "int4", name: "before", doneBytes: 60 }];
    await looked();
    expect(state.bringing.value).toMatchObject({ storage: "int4", chosen: { name: "before" } });
  });

  it("that cannot be used says why, and one that fits in no form is not brought in", async () => {
    await opened();
    const looking = actions.bringModel(folder);
    await recorded.answer("storageBytes", 1);
    await recorded.fail("inspectModel", new Failure("input", "There is no tokenizer.json."));
    await looking;
    expect(state.bringing.value).toMatchObject({ status: "failed", name: "mine", trouble: { code: "input" } });

    const again = actions.bringModel(Promise.resolve(folder));
    await recorded.answer("storageBytes", 1);
    await recorded.answer("inspectModel", found);
    await recorded.answer(
      "planModel",
      plans.map((plan) => ({ ...plan, budgetBytes: 1, fits: false })),
    );
    await again;
    expect(state.bringing.value).toMatchObject({ status: "choosing", recommended: null, storage: null });
    await actions.importModel();
    expect(recorded.verbs()).not.toContain("importModel");
  });

  it("leaves what it was when no file was chosen", async () => {
    await opened();
    await actions.bringModel([]);
    expect(state.bringing.value).toEqual({ status: "idle" });
  });

  it("that is deleted keeps the recipe that names it from being run, until another is chosen", async () => {
    stored.models = [whole];
    stored.settings = { draft: draftOf({ ...recipe, model: "local-1" }) };
    await opened();
    expect(state.advice.value).toBeNull();
    await actions.deleteModel("local-1");
    expect(state.advice.value).toEqual({ advice: "modelGone", canRun: false });
    await actions.startRun();
    expect(recorded.verbs()).not.toContain("createRun");
    await actions.chooseModel(recipe.model);
    expect(state.advice.value).toBeNull();
  });

  it("keeps its place when another size of the recipe is chosen", async () => {
    stored.models = [whole];
    await opened();
    await actions.chooseModel("local-1");
    await actions.setBudget("quick");
    expect(state.draft.value.recipe).toMatchObject({ model: "local-1", storage: "int8" });
  });

  it("answers questions as the recipe's base model, also while another model's run is shown", async () => {
    stored.models = [whole];
    stored.runs = [{ record: { ...record, status: "finished", report }, status: "finished", checkpoint }];
    await opened();
    await actions.chooseModel("local-1");
    actions.setQuestion({ text: "which?", whom: "base" });
    void actions.ask();
    expect(recorded.given("ask")[0].whom).toEqual({ kind: "base", model: "local-1" });
  });
});

describe("what a run is to leave", () => {
  const limits: ExportLimits = {
    pruned: false,
    shapes: { perLayer: null, uniform: null, padded: null },
    gguf: "llama.cpp cannot run it.",
    ggufNotes: [],
    padsExperts: true,
  };

  it("is kept when the size of the run or the data are changed", async () => {
    stored.datasets = [{ schemaVersion: 1, id: "d1", createdAt: 1, name: "own", cases: 9 }];
    await opened();
    await actions.editExports({ dtype: "bf16", shape: "padded", gguf: ["Q8_0"] });
    const wanted = state.draft.value.recipe.exports;
    for (const change of [
      () => actions.setBudget("full"),
      () => actions.chooseData("d1"),
      () => actions.setBudget("quick"),
      () => actions.chooseData(null),
    ]) {
      await change();
      expect(state.draft.value.recipe.exports).toEqual(wanted);
    }
    expect(wanted).toMatchObject({ dtype: "bf16", shape: "padded", gguf: ["Q8_0"] });
  });

  it("is weighed against the model that is chosen, not against one that was", async () => {
    await opened();
    await recorded.answer("exportLimits", { ...limits, gguf: null });
    expect(state.limits.value?.gguf).toBeNull();
    void actions.chooseModel("another");
    expect(state.limits.value).toBeNull();
    state.draft.value = draftOf({ ...recipe, model: "a third" }); // Before the answer has come.
    await recorded.answer("exportLimits", limits);
    expect(state.limits.value).toBeNull();
    void actions.chooseModel("another");
    await recorded.answer("exportLimits", limits);
    expect(state.limits.value).toEqual(limits);
    await actions.editExports({ gguf: ["F16"] });
    expect(state.advice.value).toMatchObject({ advice: "noGguf", canRun: false });
    await actions.startRun();
    expect(recorded.verbs()).not.toContain("createRun");
  });

  it("is left to the run where nothing is to be learned of the model", async () => {
    await opened();
    await recorded.fail("exportLimits", new Failure("missing", "It is not there."));
    expect(state.limits.value).toBeNull();
    expect(state.trouble.value).toBeNull();
  });
});

describe("the engine", () => {
  it("is said to be silent, and to answer again, without losing what it is", async () => {
    await opened();
    actions.noticeSilence(true);
    expect(state.engine.value).toEqual({ status: "silent", choice });
    actions.noticeSilence(false);
    expect(state.engine.value).toEqual({ status: "ready", choice });
  });

  it("that dies is not brought back to life by a late heartbeat", async () => {
    await opened();
    actions.noticeDeath(new Failure("workerDied", "It ended."));
    actions.noticeSilence(false);
    expect(state.engine.value).toMatchObject({ status: "failed", trouble: { code: "workerDied" } });
  });
});
