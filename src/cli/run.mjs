// `node src/cli/run.mjs TASK [ARGUMENTS]`: what the npm scripts call. Makes ready what the task needs, then does it.

import { spawnSync } from "node:child_process";
import { rmSync } from "node:fs";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { ensureChromium } from "./chromium.mjs";
import { say } from "./say.mjs";
import { bundleTests, checkNode, ensureDependencies, ensurePage, ensurePrograms, programs, root } from "./setup.mjs";

/** Where the counts of a whole test run go. */
const RESULTS = join(root, ".cache", "test-results.json");

const [task, ...args] = process.argv.slice(2);

/** Whether the page is built without the one that fetches models. */
const hospital = args.includes("--hospital");

/** @type {Record<string, () => Promise<void>>} */
const tasks = {
  start: async () => {
    await ensurePage({ hospital });
    await program("serve", ["--dist", join(root, "dist"), ...args]);
  },
  build: async () => {
    await ensurePage({ hospital });
    await ensurePrograms();
  },
  types: async () => tool("typescript", "bin/tsc", ["--noEmit", "-p", "."]),
  lint: async () => tool("oxlint", "bin/oxlint", ["--type-aware", "--deny-warnings"]),
  format: async () => tool("@biomejs/biome", "bin/biome", ["format", "--write", ...args]),
  formatCheck: async () => tool("@biomejs/biome", "bin/biome", ["format"]),
  bench: async () => execute(await bundleTests("bench"), args),
  verifyBig: async () => execute(await bundleTests("big"), args),
  /** With arguments, only vitest with them: `npm test -- tests/cli`. */
  test: async () => {
    rmSync(RESULTS, { force: true });
    process.env.CHROMIUM = ensureChromium();
    if (args.length > 0) return testBuilt(args);
    for (const check of ["types", "lint", "formatCheck"]) {
      say(`> ${check}`);
      await tasks[check]();
    }
    return testBuilt(["--reporter=default", "--reporter=json", `--outputFile.json=${RESULTS}`]);
  },
};
for (const name of programs) tasks[name] ??= () => program(name, args);

/**
 * @param {string} name of a bundled program
 * @param {string[]} programArguments
 */
async function program(name, programArguments) {
  await ensurePrograms();
  await execute(join(root, ".cache", "cli", `${name}.js`), programArguments);
}

/**
 * @param {string} file that runs as a program of its own would
 * @param {string[]} programArguments
 */
async function execute(file, programArguments) {
  process.argv = [process.execPath, file, ...programArguments];
  await import(pathToFileURL(file).href);
}

/** @param {string[]} vitestArguments */
async function testBuilt(vitestArguments) {
  await tasks.build();
  vitest(["run", ...vitestArguments]);
}

/** @param {string[]} vitestArguments */
function vitest(vitestArguments) {
  tool("vitest", "vitest.mjs", vitestArguments);
}

/**
 * Run an installed tool in the repository; if it fails, end with its exit code.
 *
 * @param {string} name of its package
 * @param {string} script within the package
 * @param {string[]} toolArguments
 */
function tool(name, script, toolArguments) {
  const file = join(root, "node_modules", ...name.split("/"), script);
  const { status } = spawnSync(process.execPath, [file, ...toolArguments], { cwd: root, stdio: "inherit" });
  if (status !== 0) process.exit(status ?? 1);
}

try {
  if (!(task in tasks)) throw new Error(`Unknown task "${task}": wanted one of ${Object.keys(tasks).join(", ")}.`);
  checkNode();
  ensureDependencies();
  await tasks[task]();
} catch (error) {
  say(error instanceof Error ? error.message : String(error));
  process.exit(1);
}
