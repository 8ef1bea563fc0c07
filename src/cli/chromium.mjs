// A Chromium for the browser tests, one on the machine or else one that can be installed, and the software GPU driver
// that comes with it.

import { spawnSync } from "node:child_process";
import { accessSync, constants, existsSync, readFileSync, realpathSync } from "node:fs";
import { createRequire } from "node:module";
import { delimiter, dirname, join } from "node:path";
import { say } from "./say.mjs";

const NAMES = ["chromium", "chromium-browser", "google-chrome-stable", "google-chrome", "chrome"];

const FIXED_PLACES = [
  "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
  "/Applications/Chromium.app/Contents/MacOS/Chromium",
  ...[process.env.PROGRAMFILES, process.env["PROGRAMFILES(X86)"], process.env.LOCALAPPDATA]
    .filter((folder) => folder !== undefined)
    .map((folder) => join(folder, "Google", "Chrome", "Application", "chrome.exe")),
];

/**
 * What every test starts Chromium with: WebGPU on its software driver too, and no traffic of the browser's own, so that
 * whatever leaves is the page's.
 */
export const chromiumArguments = [
  "--headless=new",
  "--no-sandbox",
  "--enable-unsafe-webgpu",
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-sync",
  "--no-first-run",
  "--disable-quic",
];

/**
 * Path of a Chromium on this machine: $CHROMIUM, on PATH, in the usual places, or Playwright's. Null if there is none.
 *
 * Throws if $CHROMIUM names no file.
 */
export function findChromium(environment = process.env) {
  const named = environment.CHROMIUM;
  if (named) {
    if (existsSync(named)) return named;
    throw new Error(`CHROMIUM should name a Chromium to test with, and ${named} does not exist. Correct or unset it.`);
  }
  const folders = (environment.PATH ?? "").split(delimiter).filter((folder) => folder !== "");
  const places = [...folders.flatMap((folder) => NAMES.map((name) => join(folder, name))), ...FIXED_PLACES];
  return places.find(isExecutable) ?? playwrightsChromium();
}

/** Asked last, because Playwright takes long to load. Null too where the dependencies are not installed yet. */
function playwrightsChromium() {
  const require = createRequire(import.meta.url);
  try {
    const path = /** @type {typeof import("playwright")} */ (require("playwright")).chromium.executablePath();
    return existsSync(path) ? path : null;
  } catch {
    return null;
  }
}

/**
 * Folder of the software Vulkan driver that a Chromium on this machine brings along (libvulkan.so.1 and
 * vk_swiftshader_icd.json), null if there is none.
 */
export function findSoftwareGpu(environment = process.env) {
  const chromium = findChromium(environment);
  // Debian's executable on PATH is a script; what it starts lies in /usr/lib.
  const folders = [...(chromium ? [dirname(realpathSync(chromium))] : []), "/usr/lib/chromium", "/opt/google/chrome"];
  return folders.find((folder) => existsSync(join(folder, "vk_swiftshader_icd.json"))) ?? null;
}

/** Path of a Chromium, installed first if need be: Debian's package where we may, else Playwright's download. */
export function ensureChromium() {
  const found = findChromium();
  if (found) return found;
  const asRoot = rootPrefix();
  if (isDebian() && asRoot) {
    say("Installing Debian's chromium for the browser tests …");
    const [command, ...prefix] = [...asRoot, "apt-get"];
    const apt = (/** @type {string[]} */ ...args) => run(command, [...prefix, ...args]);
    if (apt("-qq", "update")) apt("-qq", "-y", "--no-install-recommends", "install", "chromium");
  }
  const installed = findChromium();
  if (installed) return installed;
  say("Downloading Playwright's Chromium for the browser tests …");
  run(process.execPath, [join("node_modules", "playwright", "cli.js"), "install", "chromium"]);
  const downloaded = findChromium();
  if (downloaded) return downloaded;
  throw new Error(
    "The browser tests need a Chromium; none was found and none could be installed. Install one and set CHROMIUM to its path.",
  );
}

function isDebian() {
  return existsSync("/etc/os-release") && /^ID=debian$/m.test(readFileSync("/etc/os-release", "utf8"));
}

/** What to put before a command that needs root: nothing for root, sudo if it asks no password, null if neither. */
function rootPrefix() {
  if (process.getuid?.() === 0) return [];
  return spawnSync("sudo", ["-n", "true"], { stdio: "ignore" }).status === 0 ? ["sudo", "-n"] : null;
}

/**
 * @param {string} command
 * @param {string[]} args
 */
function run(command, args) {
  const env = { ...process.env, DEBIAN_FRONTEND: "noninteractive" };
  return spawnSync(command, args, { stdio: ["ignore", 2, 2], env }).status === 0;
}

/** @param {string} path */
function isExecutable(path) {
  try {
    accessSync(path, constants.X_OK);
    return true;
  } catch {
    return false;
  }
}
