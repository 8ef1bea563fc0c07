// The page that fetches models, built and served as it is, in a browser for which every foreign host is one server on this
// machine: what it fetches, and whom it and the main page can reach.

import { spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import { createSocket } from "node:dgram";
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { createRequire } from "node:module";
import { createServer, type Server } from "node:https";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Browser, BrowserContext, Page } from "playwright";
import { chromium } from "playwright";
import { afterAll, beforeAll, beforeEach, describe, expect, it } from "vitest";
import { chromiumArguments, findChromium } from "../../../src/cli/chromium.mjs";
import { root } from "../../../src/cli/setup.mjs";
import type { Listening } from "../../../src/cli/staticServer.ts";
import { serveFolder } from "../../../src/cli/staticServer.ts";
import { PINNED_MODELS } from "../../../src/getModel/pinned.ts";
import { type HubFolder, type LocalHub, localHub } from "../../getModel/hubServer.ts";
import { selfSigned } from "./certificate.ts";

const COMMIT = "0123456789abcdef0123456789abcdef01234567";
const FIRST_WITH_ALLOWLIST = 152;
const CDN = "us.aws.cdn.hf.co";
const WEIGHTS = Uint8Array.from({ length: 3_000_017 }, (_, index) => (index * 7919) % 251);
const sha256 = (bytes: Uint8Array) => createHash("sha256").update(bytes).digest("hex");

const pictures = join(root, "tests", "artefacts");
let folder: string;
let listening: Listening;
let world: Server;
let browser: Browser;
let context: BrowserContext;
let page: Page;
let tiny: HubFolder;
let hub: LocalHub;
/** What other hosts than the hub's heard of us. */
let others: Set<string>;
const trouble: string[] = [];
/** Hosts that the page and its worker asked. */
const asked = new Set<string>();

/** Build as `npm run build` does. */
function build(outDir: string, hospital: boolean): void {
  const script = `import { buildPage } from ${JSON.stringify(join(root, "src/cli/setup.mjs"))};
    import * as vite from "vite";
    await buildPage(vite, ${JSON.stringify(outDir)}, ${hospital});`;
  const env = { ...process.env, NODE_ENV: "production" };
  const { status, stderr } = spawnSync(process.execPath, ["--input-type=module", "-e", script], { cwd: root, env });
  if (status !== 0) throw new Error(`The page does not build: ${stderr.toString()}`);
}

beforeAll(async () => {
  mkdirSync(pictures, { recursive: true });
  folder = mkdtempSync(join(tmpdir(), "espalier-get-model-"));
  build(join(folder, "dist"), false);
  build(join(folder, "hospital"), true);
  listening = await serveFolder(join(folder, "dist"), { port: 0, host: "127.0.0.1" });
  world = createServer(selfSigned("anyone"), (request, response) => {
    const { host = "" } = request.headers;
    if (host === "huggingface.co" && request.url === "/away") {
      response.writeHead(302, { Location: "https://elsewhere.example/away", "Access-Control-Allow-Origin": "*" }).end();
      return;
    }
    if (host === "huggingface.co") return hub.hub(request, response);
    if (host === CDN) return hub.cdn(request, response);
    if (host.endsWith(".example")) others.add(`${host}${request.url}`); // Others hear of the browser, not of the page.
    response.setHeader("Access-Control-Allow-Origin", "*");
    response.end();
  });
  await new Promise<void>((resolve) => world.listen(0, "127.0.0.1", resolve));
  const { port } = world.address() as AddressInfo;
  browser = await chromium.launch({
    executablePath: findChromium() ?? undefined,
    args: [
      ...chromiumArguments,
      `--host-resolver-rules=MAP * 127.0.0.1:${port}, EXCLUDE localhost`,
      "--ignore-certificate-errors",
    ],
  });
});

afterAll(async () => {
  await browser?.close();
  listening?.server.close();
  world?.closeAllConnections();
  world?.close();
  rmSync(folder, { recursive: true, force: true });
});

beforeEach(async () => {
  others = new Set();
  trouble.length = 0;
  tiny = {
    repository: "someone/tiny-model",
    commit: COMMIT,
    revisions: { main: COMMIT },
    files: {
      "config.json": new TextEncoder().encode('{"model_type":"qwen2"}'),
      "model.safetensors": WEIGHTS,
      "tokenizer.json": new Uint8Array(5000).fill(32),
      "tokenizer_config.json": new TextEncoder().encode("{}"),
      "README.md": new TextEncoder().encode("# Tiny"),
    },
    large: ["model.safetensors"],
  };
  hub = localHub(tiny, () => `https://${CDN}`);
  await context?.close();
  context = await browser.newContext({ viewport: { width: 1100, height: 900 }, locale: "en-GB" });
  context.on("request", (request) => asked.add(new URL(request.url()).hostname));
  context.on("weberror", (error) => trouble.push(error.error().message));
  await context.addInitScript(() => {
    document.addEventListener("securitypolicyviolation", ({ violatedDirective, blockedURI }) =>
      console.error(`policy: ${violatedDirective} ${blockedURI}`),
    );
    // A folder that no person has to choose.
    Object.assign(globalThis, {
      showDirectoryPicker: async () =>
        (await navigator.storage.getDirectory()).getDirectoryHandle("chosen", { create: true }),
    });
  });
  context.on("console", (message) => {
    if (message.type() === "error") trouble.push(message.text());
  });
  context.setDefaultTimeout(20_000);
  page = await context.newPage();
  await page.goto(`${listening.url}get-model/`);
});

const knowsAllowlist = () => Number(browser.version().split(".")[0]) >= FIRST_WITH_ALLOWLIST;
const button = (name: string | RegExp) => page.getByRole("button", { name, exact: true });

async function listTiny(): Promise<void> {
  await page.getByLabel("owner/name@revision").fill("someone/tiny-model");
  await button("List its files").click();
  await page.getByText(`someone/tiny-model at commit ${COMMIT}`).waitFor();
}

/** Faults that axe-core finds on the page as it is. */
async function accessibilityFaults(): Promise<string[]> {
  const source = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
  await page.evaluate(source);
  return page.evaluate(async () => {
    const { violations } = await (globalThis as unknown as { axe: typeof import("axe-core") }).axe.run();
    return violations.map(({ id, nodes }) => `${id}: ${nodes.map(({ html }) => html).join(" | ")}`);
  });
}

const picture = (name: string) => page.screenshot({ path: join(pictures, `${name}.png`), fullPage: true });

describe("the page that fetches models", () => {
  it("fetches through redirects and broken connections, is paused, reloaded and gone on with, and saves", async () => {
    hub.faults.set("model.safetensors", [{ cutAfter: 1_000_000 }, { stallAfter: 500_100 }]);
    expect(await accessibilityFaults()).toEqual([]);
    await picture("get-model-1-opened");
    await listTiny();
    expect(await accessibilityFaults()).toEqual([]);
    await page.getByLabel("Fetch README.md").uncheck();
    await picture("get-model-2-listed");
    await button("Fetch 3.0 MB").click();
    await page.getByRole("row", { name: /model\.safetensors.*Fetching: 50% here/ }).waitFor();
    await picture("get-model-3-fetching");
    expect(await accessibilityFaults()).toEqual([]);
    await button("Pause").click();
    await button("Go on").waitFor();
    await page.reload();
    await page.getByText("Paused", { exact: true }).waitFor();
    await button("Go on").click();
    await button("Save the folder").waitFor();
    expect(await page.getByRole("cell", { name: "Whole and checked" }).count()).toBe(4);
    expect(hub.asked.filter(({ path }) => path === "model.safetensors").map(({ range }) => range)).toEqual([
      undefined,
      "bytes=1000000-",
      "bytes=1500100-",
    ]);
    expect(await accessibilityFaults()).toEqual([]);

    await button("Save the folder").click();
    await page.getByText("Saved into tiny-model.").waitFor();
    await picture("get-model-4-saved");
    const saved = await page.evaluate(async () => {
      const chosen = await (await navigator.storage.getDirectory()).getDirectoryHandle("chosen");
      const hashes: Record<string, string> = {};
      for await (const [name, handle] of await chosen.getDirectoryHandle("tiny-model")) {
        const bytes = await (await (handle as FileSystemFileHandle).getFile()).arrayBuffer();
        const hash = new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
        hashes[name] = [...hash].map((byte) => byte.toString(16).padStart(2, "0")).join("");
      }
      return hashes;
    });
    const wanted = Object.entries(tiny.files).filter(([name]) => name !== "README.md");
    expect(saved).toEqual(Object.fromEntries(wanted.map(([name, bytes]) => [name, sha256(bytes)])));

    const [download] = await Promise.all([page.waitForEvent("download"), button("Save model.safetensors").click()]);
    expect(download.suggestedFilename()).toBe("model.safetensors");
    expect(sha256(readFileSync(await download.path()))).toBe(sha256(WEIGHTS));

    await button("Delete what was fetched").click();
    await page.reload();
    await button("List its files").waitFor();
    expect(await page.getByText("Whole and checked").count()).toBe(0);
    expect([...asked].toSorted()).toEqual(["huggingface.co", "localhost", CDN]);
    expect(trouble.filter((text) => !text.includes("ERR_CONTENT_LENGTH_MISMATCH"))).toEqual([]);
  });

  it("deletes what is not what the page knows, and says so in both languages", async () => {
    const [model] = PINNED_MODELS;
    Object.assign(tiny, { repository: model.repository, commit: model.commit });
    tiny.told = { "model.safetensors": model.sha256["model.safetensors"] };
    delete tiny.files["tokenizer.json"];
    hub = localHub(tiny, () => `https://${CDN}`);
    await button(`List its files: ${model.repository}`).click();
    await page.getByRole("row", { name: /model\.safetensors.*SHA-256, known to this page/ }).waitFor();
    await page
      .getByRole("row", { name: /config\.json.*Git's SHA-1, told by the hub/ })
      .first()
      .waitFor();
    await button(/^Fetch /).click();
    await page.getByText(/model\.safetensors is not what it should be.*It was deleted/).waitFor();
    await button("Go on").waitFor();
    await page.getByRole("radio", { name: "中文" }).check();
    await page.getByText(/model\.safetensors 内容不对/).waitFor();
    expect(await page.getByText(/已有/).count()).toBe(0); // "… here", beside the file.
    expect(await page.evaluate(() => document.documentElement.lang)).toBe("zh-CN");
    expect(await accessibilityFaults()).toEqual([]);
    await picture("get-model-5-refused-zh");
  });

  it("says what the hub does not have", async () => {
    await page.getByLabel("owner/name@revision").fill("someone/else@v2");
    await button("List its files").click();
    await page.getByRole("alert").getByText("The hub has no someone/else@v2").waitFor();
  });
});

describe("the two pages", () => {
  /** What a script on the page can reach: addresses it asks for, and how it leaves. */
  async function reached(url: string, attempt: string): Promise<string[]> {
    const other = await context.newPage();
    await other.goto(url, { waitUntil: "commit" });
    await other.evaluate(attempt).catch(() => {}); // It may have left.
    await other.waitForTimeout(300);
    await other.close();
    return [...others, ...hub.heard.map((request) => `huggingface.co${request.url}`)];
  }
  const fetched = (url: string) => `fetch(${JSON.stringify(url)}).then(() => {}, () => {})`;

  it("differ in whom they may talk to: the one the hub, the main one nobody", async () => {
    expect(await reached(`${listening.url}get-model/`, fetched("https://huggingface.co/x"))).toEqual([
      "huggingface.co/x",
    ]);
    hub.heard.length = 0;
    expect(await reached(listening.url, fetched("https://huggingface.co/x"))).toEqual([]);
  });

  it.for([
    ["asks another host", fetched("https://elsewhere.example/asked"), "elsewhere.example/asked"],
    ["is sent to another host by the hub", fetched("https://huggingface.co/away"), "elsewhere.example/away"],
    ["goes to another host", `location.href = "https://elsewhere.example/gone"`, "elsewhere.example/gone"],
    ["opens another host", `window.open("https://elsewhere.example/opened")`, "elsewhere.example/opened"],
    [
      "loads a picture of the hub",
      `new Promise((r) => { const i = new Image(); i.onerror = r; i.src = "https://huggingface.co/i" })`,
      "huggingface.co/i",
    ],
  ])(
    "do not reach further when the one that fetches models %s; one without headers would",
    async ([, attempt, heard], { skip }) => {
      skip(!knowsAllowlist(), "this Chromium does not know Connection-Allowlist");
      expect(await reached(`${listening.url}get-model/`, attempt)).toEqual([]);
      expect(await reached("https://elsewhere.example/", attempt)).toContain(heard);
    },
  );

  it("do not reach further when the one that fetches models calls by WebRTC", async ({ skip }) => {
    skip(!knowsAllowlist(), "this Chromium does not know Connection-Allowlist");
    const udp = createSocket("udp4");
    await new Promise<void>((resolve) => udp.bind(0, "127.0.0.1", resolve));
    udp.on("message", () => others.add("stun"));
    const call = `{ const c = new RTCPeerConnection({ iceServers: [{ urls: "stun:127.0.0.1:${udp.address().port}" }] });
      c.createDataChannel("x"); c.createOffer().then((o) => c.setLocalDescription(o)); }`;
    expect(await reached(`${listening.url}get-model/`, call)).toEqual([]);
    udp.close();
  });

  it("cannot reach into each other, though they have one origin", async () => {
    const opened = (path: string) => `(async () => {
      const other = window.open(${JSON.stringify(path)});
      await new Promise((resolve) => setTimeout(resolve, 700));
      try { return String(other === null || other.closed || other.document === null); } catch { return "true"; }
    })()`;
    await page.goto(listening.url);
    expect(await page.evaluate(opened("get-model/"))).toBe("true");
    expect(await page.evaluate(opened("./"))).toBe("false"); // A window of the same page, to show that the question bites.
    await page.goto(`${listening.url}get-model/`);
    expect(await page.evaluate(opened("../"))).toBe("true");
  });

  it("share no script, and the main one cannot start the other's worker by its own door", () => {
    const names = (path: string) => readdirSync(join(folder, "dist", path));
    expect(names("get-model")).not.toContain("assets");
    expect(names("assets").filter((name) => names("get-model/code").includes(name))).toEqual([]);
    const html = readFileSync(join(folder, "dist", "get-model", "index.html"), "utf8");
    expect(html).not.toMatch(/\.\.\/assets/);
  });
});

describe("the hospital's build", () => {
  const filesUnder = (path: string): string[] =>
    readdirSync(path, { withFileTypes: true, recursive: true })
      .filter((entry) => entry.isFile())
      .map((entry) => join(entry.parentPath, entry.name));

  it("has neither the page that fetches models nor a trace of the hub", () => {
    const traces = (name: string) =>
      filesUnder(join(folder, name)).filter((file) =>
        /huggingface\.co|\bhf\.co|xethub|get-model/.test(readFileSync(file, "latin1")),
      );
    expect(readdirSync(join(folder, "hospital"))).not.toContain("get-model");
    expect(traces("hospital")).toEqual([]);
    expect(traces("dist").length).toBeGreaterThan(2); // So they would be found.
  });

  it("is otherwise the same, byte for byte", () => {
    const hashes = (name: string) =>
      Object.fromEntries(
        filesUnder(join(folder, name))
          .map((file) => [file.slice(join(folder, name).length), sha256(readFileSync(file))])
          .filter(([path]) => !/get-model|_headers$/.test(path)),
      );
    expect(hashes("hospital")).toEqual(hashes("dist"));
  });
});
