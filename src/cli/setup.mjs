// What a fresh clone needs before anything of ours can run: the right Node, the dependencies, the builds. Plain
// JavaScript that imports nothing but Node's own, because nothing is installed or compiled yet when it starts.

import { spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import {
  appendFileSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { dirname, join, relative, resolve, sep } from "node:path";
import { fileURLToPath } from "node:url";
import { say } from "./say.mjs";

/** The repository's folder. */
export const root = resolve(dirname(fileURLToPath(import.meta.url)), "..", "..");

/** Programs of ours that are TypeScript: their source is src/cli/NAME.ts, their bundle .cache/cli/NAME.js. */
export const programs = ["serve", "recipe", "pretrain", "tokenizer", "averageAdapters", "verifyFixtures", "verifyGguf"];

const LEAST_NODE = [20, 19];

/** Throws unless `version` (such as "20.19.0") can run the build tools. */
export function checkNode(version = process.versions.node) {
  const [major, minor] = version.split(".").map(Number);
  if (major > LEAST_NODE[0] || (major === LEAST_NODE[0] && minor >= LEAST_NODE[1])) return;
  throw new Error(`Espalier needs Node ${LEAST_NODE.join(".")} or newer and found ${version}. Install a newer Node.`);
}

/**
 * Whether node_modules holds what package-lock.json asks for, by npm's own record of what it installed.
 *
 * @param {string} folder that holds both
 */
export function dependenciesInstalled(folder) {
  const record = join(folder, "node_modules", ".package-lock.json");
  if (!existsSync(record)) return false;
  const wanted = readPackages(join(folder, "package-lock.json"));
  const found = readPackages(record);
  return Object.entries(wanted).every(([path, { version, optional }]) => {
    if (path === "") return true; // The project itself.
    return found[path] ? found[path].version === version : optional === true; // Optional: for another platform.
  });
}

/**
 * @param {string} file a lock file of npm
 * @returns {Record<string, { version: string, optional?: boolean }>}
 */
function readPackages(file) {
  return JSON.parse(readFileSync(file, "utf8")).packages;
}

/**
 * Install what package-lock.json says, unless it is there.
 *
 * Not by `npm ci`: that refuses a lock file that was written where the registry lacks packages for other platforms.
 */
export function ensureDependencies() {
  if (dependenciesInstalled(root)) return;
  say("Installing the dependencies named in package-lock.json …");
  npm(["install", "--no-save", "--no-audit", "--no-fund", "--loglevel=error"]);
}

/**
 * Build the page into dist, unless it was built from these very sources.
 *
 * @param {{ hospital?: boolean }} [how] for a hospital without the page that fetches models
 */
export async function ensurePage({ hospital = false } = {}) {
  const build = async (/** @type {typeof import("vite")} */ vite) => {
    say(hospital ? "Building the page for a hospital …" : "Building the page …");
    await buildPage(vite, join(root, "dist"), hospital);
  };
  await ensureBuilt("page", "dist", build, hospital ? " hospital" : "");
}

/**
 * Build the page, and beside it the one that fetches models: from a graph of its own, so that the two share no script.
 *
 * @param {typeof import("vite")} vite
 * @param {string} outDir emptied first
 * @param {boolean} hospital without the second page
 */
export async function buildPage(vite, outDir, hospital) {
  const common = { configFile: join(root, "vite.config.ts"), logLevel: /** @type {const} */ ("warn") };
  await vite.build({ ...common, root, build: { outDir, emptyOutDir: true } });
  if (hospital) return;
  const source = join(root, "src", "getModel");
  await vite.build({
    ...common,
    root: source,
    publicDir: false,
    // Not "assets": what lies there, the other page may start as a worker.
    build: { outDir: join(outDir, "get-model"), emptyOutDir: true, assetsDir: "code" },
  });
  appendFileSync(join(outDir, "_headers"), readFileSync(join(source, "_headers")));
}

/** Bundle the programs into .cache/cli, unless they were bundled from these very sources. */
export async function ensurePrograms() {
  const outDir = join(".cache", "cli");
  await ensureBuilt("programs", outDir, async (vite) => {
    say("Building the commands …");
    await bundle(
      vite,
      Object.fromEntries(programs.map((name) => [name, join(root, "src", "cli", `${name}.ts`)])),
      outDir,
    );
  });
}

/**
 * Bundle a program that is no part of the product, tests/NAME/main.ts, into .cache/NAME. Returns its file.
 *
 * @param {"bench" | "big"} name
 */
export async function bundleTests(name) {
  const outDir = join(".cache", name);
  await bundle(await import("vite"), { main: join(root, "tests", name, "main.ts") }, outDir);
  return join(root, outDir, "main.js");
}

/**
 * Bundle what runs in Node.
 *
 * @param {typeof import("vite")} vite
 * @param {Record<string, string>} input file of each entry, by its name in `outDir`
 * @param {string} outDir
 */
async function bundle(vite, input, outDir) {
  await vite.build({
    configFile: join(root, "vite.config.ts"),
    root,
    logLevel: "warn",
    // TensorFlow.js's wasm loader is CommonJS and asks where it lies.
    define: { __dirname: "import.meta.dirname" },
    build: {
      ssr: true,
      outDir,
      copyPublicDir: false,
      rollupOptions: { input, output: { entryFileNames: "[name].js", chunkFileNames: "[name]-[hash].js" } },
    },
    // One module graph: Node would otherwise load a second TensorFlow.js core, without gradients.
    ssr: { noExternal: true, external: ["webgpu", "node-fetch", "playwright", "vite", "vitest"] },
  });
}

/**
 * @param {string} name of the build, for its stamp
 * @param {string} outDir where it goes
 * @param {(vite: typeof import("vite")) => Promise<void>} build
 * @param {string} how it is built, if there are several ways
 */
async function ensureBuilt(name, outDir, build, how = "") {
  const stamp = join(root, ".cache", `${name}.sources`);
  const sources = hashOfSources() + how;
  if (existsSync(join(root, outDir)) && existsSync(stamp) && readFileSync(stamp, "utf8") === sources) return;
  rmSync(stamp, { force: true }); // A build that breaks off must not pass for the one before.
  await build(await import("vite"));
  mkdirSync(dirname(stamp), { recursive: true });
  writeFileSync(stamp, sources);
}

/** SHA-256 over everything a build reads: names and contents. */
function hashOfSources() {
  const hash = createHash("sha256");
  for (const entry of ["src", "workers", "public", "index.html", "vite.config.ts", "package-lock.json"]) {
    for (const file of filesUnder(join(root, entry))) {
      hash.update(`${relative(root, file).split(sep).join("/")}\0`).update(readFileSync(file));
    }
  }
  return hash.digest("hex");
}

/**
 * @param {string} path of a file or folder; a missing one has no files
 * @returns {string[]}
 */
function filesUnder(path) {
  if (!existsSync(path)) return [];
  if (statSync(path).isFile()) return [path];
  return readdirSync(path)
    .toSorted()
    .flatMap((name) => filesUnder(join(path, name)));
}

/**
 * Run npm with the Node that runs this. Its words go to stderr. Throws if it fails.
 *
 * @param {string[]} args
 */
function npm(args) {
  const script = process.env.npm_execpath;
  const [command, all] = script?.endsWith("js") ? [process.execPath, [script, ...args]] : ["npm", args];
  const { status } = spawnSync(command, all, {
    cwd: root,
    stdio: ["ignore", 2, 2],
    shell: command === "npm" && process.platform === "win32",
  });
  if (status !== 0)
    throw new Error(`\`npm ${args[0]}\` failed; what it printed above says why. Mend that and try again.`);
}
