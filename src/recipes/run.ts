// A recipe from its first stage to its last: the same on the page and on the command line, and resumable anywhere.

import type { AnswerMode, Batch } from "../protocol/data.ts";
import { makeBatch } from "../data/batches.ts";
import { exampleOf } from "../data/chat.ts";
import type { Tokenizer } from "../data/tokenizer.ts";
import { type BackendChoice, TENSORFLOW_VERSION } from "../engine/backend.ts";
import { isPacked } from "../engine/packed.ts";
import { nextTask, nextTurn } from "../engine/idle.ts";
import { giveBackMemory } from "../engine/memory.ts";
import { askAll } from "../evaluation/answers.ts";
import { fileSize } from "../evaluation/reportMarkup.ts";
import { measureLatency } from "../evaluation/latency.ts";
import { type ModelConfig, readConfig, writeConfig } from "../formats/hfConfig.ts";
import { planByBudget } from "../loar/budget.ts";
import { scoreUnits } from "../loar/importance.ts";
import { copyModel, prune } from "../loar/prune.ts";
import type { Model } from "../models/decoder.ts";
import type { Storage } from "../models/storage.ts";
import { disposeModel, loadModelFrom, modelSize, namedTables, type NamedTensor } from "../models/weights.ts";
import {
  type ChainsStage,
  exportsOf,
  isSameWork,
  isTuning,
  type Recipe,
  type RecoverStage,
  type SftStage,
  type Stage,
  takesFloatWeights,
} from "../protocol/recipe.ts";
import type { EvaluationPoint, Report, StageResultKind } from "../protocol/report.ts";
import type { Checkpoint, RunEnd, RunState } from "../protocol/run.ts";
import { ESPALIER_VERSION } from "../protocol/version.ts";
import { packCheckpoint, restoreOptimizer, unpackCheckpoint } from "../training/checkpoint.ts";
import { attachLora, detachLora, loraTensors, mergeLora } from "../training/lora.ts";
import { batchLoss } from "../training/loss.ts";
import { adviseMemory } from "../training/plan.ts";
import { createOptimizer, DEFAULT_OPTIMIZER, disposeOptimizer, type Optimizer } from "../training/optimizer.ts";
import { learningRateAt } from "../training/schedule.ts";
import { train } from "../training/train.ts";
import { trainableWeights } from "../training/trainable.ts";
import { isUnfrozen, unfrozenLayers } from "../training/unfreeze.ts";
import { batcher, batchShape, type ModeRule } from "./batching.ts";
import { checkExports } from "./export/forms.ts";
import { type ExportSource, exportAdapter, exportModel } from "./exports.ts";
import { handOver } from "./handOver.ts";
import { type ModelFiles, type RunHost, Stopped } from "./host.ts";
import { openParts } from "./openParts.ts";
import { type OpenStudy, openStudy } from "./studies.ts";

/** Prompts measured for speed: a page of text, a short reply. */
const LATENCY = { rows: 16, promptTokens: 128, newTokens: 16, repeats: 9 };

function latencySetting(model: Model) {
  return { ...LATENCY, promptTokens: Math.min(LATENCY.promptTokens, longest(model) - LATENCY.newTokens - 1) };
}

/** What a run holds while it goes. */
interface Run {
  recipe: Recipe;
  host: RunHost;
  files: ModelFiles;
  tokenizer: Tokenizer;
  open: OpenStudy;
  model: Model;
  /** Of the stage under way, kept between its checkpoint and its end. */
  optimizer: Optimizer | null;
  state: RunState;
  /** When the run's first second would have been, had it never been interrupted. */
  startedMs: number;
}

/**
 * Run a recipe, or go on from a checkpoint. The backend must have been started.
 *
 * Rejects if the run cannot go on; what was stored stays.
 */
export async function runRecipe(
  recipe: Recipe,
  host: RunHost,
  backend: BackendChoice,
  from?: Checkpoint,
): Promise<RunEnd> {
  const run = await openRun(recipe, host, backend, from);
  try {
    await evaluateOnce(run, "before");
    while (run.state.stage < recipe.stages.length) {
      const stage = recipe.stages[run.state.stage];
      if (isTuning(stage) && (await leftToOthers(run))) break;
      await runStage(run, stage);
      run.state.stage += 1;
      run.state.part = "control";
      run.state.step = 0;
      await checkpoint(run);
    }
    return { type: "finished", report: await finish(run) };
  } catch (error) {
    if (error instanceof Stopped) return { type: "stopped" };
    throw error;
  } finally {
    if (run.optimizer) disposeOptimizer(run.optimizer);
    disposeModel(run.model);
  }
}

async function openRun(recipe: Recipe, host: RunHost, backend: BackendChoice, from?: Checkpoint): Promise<Run> {
  if (from && !isSameWork(from.state.recipe, recipe)) {
    throw new Error("The checkpoint belongs to another recipe. Resume it with its own, or start a new run.");
  }
  const files = await host.readModel(recipe.model);
  const { config: base, tokenizer } = openParts(files);
  const config = from ? readConfig(from.state.config) : base;
  checkMtp(recipe, config);
  checkExports(config, exportsOf(recipe));
  const storage = storageOf(recipe, files);
  const open = await openStudy(recipe.study, host);
  const startedMs = performance.now() - 1000 * (from?.state.report.seconds ?? 0);
  const shared = { recipe, host, files, tokenizer, open, optimizer: null, startedMs };
  if (!from) {
    const model = loadModelFrom(config, files.weights, storage);
    return { ...shared, model, state: firstState(recipe, model, backend, host) };
  }
  const { model, moments } = unpackCheckpoint(config, from.tensors, loraScale(recipe), {
    weights: files.weights,
    storage,
  });
  const state = { ...structuredClone(from.state), recipe };
  state.report.recipe = recipe;
  const run: Run = { ...shared, model, state };
  if (moments.size > 0) {
    const stage = recipe.stages[run.state.stage] as RecoverStage | ChainsStage | SftStage;
    run.optimizer = createOptimizer(trainedBy(stage, model), DEFAULT_OPTIMIZER);
    restoreOptimizer(run.optimizer, moments, from.state.step);
  }
  return run;
}

/** Throws before anything is done where a stage would train layers that are not there. */
function checkMtp({ stages, model }: Recipe, config: ModelConfig): void {
  const layers = config.family === "deepseek" ? config.numNextnPredictLayers : 0;
  if (layers > 0 || !stages.some(asksForMtp)) return;
  throw new Error(
    `${model} has no multi-token prediction layers (num_nextn_predict_layers is 0). Leave mtpWeight out of the recipe.`,
  );
}

/** How the model is stored. Throws before anything is done where a stage would change what is frozen. */
function storageOf({ storage, stages, model }: Recipe, { weights }: ModelFiles): Storage {
  const own = weights.storage ?? storage ?? "f32";
  if (storage && storage !== own) {
    throw new Error(
      `The recipe wants ${model} as ${storage}, and it is kept as ${own}. Bring its files again as ${storage}.`,
    );
  }
  const stage = stages.find(takesFloatWeights);
  if (own === "f32" || !stage) return own;
  throw new Error(
    `${model} is stored as ${own}, which is frozen, and the stage "${stage.kind}" works on weights that can change. Leave that stage out, or bring the model as f32.`,
  );
}

/** alpha / rank of the adapter that a recipe's stages share. */
function loraScale(recipe: Recipe): number {
  const stage = recipe.stages.find((one) => one.kind === "chains" || (one.kind === "sft" && one.method === "lora"));
  return stage && "rank" in stage ? stage.alpha / stage.rank : 1;
}

function firstState(recipe: Recipe, model: Model, backend: BackendChoice, host: RunHost): RunState {
  const size = modelSize(model);
  const report: Report = {
    schemaVersion: 1,
    recipe,
    seed: recipe.seed,
    environment: {
      backend: backend.name,
      device: backend.device,
      reason: backend.reason,
      espalier: ESPALIER_VERSION,
      tensorflowJs: TENSORFLOW_VERSION,
      host: host.description,
    },
    model: { name: recipe.model, before: size, after: size },
    scores: null,
    plan: null,
    stages: [],
    evaluations: [],
    latency: null,
    files: [],
    seconds: 0,
  };
  return {
    schemaVersion: 1,
    recipe,
    stage: 0,
    step: 0,
    report,
    curve: [],
    tokens: 0,
    seconds: 0,
    part: "control",
    config: writeConfig(model.config),
  };
}

/** Before the first tuning: write what another tool goes on with, where that is asked for. True if the run ends there. */
async function leftToOthers(run: Run): Promise<boolean> {
  const { handover } = exportsOf(run.recipe);
  if (!handover) return false;
  const first = run.recipe.stages.findIndex(isTuning) === run.state.stage && run.state.step === 0;
  const done = run.state.report.files.some(({ name }) => name.startsWith("handover/"));
  if (first && !done) await handOver(sourceOf(run), handover);
  return handover.thenStop;
}

async function runStage(run: Run, stage: Stage): Promise<void> {
  switch (stage.kind) {
    case "score":
      return score(run, stage.method, stage.cases);
    case "prune":
      return cut(run, stage.removeParameters);
    case "recover":
      await trainStage(run, stage, "recover", (place) => (place % 2 === 0 ? "chain" : "direct"));
      return evaluateOnce(run, "recovered");
    case "chains":
      return chains(run, stage);
    case "sft":
      if (stage.method === "unfreeze") await closeAdapters(run);
      else if (loraTensors(run.model).length === 0) attachLora(run.model, { ...stage, seed: run.recipe.seed });
      await trainStage(run, stage, "sft", (place) => (place % 2 === 0 ? "chain" : "direct"));
      return evaluateOnce(run, "sft");
  }
}

/** Score on chains: what a model that reasons must keep shows in its reasoning, not in other text. */
async function score(run: Run, method: "gateFisher" | "meanGradient", cases: number): Promise<void> {
  const { state, open, tokenizer, model, host } = run;
  const done = beginStage(run, "score", 0);
  const chosen = open.study.train.slice(0, cases);
  const samples = chosen.map((item) => makeBatch([exampleOf(tokenizer, item, "chain")], batchShape(longest(model))));
  const startedMs = performance.now();
  state.report.scores = await scoreUnits(model, samples, method, async (count) => {
    host.onEvent({ type: "scoring", done: count, total: samples.length });
    await stopPoint(run);
  });
  state.seconds = (performance.now() - startedMs) / 1000;
  state.tokens = samples.reduce((total, sample) => total + sample.tokens, 0);
  host.onEvent({ type: "scored", scores: state.report.scores });
  done(0);
}

async function cut(run: Run, share: number): Promise<void> {
  const { state, host, recipe } = run;
  if (!state.report.plan) {
    if (!state.report.scores) throw new Error("A prune stage needs a score stage before it. Add one to the recipe.");
    const done = beginStage(run, "prune", 0);
    const startedMs = performance.now();
    const whole = run.model;
    const plan = planByBudget(whole, state.report.scores, share);
    const pruned = prune(whole, plan);
    checkExportsOf(pruned, recipe);
    const [before, after] = await measureLatency([whole, pruned], latencySetting(whole), (count) =>
      host.onEvent({ type: "measuringLatency", done: count, total: LATENCY.repeats }),
    );
    run.model = pruned;
    disposeModel(whole);
    state.seconds = (performance.now() - startedMs) / 1000;
    state.report.plan = plan;
    state.report.latency = { before, after };
    state.report.model.after = modelSize(pruned);
    state.config = writeConfig(pruned.config);
    host.onEvent({ type: "pruned", plan });
    done(0);
    await checkpoint(run);
  }
  await evaluateOnce(run, "pruned");
}

/** Throws where the model as it is cannot be had in the form asked for, before it is trained in vain. */
function checkExportsOf(pruned: Model, recipe: Recipe): void {
  try {
    checkExports(pruned.config, exportsOf(recipe));
  } catch (error) {
    disposeModel(pruned);
    throw error;
  }
}

/** With a control, the same cases are first learned without their chains, by an adapter that is then thrown away. */
async function chains(run: Run, stage: ChainsStage): Promise<void> {
  const fresh = () => attachLora(run.model, { ...stage, seed: run.recipe.seed });
  if (run.state.part === "control") {
    if (stage.control) {
      if (loraTensors(run.model).length === 0) fresh();
      await trainStage(run, stage, "directControl", () => "direct");
      await evaluateOnce(run, "directControl", ["direct"]);
      detachLora(run.model);
    }
    run.state.part = "main";
    run.state.step = 0;
  }
  if (loraTensors(run.model).length === 0) fresh();
  await trainStage(run, stage, "chains", () => "chain");
  await evaluateOnce(run, "chains");
}

async function trainStage(
  run: Run,
  stage: RecoverStage | ChainsStage | SftStage,
  kind: StageResultKind,
  modeOf: ModeRule,
): Promise<void> {
  const { recipe, state, host, model } = run;
  if (state.report.stages.some((done) => done.kind === kind)) return; // Resumed in the evaluation after it.
  const done = beginStage(run, kind, stage.steps);
  run.optimizer ??= createOptimizer(trainedBy(stage, model), DEFAULT_OPTIMIZER);
  const batchAt = batcher(
    run.tokenizer,
    run.open.study.train,
    modeOf,
    { size: stage.batch, atATime: stage.atATime ?? stage.batch, packing: stage.packing ?? false },
    longest(model),
    // The chains and their control see the same cases in the same order.
    recipe.seed + state.stage,
  );
  planStage(run, stage, batchAt(state.step));
  const gradual = stage.kind === "sft" && stage.method === "unfreeze";
  const depth = model.layers.length;
  await train(model, run.optimizer, {
    from: state.step,
    steps: stage.steps,
    batchAt,
    recompute: stage.recompute,
    mtpWeight: stage.mtpWeight,
    learningRateAt: (step) => learningRateAt(step, stage.steps, stage.learningRate),
    trains: gradual ? (name, step) => isUnfrozen(name, unfrozenLayers(step, stage.steps, depth), depth) : undefined,
    onStep: async ({ step, loss, tokens, seconds }) => {
      state.step = step;
      state.tokens += tokens;
      state.seconds += seconds;
      state.curve.push([step, loss]);
      host.onEvent({ type: "step", kind, step, steps: stage.steps, loss, tokensPerSecond: tokens / seconds });
      if (step % recipe.checkpointEvery === 0 || step === stage.steps) await checkpoint(run);
    },
    stopping: () => host.stopping(),
  });
  if (state.step < stage.steps) {
    await checkpoint(run);
    throw new Stopped();
  }
  const trainable = trainedBy(stage, model).reduce((total, { tensor }) => total + tensor.size, 0);
  disposeOptimizer(run.optimizer);
  run.optimizer = null;
  giveBackMemory();
  done(trainable);
  await checkpoint(run);
}

/** Tell what the stage takes of the device's memory. Throws with what to change where that is more than there is. */
function planStage({ model, host, state }: Run, stage: RecoverStage | ChainsStage | SftStage, batches: Batch[]): void {
  if (state.report.environment.backend === "cpu") return; // Plain JavaScript; nobody waits for a large model there.
  const [{ rows, length, positions, packed }] = batches;
  const { plan, changes } = adviseMemory(model.config, {
    storage: "f32",
    rank: "rank" in stage ? stage.rank : null,
    rows,
    length,
    trainedTokens: Math.ceil(positions.length / rows),
    packed: packed !== undefined,
    mtp: asksForMtp(stage),
    batches: batches.length,
    recompute: stage.recompute ?? false,
  });
  if (changes.length > 0) {
    throw new Error(
      `This stage takes more memory than the ${fileSize(plan.budgetBytes)} there are. ` +
        changes.map(({ sentence }) => sentence).join(" "),
    );
  }
  host.onEvent({ type: "memoryPlanned", bytes: plan.totalBytes });
}

/** What a stage trains: the adapters, or the weights. */
function trainedBy(stage: RecoverStage | ChainsStage | SftStage, model: Model): NamedTensor[] {
  const adapters = stage.kind === "chains" || (stage.kind === "sft" && stage.method === "lora");
  return adapters ? loraTensors(model) : trainableWeights(model, asksForMtp(stage));
}

function asksForMtp(stage: Stage): boolean {
  return "mtpWeight" in stage && (stage.mtpWeight ?? 0) > 0;
}

/** Tell that a stage begins; the function it returns enters the result in the report. */
function beginStage(run: Run, kind: StageResultKind, steps: number): (trainable: number) => void {
  const { state, host, recipe } = run;
  host.onEvent({ type: "stageStarted", stage: state.stage, stages: recipe.stages.length, kind, steps });
  if (state.step === 0) Object.assign(state, { curve: [], tokens: 0, seconds: 0 });
  return (trainableParameters) => {
    const { curve, tokens, seconds } = state;
    const tenth = Math.max(1, Math.round(curve.length / 10));
    const mean = (part: [number, number][]) =>
      part.length === 0 ? null : part.reduce((total, [, loss]) => total + loss, 0) / part.length;
    const result = {
      kind,
      steps,
      seconds,
      tokensPerSecond: seconds > 0 ? tokens / seconds : 0,
      lossStart: mean(curve.slice(0, tenth)),
      lossEnd: mean(curve.slice(-tenth)),
      curve,
      trainableParameters,
    };
    state.report.stages.push(result);
    host.onEvent({ type: "stageEnded", result });
    Object.assign(state, { curve: [], tokens: 0, seconds: 0 });
  };
}

/** Ask the test cases in each mode, unless that is in the report already. Adapters are merged into a copy for speed. */
async function evaluateOnce(
  run: Run,
  point: EvaluationPoint,
  modes: AnswerMode[] = ["direct", "chain"],
): Promise<void> {
  const { state, recipe, open, tokenizer, host } = run;
  const missing = modes.filter((mode) => !state.report.evaluations.some((e) => e.point === point && e.mode === mode));
  if (missing.length === 0) return;
  const adapted = loraTensors(run.model).length > 0 && isPlain(run.model);
  const model = adapted ? copyModel(run.model) : run.model;
  if (adapted) mergeLora(model);
  try {
    const cases = open.study.test.slice(0, recipe.evaluation.cases);
    for (const mode of missing) {
      const tell = (done: number) => host.onEvent({ type: "evaluating", point, mode, done, total: cases.length });
      tell(0);
      const graded = await askAll(model, tokenizer, cases, mode, open.grader, {
        maxNewTokens: mode === "chain" ? recipe.evaluation.maxNewTokens : shortReply(run),
        batch: recipe.evaluation.batch,
        eosTokenId: tokenizer.control.ends,
        onProgress: tell,
        stopping: () => host.stopping(),
      });
      if (!graded) throw new Stopped();
      const evaluation = { ...graded, point, loss: await validationLoss(run, model, mode) };
      state.report.evaluations.push(evaluation);
      host.onEvent({ type: "evaluated", evaluation });
    }
  } finally {
    if (adapted) disposeModel(model);
  }
}

/** Whether it can be copied and merged into; others are asked with their adapters beside them. */
function isPlain(model: Model): boolean {
  return namedTables(model).every(({ table }) => !Array.isArray(table) && !isPacked(table));
}

/** A direct answer needs no more tokens than the longest answer of the study, its end included. */
function shortReply({ open, tokenizer }: Run): number {
  const longestAnswer = Math.max(...open.study.train.map(({ answer }) => tokenizer.encodeText(answer).length));
  return longestAnswer + 4;
}

/** Mean nats per target token over the validation cases. */
async function validationLoss(run: Run, model: Model, mode: AnswerMode): Promise<number> {
  const examples = run.open.study.validation.map((item) => exampleOf(run.tokenizer, item, mode));
  let [nats, tokens] = [0, 0];
  for (let from = 0; from < examples.length; from += 16) {
    const batch: Batch = makeBatch(examples.slice(from, from + 16), batchShape(longest(model)));
    nats += (await batchLoss(model, batch)) * batch.trainedTokens;
    tokens += batch.trainedTokens;
    await nextTurn();
  }
  return nats / tokens;
}

/** Longest sequence the model has positions for. */
function longest(model: Model): number {
  return model.rope.cos.shape[0];
}

async function checkpoint(run: Run): Promise<void> {
  const { state, host, model, optimizer, startedMs } = run;
  state.report.seconds = (performance.now() - startedMs) / 1000;
  const tensors = await packCheckpoint(model, optimizer);
  await host.saveCheckpoint({ state: structuredClone(state), tensors });
  host.onEvent({ type: "checkpointed", stage: state.stage, step: state.step });
}

/** Write the adapters, with the model they fit, and merge them. */
async function closeAdapters(run: Run): Promise<void> {
  await exportAdapter(sourceOf(run));
  mergeLora(run.model);
}

function sourceOf({ model, files, tokenizer, open, state, host }: Run): ExportSource {
  return { model, files, tokenizer, study: open.study, report: state.report, host };
}

async function stopPoint({ host }: Run): Promise<void> {
  await nextTask();
  if (host.stopping()) throw new Stopped();
}

async function finish(run: Run): Promise<Report> {
  const { state, host, startedMs } = run;
  const report = state.report;
  report.seconds = (performance.now() - startedMs) / 1000;
  await exportAdapter(sourceOf(run));
  await exportModel(sourceOf(run));
  host.onEvent({ type: "finished", report });
  return report;
}
