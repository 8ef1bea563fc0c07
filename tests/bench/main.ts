// `npm run bench`: measure, print, and keep the results as JSON and as a table in RESULTS.md.

import { execFileSync } from "node:child_process";
import { readFileSync, writeFileSync } from "node:fs";
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

Measures the engine against its peers. Prints each result as it comes, and writes all of them to tests/bench/results.json
and, as a table, into tests/bench/RESULTS.md.

  --only NAME         one row alone:
${ROWS.map(({ name, says }) => `                        ${name.padEnd(12)}${says}`).join("\n")}
  --backend NAME      wasm, webgpu (both in Node), or browser (a Chromium); all if not given
  --quick             fewer shapes and rounds; writes neither file unless --out is given
  --out FILE          write the JSON there, and leave RESULTS.md alone
  --help              this
`;

const root = resolve(import.meta.dirname, "..", ".."); // Of tests/bench and of its bundle, .cache/bench, alike.

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
    : { description: "not asked for", device: "software" };
  const patience = values.quick
    ? { seconds: 5, leastRounds: 1, mostRounds: 3 }
    : { seconds: 45, leastRounds: 3, mostRounds: 15 };
  const browser = !backend || backend === "browser";
  const results = await runAll(rows, { backends, browser, quick: values.quick, patience, adapter, root });
  write(results, machine(adapter), values);
  return results.some(({ reached }) => reached === false) ? 3 : 0;
}

async function runAll(rows: Row[], bench: Bench): Promise<Result[]> {
  const results: Result[] = [];
  for (const row of rows) {
    process.stderr.write(`# ${row.name}: ${row.says}\n`);
    for await (const result of row.run(bench)) {
      results.push(result);
      process.stdout.write(`${line(result)}\n`);
    }
  }
  return results;
}

function write(results: Result[], on: Machine, { out, only, quick, backend }: Record<string, unknown>): void {
  const json = `${JSON.stringify({ machine: on, results }, null, 1)}\n`;
  if (typeof out === "string") writeFileSync(out, json);
  if (out !== undefined || only !== undefined || quick || backend !== undefined) return; // A part is no whole.
  writeFileSync(join(root, "tests", "bench", "results.json"), json);
  const path = join(root, "tests", "bench", "RESULTS.md");
  writeFileSync(path, between(readFileSync(path, "utf8"), report(results, on)));
}

/** The part of RESULTS.md that is not written by hand. */
function report(results: Result[], on: Machine): string {
  const { processor, cores, memoryGb, adapter, node, commit: at, date } = on;
  const parts = [
    `${processor}, ${cores} cores, ${memoryGb} GB; WebGPU: ${adapter}; Node ${node}; commit ${at}; ${date}.`,
    "Medians, with the quartiles in brackets; contestants interleaved in one run.",
    `### Without a GPU\n\n${table(results.filter(({ device }) => device === "software"))}`,
    `### On a GPU\n\n${table(results.filter(({ device }) => device === "gpu"))}`,
  ];
  return parts.join("\n\n");
}

await endWith(main);
