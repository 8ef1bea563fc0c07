// `npm run verify:fixtures`: this engine's numbers beside those of reference implementations.

import { existsSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { type BackendName, startBackend } from "../engine/backend.ts";
import {
  compareWithReference,
  isWithin,
  type Measure,
  type Quantity,
  TOLERANCES,
} from "../evaluation/compareReference.ts";
import { type ReadFile, readReference } from "../evaluation/reference.ts";
import { endWith, fromCaller, oneOf, readArguments, UsageError } from "./arguments.ts";
import { enableRelaxedSimd } from "./relaxedSimd.ts";
import { nodeThreads } from "./threads.ts";
import { wasmUrl } from "./wasmUrl.ts";
import { provideWebGpu } from "./webgpu.ts";

const BACKENDS = ["wasm", "cpu", "webgpu"] as const;

const QUANTITIES = Object.keys(TOLERANCES) as Quantity[];

const HELP = `Compare what this engine makes of models with the numbers of reference implementations.

  npm run verify:fixtures -- [--dir DIR] [--backend NAME]

  --dir DIR        holds a folder for each model, laid out as tests/fixtures/README.md says (tests/fixtures)
  --backend NAME   wasm, cpu or webgpu; all that this machine has, if not given
  --help           this text

Prints the largest error of each kind. Exit codes: 0 all within their tolerances, 1 some are not, 2 wrongly asked for.
`;

const options = {
  dir: { type: "string" },
  backend: { type: "string" },
  help: { type: "boolean", short: "h", default: false },
} as const;

await endWith(async () => {
  const { values } = readArguments({ options, args: process.argv.slice(2) });
  if (values.help) {
    process.stdout.write(HELP);
    return 0;
  }
  const dir = values.dir === undefined ? join("tests", "fixtures") : fromCaller(values.dir);
  const folders = modelFolders(dir);
  const asked = values.backend === undefined ? undefined : oneOf("backend", values.backend, BACKENDS);

  console.log = console.error; // Whatever a library has to say: stdout belongs to the results.
  enableRelaxedSimd();
  const complaints: string[] = [];
  for (const backend of asked ? [asked] : BACKENDS) {
    const device = await start(backend, asked !== undefined);
    if (device !== null) complaints.push(...(await compareAll(backend, device, dir, folders)));
  }
  process.stdout.write(complaints.length === 0 ? "All are within what is allowed.\n" : `${complaints.join("\n")}\n`);
  return complaints.length === 0 ? 0 : 1;
});

function modelFolders(dir: string): string[] {
  const entries = existsSync(dir) ? readdirSync(dir, { withFileTypes: true }) : [];
  const folders = entries.filter((entry) => entry.isDirectory() && existsSync(join(dir, entry.name, "config.json")));
  if (folders.length > 0) return folders.map(({ name }) => name).toSorted();
  throw new UsageError(`There is no folder of a model (with a config.json) in ${dir}. See --help.`);
}

/** What computes; null where this machine has no such backend and nobody asked for it by name. */
async function start(name: BackendName, asked: boolean): Promise<string | null> {
  try {
    if (name === "webgpu") await provideWebGpu({ software: true });
    return (await startBackend({ prefer: name, wasmUrl: wasmUrl(), threads: nodeThreads() })).device;
  } catch (error) {
    if (asked) throw error;
    process.stdout.write(`${name}: not compared. ${(error as Error).message}\n\n`);
    return null;
  }
}

/** Prints a table, a row as soon as it is known. Returns a sentence for each error beyond its tolerance. */
async function compareAll(backend: string, device: string, dir: string, folders: string[]): Promise<string[]> {
  const widths = ["largest error", ...QUANTITIES].map((title) => Math.max(title.length, 8));
  widths[0] = Math.max(widths[0], ...folders.map(({ length }) => length));
  const write = (cells: string[]) => {
    const row = cells.map((text, i) => (i === 0 ? text.padEnd(widths[0]) : text.padStart(widths[i])));
    process.stdout.write(`${row.join("  ")}\n`);
  };
  process.stdout.write(`${backend}: ${device}\n\n`);
  write(["largest error", ...QUANTITIES]);
  const complaints: string[] = [];
  for (const folder of folders) {
    try {
      const measures = await compareWithReference(readReference(folder, readIn(dir)));
      write([folder, ...QUANTITIES.map((quantity) => cell(measures.find((one) => one.quantity === quantity)))]);
      complaints.push(...measures.filter((one) => !isWithin(one)).map((one) => sentence(folder, backend, one)));
    } catch (error) {
      complaints.push(`${folder} on ${backend} could not be compared: ${(error as Error).message}`);
    }
  }
  write(["allowed", ...QUANTITIES.map((quantity) => number(TOLERANCES[quantity]))]);
  process.stdout.write("\n");
  return complaints;
}

function cell(measure: Measure | undefined): string {
  if (!measure) return "-";
  return `${number(measure.error)}${isWithin(measure) ? "" : "!"}`;
}

function number(error: number): string {
  return Number.isInteger(error) ? String(error) : error.toExponential(1);
}

function sentence(folder: string, backend: string, { quantity, error, where }: Measure): string {
  const place = where === "" ? "" : `, ${where}`;
  return `${folder} on ${backend}: the error of ${quantity} is ${number(error)}${place}; at most ${number(TOLERANCES[quantity])} is allowed.`;
}

function readIn(dir: string): ReadFile {
  return (path) => {
    const file = join(dir, path);
    return existsSync(file) ? new Uint8Array(readFileSync(file)) : null;
  };
}
