// `npm run bench`: measure, print, and keep the results as JSON and as a table in RESULTS.md.

import { execFileSync } from "node:child_process";
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { cpus, totalmem } from "node:os";
import { join, resolve } from "node:path";
import { endWith, oneOf, readArguments, UsageError } from "../../src/cli/arguments.ts";
import { type Adapter, type Bench, findNodeAdapter, type Row } from "./bench.ts";
import { between, line, type Result, table } from "./results.ts";
import { decoding } from "./decoding.ts";
import { dispatches } from "./dispatches.ts";
import { gpuOnly } from "./gpuOnly.ts";
import { large } from "./large.ts";
import { operations } from "./operations.ts";
import { peer } from "./peer.ts";
import { products } from "./products.ts";
import { steadyState } from "./steadyState.ts";
import { training } from "./training.ts";

const ROWS: Row[] = [training, dispatches, peer, steadyState, decoding, products, operations, gpuOnly, large];

const HELP = `npm run bench -- [OPTIONS]

Measures the engine against its peers. Prints each result as it comes; after each row its results take their places in
tests/bench/results.json and in the table of tests/bench/RESULTS.md.

  --only NAME         one row alone:
${ROWS.map(({ name, says }) => `                        ${name.padEnd(12)}${says}`).join("\n")}
  --backend NAME      wasm, webgpu (both in Node), or browser (a Chromium); all if not given
  --quick             fewer shapes and rounds; writes neither file unless --out is given
  --out FILE          write the JSON there, and leave both alone
  --help              this
`;

const root = resolve(import.meta.dirname, "..", ".."); // Of tests/bench and of its bundle, .cache/bench, alike.

const NO_ADAPTER = "not asked for";

interface Machine {
  processor: string;
  cores: number;
  memoryGb: number;
  adapter: string;
  node: string;
  commit: string;
  date: string;
}

function machine(adapter: Adapter): Machine {
  return {
    processor: cpus()[0]?.model ?? "unknown",
    cores: cpus().length,
    memoryGb: Math.round(totalmem() / 2 ** 30),
    adapter: adapter.description,
    node: process.versions.node,
    commit: commit(),
    date: new Date().toISOString().slice(0, 10),
  };
}

function commit(): string {
  const git = (...args: string[]) => execFileSync("git", args, { cwd: root, encoding: "utf8" }).trim();
  const changed = git("status", "--porcelain", "--untracked-files=no", "--", "src") !== "";
  return git("rev-parse", "--short", "HEAD") + (changed ? " with changes" : "");
}

async function main(): Promise<number> {
  const { values } = readArguments({
    options: {
      only: { type: "string" },
      backend: { type: "string" },
      quick: { type: "boolean", default: false },
      out: { type: "string" },
      help: { type: "boolean", default: false },
    },
  });
  if (values.help) {
    process.stdout.write(HELP);
    return 0;
  }
  const backend = values.backend && oneOf("backend", values.backend, ["wasm", "webgpu", "browser"]);
  const rows = ROWS.filter(({ name }) => values.only === undefined || name === values.only);
  if (rows.length === 0) throw new UsageError(`--only wants one of ${ROWS.map(({ name }) => name).join(", ")}`);
  const backends = (["wasm", "webgpu"] as const).filter((name) => !backend || backend === name);
  const adapter: Adapter = backends.includes("webgpu")
    ? await findNodeAdapter()
    : { description: NO_ADAPTER, device: "software" };
  const patience = values.quick
    ? { seconds: 5, leastRounds: 1, mostRounds: 3 }
    : { seconds: 20, leastRounds: 2, mostRounds: 15 };
  const browser = !backend || backend === "browser";
  const bench: Bench = { backends, browser, quick: values.quick, patience, adapter, root };
  const on = machine(adapter);
  const results: Result[] = [];
  for (const row of rows) {
    const found = await runRow(row, bench);
    results.push(...found);
    if (values.out === undefined && !values.quick) keep(found, on);
  }
  if (values.out !== undefined) writeFileSync(values.out, json({ machine: on, results }));
  return results.some(({ reached }) => reached === false) ? 3 : 0;
}

async function runRow(row: Row, bench: Bench): Promise<Result[]> {
  const results: Result[] = [];
  process.stderr.write(`# ${row.name}: ${row.says}\n`);
  for await (const result of row.run(bench)) {
    results.push(result);
    process.stdout.write(`${line(result)}\n`);
  }
  return results;
}

/** A result with the commit and the day of its measurement: rows are measured one by one. */
type Kept = Result & { commit: string; date: string };

interface Book {
  machine: Machine;
  results: Kept[];
}

const json = (book: object): string => `${JSON.stringify(book, null, 1)}\n`;

/** Put the results into the place of those that measured the same. */
function keep(found: Result[], on: Machine): void {
  const path = join(root, "tests", "bench", "results.json");
  const { machine: before, results: old } = existsSync(path)
    ? (JSON.parse(readFileSync(path, "utf8")) as Book)
    : { machine: on, results: [] };
  const adapter = on.adapter === NO_ADAPTER ? before.adapter : on.adapter;
  const known = { ...on, adapter };
  const same = (a: Result, b: Result) => a.row === b.row && a.what === b.what && a.where === b.where;
  const others = old.filter((result) => !found.some((fresh) => same(result, fresh)));
  const fresh = found.map((result): Kept => ({ ...result, commit: on.commit, date: on.date }));
  const results = ROWS.flatMap(({ name }) => [...others, ...fresh].filter(({ row }) => row === name));
  writeFileSync(path, json({ machine: known, results }));
  const table = join(root, "tests", "bench", "RESULTS.md");
  writeFileSync(table, between(readFileSync(table, "utf8"), report(results, known)));
}

/** The part of RESULTS.md that is not written by hand. */
function report(results: Kept[], { processor, cores, memoryGb, adapter, node }: Machine): string {
  const times = [...new Set(results.map(({ commit: at, date }) => `${at} (${date})`))].join(", ");
  const parts = [
    `${processor}, ${cores} cores, ${memoryGb} GB; WebGPU: ${adapter}; Node ${node}; commits ${times}.`,
    "Medians, with the quartiles in brackets; contestants interleaved in one run.",
    `### Without a GPU\n\n${table(results.filter(({ device }) => device === "software"))}`,
    `### On a GPU\n\n${table(results.filter(({ device }) => device === "gpu"))}`,
  ];
  return parts.join("\n\n");
}

await endWith(main);
