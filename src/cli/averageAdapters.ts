// `npm run average-adapters`: one adapter from several that were trained at sites whose data may not leave them.

import { createHash } from "node:crypto";
import { createReadStream, existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { averageFactors, averageStacked, type Site } from "../formats/averageAdapters.ts";
import { type Adapter, readAdapter, writeAdapter } from "../formats/peftAdapter.ts";
import { endWith, fromCaller, readArguments, UsageError } from "./arguments.ts";

const HELP = `Average LoRA adapters (PEFT's files) of one base, each by the rows that it was trained on.

  npm run average-adapters -- --out DIR DIR1:ROWS DIR2:ROWS ... [--same-rank]

  DIR1:ROWS      a folder with adapter_config.json and adapter_model.safetensors, and its number of training rows
  --out DIR      where the average goes
  --same-rank    average the factors instead, which keeps the rank and is not exact; says by how much
  --help         this text

Without --same-rank the average adds to each weight exactly the mean of what the adapters add to it: their factors are
stacked, so its rank is the sum of theirs. Exit codes: 0 done, 1 failed, 2 wrongly asked for.
`;

const options = {
  out: { type: "string" },
  "same-rank": { type: "boolean", default: false },
  help: { type: "boolean", short: "h", default: false },
} as const;

const CONFIG = "adapter_config.json";
const WEIGHTS = "adapter_model.safetensors";

await endWith(async () => {
  const { values, positionals } = readArguments({ options, args: process.argv.slice(2), allowPositionals: true });
  if (values.help) {
    process.stdout.write(HELP);
    return 0;
  }
  if (!values.out) throw new UsageError("--out wants the folder that the average goes to. See --help.");
  const out = fromCaller(values.out);
  if (existsSync(join(out, CONFIG))) throw new UsageError(`${out} holds an adapter already. Choose another --out.`);
  const folders = positionals.map(readPlace);
  await checkOneBase(folders.map(({ folder }) => folder));
  const sites = folders.map(({ folder, rows }): Site => ({ name: folder, adapter: readFolder(folder), rows }));
  const { adapter, said } = values["same-rank"] ? ofFactors(sites) : stacked(sites);
  write(out, adapter);
  process.stdout.write(`${said}\nThe average of ${sites.length} adapters is in ${out}.\n`);
  return 0;
});

/** "some/folder:120": the last colon counts, for a folder's name may have one too. */
function readPlace(place: string): { folder: string; rows: number } {
  const [, folder, rows] = /^(.+):([^:\\/]*)$/.exec(place) ?? [];
  if (!folder) throw new UsageError(`A folder and its rows are wanted, such as site-a:120, and "${place}" was given.`);
  if (!/^[1-9]\d{0,14}$/.test(rows)) throw new UsageError(`${folder} wants a whole number of rows and got "${rows}".`);
  return { folder: fromCaller(folder), rows: Number(rows) };
}

function readFolder(folder: string): Adapter {
  const bytes = (file: string): Uint8Array => {
    const path = join(folder, file);
    if (!existsSync(path))
      throw new UsageError(`There is no ${path}. A folder with ${CONFIG} and ${WEIGHTS} is wanted.`);
    return new Uint8Array(readFileSync(path));
  };
  const config = bytes(CONFIG);
  try {
    return readAdapter(JSON.parse(new TextDecoder().decode(config)), bytes(WEIGHTS));
  } catch (error) {
    throw error instanceof UsageError ? error : new Error(`${folder}: ${(error as Error).message}`, { cause: error });
  }
}

/** Our exports have the pruned base beside the adapter: bases of one name that were pruned apart are not one base. */
async function checkOneBase(folders: string[]): Promise<void> {
  const weights = folders
    .map((folder) => join(folder, "..", "base", "model.safetensors"))
    .filter((path) => existsSync(path));
  const hashes = await Promise.all(weights.map(hashOf));
  const other = hashes.findIndex((hash) => hash !== hashes[0]);
  if (other < 0) return;
  throw new Error(
    `${weights[0]} and ${weights[other]} differ: the adapters are of two bases. Prune once, and give each site that base.`,
  );
}

async function hashOf(path: string): Promise<string> {
  const hash = createHash("sha256");
  for await (const chunk of createReadStream(path)) hash.update(chunk as Uint8Array);
  return hash.digest("hex");
}

function stacked(sites: Site[]): { adapter: Adapter; said: string } {
  const adapter = averageStacked(sites);
  const most = Math.max(...[...adapter.modules.values()].map(({ rank }) => rank));
  return { adapter, said: `Stacked: exact, of rank ${most}, the sum of the sites'.` };
}

function ofFactors(sites: Site[]): { adapter: Adapter; said: string } {
  const { adapter, error } = averageFactors(sites);
  const percent = (100 * error).toFixed(error < 0.1 ? 2 : 0);
  return {
    adapter,
    said: `Factors averaged: what it adds to the weights differs from the exact mean by ${percent} % of it. Without --same-rank it is exact.`,
  };
}

/** The config last: a folder with one is whole. */
function write(out: string, adapter: Adapter): void {
  const { config, weights } = writeAdapter(adapter);
  mkdirSync(out, { recursive: true });
  writeFileSync(join(out, WEIGHTS), weights);
  writeFileSync(join(out, CONFIG), `${JSON.stringify(config, null, 2)}\n`);
}
