// All that a person can do on the page.

import { batch } from "@preact/signals";
import type { AnswerMode } from "../protocol/data.ts";
import { type Exports, parseRecipe, type Recipe, type Stage } from "../protocol/recipe.ts";
import type { RunEvent } from "../protocol/run.ts";
import { type Budget, builtinRecipes } from "../recipes/builtin.ts";
import { asFailure } from "../storage/failure.ts";
import type { Settings } from "../storage/settings.ts";
import { chosenModel, type PlacedFile } from "./chosenFiles.ts";
import type { Client } from "./client.ts";
import { type Draft, draftOf, setSkipped, setStage, withExports } from "./draft.ts";
import type { Language } from "./i18n/messages.ts";
import { choiceOf, isModelGone, recommend, type Storage, unfinishedOf } from "./keeping.ts";
import { canResume, isAtWork, type KnownRun, type Question, type ShownRun, type Trouble, type Whom } from "./state.ts";
import type { State } from "./store.ts";
import { follow, newView, type RunView } from "./view.ts";

export type Actions = ReturnType<typeof createActions>;

/** The recipe that a first visit finds. */
export const firstDraft = (): Draft => draftOf(builtinRecipes.hospital("full"));

export function createActions(state: State, client: Client) {
  /** Do it; what goes wrong is shown at the top of the page. */
  async function shown(work: () => Promise<unknown>): Promise<void> {
    try {
      await work();
    } catch (error) {
      state.trouble.value = troubleOf(error);
    }
  }

  // ---- the page

  /** Bring back what was stored, start the engine, show the newest run. */
  async function open(): Promise<void> {
    const engine = restartEngine();
    await shown(async () => {
      const [settings, datasets, models] = await Promise.all([client.settings(), client.datasets(), client.models()]);
      batch(() => {
        state.datasets.value = datasets;
        state.models.value = models;
        restore(settings);
      });
      void learnLimits();
      await refreshRuns();
      const [newest] = state.runs.value;
      if (newest) await showRun(newest.record.id);
    });
    await engine;
  }

  function restore({ language, draft }: Settings): void {
    if (language) state.language.value = language;
    const stored = readDraft(draft);
    if (!stored) return;
    const { study } = stored.recipe;
    const gone = study.kind === "imported" && !state.datasets.value.some(({ id }) => id === study.datasetId);
    state.draft.value = gone ? { ...stored, recipe: { ...stored.recipe, study: firstDraft().recipe.study } } : stored;
  }

  async function restartEngine(): Promise<void> {
    state.engine.value = { status: "starting" };
    try {
      state.engine.value = { status: "ready", choice: await client.startEngine() };
    } catch (error) {
      state.engine.value = { status: "failed", trouble: troubleOf(error) };
    }
  }

  /** The engine stopped answering, or answers again. */
  function noticeSilence(silent: boolean): void {
    const engine = state.engine.value;
    if (engine.status !== "ready" && engine.status !== "silent") return;
    state.engine.value = { status: silent ? "silent" : "ready", choice: engine.choice };
  }

  /** The engine ended by itself. What waited for it has been told already. */
  function noticeDeath(error: unknown): void {
    state.engine.value = { status: "failed", trouble: troubleOf(error) };
  }

  function setLanguage(language: Language): Promise<void> {
    state.language.value = language;
    return shown(() => client.saveSettings({ language }));
  }

  function dismissTrouble(): void {
    state.trouble.value = null;
  }

  // ---- the recipe

  function edit(draft: Draft): Promise<void> {
    state.draft.value = draft;
    return shown(() => client.saveSettings({ draft }));
  }

  const editRecipe = (change: Partial<Draft["recipe"]>) =>
    edit({ ...state.draft.value, recipe: { ...state.draft.value.recipe, ...change } });
  const editExports = (change: Partial<Exports>) => editRecipe(withExports(state.draft.value.recipe, change));
  const editStage = (index: number, stage: Stage) => edit(setStage(state.draft.value, index, stage));
  const includeStage = (index: number, include: boolean) => edit(setSkipped(state.draft.value, index, !include));

  /** Take the built-in recipe of this size, for the model, the data and the exports that are chosen now. */
  function setBudget(budget: Budget): Promise<void> {
    const { study, name, model, storage, exports } = state.draft.value.recipe;
    const recipe = { ...builtinRecipes.hospital(budget), model, storage, exports };
    return edit(draftOf(study.kind === "imported" ? { ...recipe, study, name } : recipe));
  }

  /** Choose a shipped model by its name, or one that is kept by its id. */
  async function chooseModel(model: string): Promise<void> {
    if (state.question.value.whom === "base" && state.answer.value.status !== "thinking") {
      state.answer.value = { status: "none" }; // Another model gave it.
    }
    const edited = editRecipe(choiceOf(model, state.models.value));
    void learnLimits();
    await edited;
  }

  /** What of the recipe's model cannot be exported. Where it is not to be learned, the run itself tells. */
  async function learnLimits(): Promise<void> {
    const { model } = state.draft.value.recipe;
    state.limits.value = null;
    if (isModelGone(state.draft.value.recipe, state.models.value)) return;
    try {
      const limits = await client.exportLimits(model);
      if (state.draft.value.recipe.model === model) state.limits.value = limits;
    } catch {}
  }

  /** Choose the built-in study (null) or an imported data set. */
  function chooseData(datasetId: string | null): Promise<void> {
    const dataset = state.datasets.value.find(({ id }) => id === datasetId);
    if (!dataset) return editRecipe({ study: firstDraft().recipe.study, name: "hospital" });
    const study = { kind: "imported", datasetId: dataset.id, validation: 0.1, test: 0.2 } as const;
    return editRecipe({ study, name: dataset.name.slice(0, 100) });
  }

  // ---- runs

  async function refreshRuns(): Promise<void> {
    const [runs, storageBytes] = await Promise.all([client.runs(), client.storageBytes()]);
    batch(() => {
      state.runs.value = runs;
      state.storageBytes.value = storageBytes;
    });
  }

  async function refreshModels(): Promise<void> {
    const [models, storageBytes] = await Promise.all([client.models(), client.storageBytes()]);
    batch(() => {
      state.models.value = models;
      state.storageBytes.value = storageBytes;
    });
    void learnLimits(); // The recipe's model may have come, or gone.
  }

  /** Run the recipe as it stands. Resolves when the run has ended, however it did. */
  async function startRun(): Promise<void> {
    if (isAtWork(state.run.value.status) || state.advice.value?.canRun === false) return;
    await shown(async () => {
      const record = await client.createRun(state.recipe.value);
      batch(() => {
        state.view.value = newView(record.recipe);
        state.files.value = [];
        resetChat();
      });
      await work(record.id);
    });
  }

  /** Go on with a run that did not end, from its last checkpoint. */
  async function resumeRun(): Promise<void> {
    const run = state.run.value;
    if (run.status === "none" || !canResume(run.status)) return;
    await shown(async () => {
      const known = state.runs.value.find(({ record }) => record.id === run.runId);
      const told = (await client.events(run.runId)).slice(0, known?.checkpoint?.events ?? 0);
      if (known) state.view.value = viewOf(known, told); // The steps after the checkpoint are done again.
      await work(run.runId);
    });
  }

  async function work(runId: string): Promise<void> {
    batch(() => {
      state.trouble.value = null;
      state.run.value = { status: "running", runId };
    });
    let live = true;
    let failure: Trouble | null = null;
    try {
      await client.continueRun(runId, (events) => {
        if (live && state.view.value) state.view.value = follow(state.view.value, events);
      });
    } catch (error) {
      failure = troubleOf(error);
    }
    live = false; // What is stored is complete; events still on their way would repeat it.
    await refreshRuns();
    await showRun(runId);
    if (failure) state.run.value = { status: "failed", runId, trouble: failure };
  }

  /** Ask the run to end after its current step. */
  async function stopRun(): Promise<void> {
    const run = state.run.value;
    if (run.status !== "running") return;
    state.run.value = { status: "stopping", runId: run.runId };
    await shown(() => client.stop());
  }

  /** Show a run as far as it is stored. */
  async function showRun(runId: string): Promise<void> {
    const known = state.runs.value.find(({ record }) => record.id === runId);
    if (!known) return;
    const [events, files] = await Promise.all([client.events(runId), client.files(runId)]);
    batch(() => {
      state.view.value = viewOf(known, events);
      if (state.run.value.status === "none" || state.run.value.runId !== runId) resetChat();
      state.run.value = shownRun(known);
      state.files.value = known.status === "finished" ? files : [];
      if (known.status === "finished") state.question.value = { ...state.question.value, whom: "tuned" };
    });
  }

  async function deleteRun(runId: string): Promise<void> {
    await shown(async () => {
      await client.deleteRun(runId);
      await refreshRuns();
      const run = state.run.value;
      if (run.status === "none" || run.runId !== runId) return;
      batch(() => {
        state.run.value = { status: "none" };
        state.view.value = null;
        state.files.value = [];
        resetChat();
      });
    });
  }

  // ---- asking

  function resetChat(): void {
    state.question.value = { ...state.question.value, whom: "base" };
    state.answer.value = { status: "none" };
  }

  function setQuestion(change: Partial<Question>): void {
    const question = { ...state.question.value, ...change };
    const { drawn } = question;
    state.question.value = drawn && drawn.question !== question.text ? { ...question, drawn: null } : question;
  }

  const setWhom = (whom: Question["whom"]) => setQuestion({ whom });
  const setMode = (mode: AnswerMode) => setQuestion({ mode });

  /** Fill in a test case of the run that is shown, or else of the recipe. */
  async function drawCase(): Promise<void> {
    await shown(async () => {
      const seed = crypto.getRandomValues(new Uint32Array(1))[0];
      const drawn = await client.drawCase(recipeInHand(state), seed);
      batch(() => {
        state.question.value = { ...state.question.value, text: drawn.question, drawn };
        state.answer.value = { status: "none" };
      });
    });
  }

  async function ask(): Promise<void> {
    const { text, mode, drawn } = state.question.value;
    if (text.trim() === "" || state.answer.value.status === "thinking") return;
    const whom = whomOf(state);
    const { maxNewTokens } = (whom.kind === "base" ? state.recipe.value : recipeInHand(state)).evaluation;
    state.answer.value = { status: "thinking", part: { chain: "", answer: "" }, mode };
    let live = true;
    try {
      const reply = await client.ask({ whom, text, mode, maxNewTokens }, (part) => {
        if (live) state.answer.value = { status: "thinking", part, mode };
      });
      live = false;
      const graded = drawn && { expected: drawn.answer, right: await client.isRight(drawn, reply.answer) };
      state.answer.value = { status: "answered", reply, mode, graded };
    } catch (error) {
      live = false;
      state.answer.value = { status: "failed", trouble: troubleOf(error) };
    }
  }

  const stopAnswer = () => shown(() => client.stop());

  // ---- files and data

  function saveFile(name: string): Promise<void> {
    const run = state.run.value;
    return shown(async () => {
      if (run.status !== "none") await client.saveFile(run.runId, name);
    });
  }

  function saveAll(): Promise<void> {
    const run = state.run.value;
    const names = state.files.value.map((file) => file.name);
    return shown(async () => {
      if (run.status !== "none") await client.saveFiles(run.runId, names);
    });
  }

  /** Read a file of cases into a data set, and choose it. */
  async function importFile(file: File): Promise<void> {
    const { name, size: totalBytes } = file;
    state.importing.value = { status: "reading", name, doneBytes: 0, totalBytes };
    let live = true;
    try {
      const result = await client.importFile(file, (doneBytes) => {
        if (live) state.importing.value = { status: "reading", name, doneBytes, totalBytes };
      });
      live = false;
      const datasets = await client.datasets();
      batch(() => {
        state.datasets.value = datasets;
        state.importing.value = result ? { status: "imported", ...result } : { status: "idle" };
      });
      if (result) await chooseData(result.dataset.id);
    } catch (error) {
      live = false;
      state.importing.value = { status: "failed", name, trouble: troubleOf(error) };
    }
  }

  const cancelImport = () => shown(() => client.cancelImport());

  async function deleteDataset(id: string): Promise<void> {
    await shown(async () => {
      await client.deleteDataset(id);
      state.datasets.value = await client.datasets();
      const { study } = state.draft.value.recipe;
      if (study.kind === "imported" && study.datasetId === id) await chooseData(null);
    });
  }

  // ---- models

  /** Look at a checkpoint's files and ask how to keep it. */
  async function bringModel(given: PlacedFile[] | Promise<PlacedFile[]>): Promise<void> {
    const before = state.bringing.value;
    if (before.status === "looking" || before.status === "importing") return;
    let name: string | null = null;
    state.bringing.value = { status: "looking", name };
    try {
      const placed = await given;
      if (placed.length === 0) {
        state.bringing.value = before;
        return;
      }
      const chosen = chosenModel(placed);
      name = chosen.name;
      state.bringing.value = { status: "looking", name };
      const found = await client.inspectModel(chosen.files);
      const [plans, freeBytes] = await Promise.all([client.planModel(found), client.freeBytes()]);
      const recommended = recommend(plans);
      const [begun] = unfinishedOf(chosen.files, state.models.value);
      const storage = plans.find((plan) => plan.storage === begun?.storage && plan.fits)?.storage ?? recommended;
      const named = begun ? { ...chosen, name: begun.name } : chosen;
      state.bringing.value = { status: "choosing", chosen: named, found, plans, recommended, storage, freeBytes };
    } catch (error) {
      state.bringing.value = { status: "failed", name, trouble: troubleOf(error) };
    }
  }

  /** How the model that was looked at is to be kept, and what it is to be called. */
  function chooseKeeping({ storage, name }: { storage?: Storage; name?: string }): void {
    const bringing = state.bringing.value;
    if (bringing.status !== "choosing") return;
    const chosen = { ...bringing.chosen, name: name ?? bringing.chosen.name };
    state.bringing.value = { ...bringing, chosen, storage: storage ?? bringing.storage };
  }

  /** Bring the model in as was chosen, or go on with it after it was stopped. */
  async function importModel(): Promise<void> {
    const bringing = state.bringing.value;
    if ((bringing.status !== "choosing" && bringing.status !== "stopped") || !bringing.storage) return;
    const { chosen, storage } = bringing;
    state.bringing.value = { status: "importing", chosen, storage, progress: null, stopping: false };
    let live = true;
    try {
      const model = await client.importModel(chosen, storage, (progress) => {
        const now = state.bringing.value;
        if (live && now.status === "importing") state.bringing.value = { ...now, progress };
      });
      live = false;
      await refreshModels();
      state.bringing.value = model ? { status: "brought", model } : { status: "stopped", chosen, storage };
    } catch (error) {
      live = false;
      await shown(refreshModels);
      state.bringing.value = { status: "failed", name: chosen.name, trouble: troubleOf(error) };
    }
  }

  async function cancelModelImport(): Promise<void> {
    const bringing = state.bringing.value;
    if (bringing.status !== "importing") return;
    state.bringing.value = { ...bringing, stopping: true };
    await shown(() => client.cancelModelImport());
  }

  function dismissModel(): void {
    const { status } = state.bringing.value;
    if (status !== "looking" && status !== "importing") state.bringing.value = { status: "idle" };
  }

  async function deleteModel(id: string): Promise<void> {
    await shown(async () => {
      await client.deleteModel(id);
      await refreshModels();
      dismissModel(); // It may speak of this one.
    });
  }

  return {
    open,
    restartEngine,
    noticeSilence,
    noticeDeath,
    setLanguage,
    dismissTrouble,
    editRecipe,
    editExports,
    editStage,
    includeStage,
    setBudget,
    chooseData,
    chooseModel,
    startRun,
    resumeRun,
    stopRun,
    showRun: (runId: string) => shown(() => showRun(runId)),
    deleteRun,
    setQuestion,
    setWhom,
    setMode,
    drawCase,
    ask,
    stopAnswer,
    saveFile,
    saveAll,
    importFile,
    cancelImport,
    deleteDataset,
    bringModel,
    chooseKeeping,
    importModel,
    cancelModelImport,
    dismissModel,
    deleteModel,
  };
}

/** Whom a question would go to: the shown run's model if it is chosen and there is one, else the recipe's base model. */
function whomOf(state: State): Whom {
  const run = state.run.value;
  if (state.question.value.whom === "tuned" && run.status === "finished") return { kind: "run", runId: run.runId };
  return { kind: "base", model: state.recipe.value.model };
}

/** That of the run that is shown, or else the one being edited. */
const recipeInHand = (state: State): Recipe => state.view.value?.recipe ?? state.recipe.value;

/** A run as its stored events and its record tell it. */
function viewOf({ record, checkpoint }: KnownRun, events: RunEvent[]): RunView {
  const view = follow(newView(record.recipe), events);
  const place = checkpoint && { stage: checkpoint.stage, step: checkpoint.step };
  const known = { ...view, checkpoint: place };
  return record.report ? follow(known, [{ type: "finished", report: record.report }]) : known;
}

function shownRun({ record, status }: KnownRun): ShownRun {
  const runId = record.id;
  if (status !== "failed") return { status, runId };
  return { status, runId, trouble: { code: "engine", message: record.message ?? "" } };
}

function troubleOf(error: unknown): Trouble {
  const { code, message } = asFailure(error);
  return { code, message };
}

/** A draft as it was stored; null if it cannot be used any more. */
function readDraft(stored: unknown): Draft | null {
  try {
    const { recipe, skipped } = stored as Draft;
    return { recipe: parseRecipe(recipe), skipped: skipped.filter((index) => Number.isInteger(index)) };
  } catch {
    return null;
  }
}
