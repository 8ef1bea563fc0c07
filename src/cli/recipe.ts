// `npm run recipe`: a whole run without a page.

import { existsSync, readFileSync } from "node:fs";
import { basename, join } from "node:path";
import { startBackend } from "../engine/backend.ts";
import { reportTable } from "../evaluation/report.ts";
import { type Handover, isSameWork, parseRecipe, type Recipe } from "../protocol/recipe.ts";
import type { Checkpoint } from "../protocol/run.ts";
import { builtinRecipes } from "../recipes/builtin.ts";
import { runRecipe } from "../recipes/run.ts";
import { endWith, fromCaller, oneOf, readArguments, UsageError, wholeNumber } from "./arguments.ts";
import { nodeHost, readCheckpoint, removeCheckpoint } from "./nodeHost.ts";
import { progressLines, writeProgress } from "./progress.ts";
import { enableRelaxedSimd } from "./relaxedSimd.ts";
import { nodeThreads } from "./threads.ts";
import { wasmUrl } from "./wasmUrl.ts";
import { mayHaveGpu, provideWebGpu } from "./webgpu.ts";

const BACKENDS = ["webgpu", "wasm", "cpu"] as const;
const BUDGETS = ["full", "quick"] as const;

const HELP = `Run a recipe: score, prune, recover, teach, tune, measure, export.

  npm run recipe -- RECIPE [options]

  RECIPE             ${Object.keys(builtinRecipes).join(", ")}, or the path of a recipe's JSON file
  --budget WHICH     of a built-in recipe: full (the default) or quick
  --seed N           the run's seed, in place of the recipe's
  --data FILE        cases for a recipe whose study is imported: .jsonl, .json, .csv or .tsv
  --models DIR       holds the base models, one folder each (public/models)
  --out DIR          where the report, the adapter and the model go (runs/NAME)
  --resume           go on from the checkpoint in that folder
  --handover         prepare a folder for LLaMA-Factory, axolotl and TRL instead of tuning here; the data go into it
  --backend NAME     webgpu, wasm or cpu; without it the best this machine has
  --json             print the report as one JSON object instead of tables
  --help             this text

Progress goes to stderr, results to stdout. Ctrl-C ends the run after a checkpoint; a second one at once.
Exit codes: 0 finished, 1 failed, 2 wrongly asked for, 130 stopped.
`;

const options = {
  budget: { type: "string" },
  seed: { type: "string" },
  data: { type: "string" },
  models: { type: "string" },
  out: { type: "string" },
  resume: { type: "boolean", default: false },
  handover: { type: "boolean", default: false },
  backend: { type: "string" },
  json: { type: "boolean", default: false },
  help: { type: "boolean", short: "h", default: false },
} as const;

const STOPPED = 130; // What shells report of a program that Ctrl-C ended.

await endWith(async () => {
  const { values, positionals } = readArguments({ options, args: process.argv.slice(2), allowPositionals: true });
  if (values.help) {
    process.stdout.write(HELP);
    return 0;
  }
  const chosen = chooseRecipe(positionals, values.budget, values.seed);
  const recipe = values.handover ? handedOver(chosen) : chosen;
  const prefer = values.backend === undefined ? undefined : oneOf("backend", values.backend, BACKENDS);
  const out = values.out === undefined ? join("runs", folderName(recipe.name)) : fromCaller(values.out);
  const from = await checkpointFor(recipe, out, values.resume);

  console.log = console.error; // Whatever a library has to say: stdout belongs to the results.
  if (prefer === "webgpu") await provideWebGpu({ software: true });
  else if (prefer === undefined && mayHaveGpu()) await provideWebGpu({ software: false });
  enableRelaxedSimd();
  const backend = await startBackend({ prefer, wasmUrl: wasmUrl(), threads: nodeThreads() });
  process.stderr.write(`${backend.name}, ${backend.device}: ${backend.reason}\n`);

  const [toLine, write] = [progressLines(), writeProgress(process.stderr)];
  const host = nodeHost({
    recipe,
    models: values.models === undefined ? join("public", "models") : fromCaller(values.models),
    data: values.data === undefined ? undefined : fromCaller(values.data),
    out,
    onEvent: (event) => {
      const line = toLine(event);
      if (line) write(line);
    },
    stopping: stopOnInterrupt(),
  });
  const end = await runRecipe(recipe, host, backend, from ?? undefined);
  if (end.type === "stopped") {
    const kept = (await readCheckpoint(out)) !== null;
    const next = kept
      ? `Add --resume to the same command to go on from the checkpoint in ${out}`
      : "Nothing was done yet";
    write({ text: `Stopped. ${next}.`, stays: true });
    return STOPPED;
  }
  await removeCheckpoint(out);
  const tuned = values.handover ? "handover/, the report and the model" : "the report, the adapter and the model";
  write({ text: `In ${out} are ${tuned}.`, stays: true });
  for (const note of end.report.notes ?? []) write({ text: note, stays: true });
  process.stdout.write(values.json ? `${JSON.stringify(end.report)}\n` : reportTable(end.report));
  return 0;
});

function chooseRecipe(names: string[], budget: string | undefined, seed: string | undefined): Recipe {
  const known = `${Object.keys(builtinRecipes).join(", ")}, or the path of a recipe's JSON file`;
  if (names.length !== 1)
    throw new UsageError(`One recipe is wanted (${known}) and ${names.length} were named. See --help.`);
  const [name] = names;
  const builtin = Object.hasOwn(builtinRecipes, name) ? builtinRecipes[name] : undefined;
  const path = fromCaller(name);
  if (!builtin && !existsSync(path)) throw new UsageError(`There is no recipe "${name}". Wanted: ${known}.`);
  if (!builtin && budget !== undefined) throw new UsageError("--budget is for built-in recipes; a file says itself.");
  const recipe = builtin ? builtin(oneOf("budget", budget ?? "full", BUDGETS)) : readRecipe(path);
  return seed === undefined ? recipe : { ...recipe, seed: wholeNumber("seed", seed, 0, 2 ** 31 - 1) };
}

/** What comes before tuning is done here, tuning by other tools. */
function handedOver(recipe: Recipe): Recipe {
  const handover: Handover = { tools: ["llamaFactory", "axolotl", "trl"], thenStop: true };
  try {
    return parseRecipe({ ...recipe, exports: { ...recipe.exports, handover } });
  } catch (error) {
    throw new UsageError((error as Error).message);
  }
}

function readRecipe(path: string): Recipe {
  try {
    return parseRecipe(JSON.parse(readFileSync(path, "utf8")));
  } catch (error) {
    throw new UsageError(`${basename(path)}: ${(error as Error).message}`);
  }
}

function folderName(name: string): string {
  return name.replace(/[^\p{L}\p{N}._-]+/gu, "-").replace(/^\.+/, "") || "run";
}

async function checkpointFor(recipe: Recipe, out: string, resume: boolean): Promise<Checkpoint | null> {
  if (!resume) return null; // One that is there stays until this run's first takes its place.
  const checkpoint = await readCheckpoint(out);
  if (!checkpoint) throw new UsageError(`There is no checkpoint in ${out} to go on from. Run it without --resume.`);
  if (!isSameWork(checkpoint.state.recipe, recipe)) {
    throw new UsageError(
      `The checkpoint in ${out} is of another recipe, budget or seed. Ask for that one, or leave --resume out.`,
    );
  }
  return checkpoint;
}

/** Asked between steps. The first Ctrl-C makes it true, a second one ends the program at once. */
function stopOnInterrupt(): () => boolean {
  let stopping = false;
  const stop = () => {
    if (stopping) process.exit(STOPPED);
    stopping = true;
    process.stderr.write("\nStopping after this step …\n");
  };
  process.on("SIGINT", stop).on("SIGTERM", stop);
  return () => stopping;
}
