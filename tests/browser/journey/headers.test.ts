// The headers against a page that tries to talk to another server in every way we know. The other server listens on
// this machine; a control without headers shows that it would have heard.

import { createSocket } from "node:dgram";
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import type { Server } from "node:http";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { extname, join } from "node:path";
import type { Browser, Page } from "playwright";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { serveFolder } from "../../../src/cli/staticServer.ts";
import { startChromium } from "./chromium.ts";

/** Each takes the other server's address (URL, host, port) and tries to reach `URL/NAME`. */
const CHANNELS = {
  fetch: `fetch(url + "fetch", { mode: "no-cors" }).catch(() => {})`,
  xhr: `{ const x = new XMLHttpRequest(); x.open("GET", url + "xhr"); x.send(); }`,
  beacon: `navigator.sendBeacon(url + "beacon", "data")`,
  image: `new Image().src = url + "image"`,
  style: `{ const l = document.createElement("link"); l.rel = "stylesheet"; l.href = url + "style"; document.head.append(l); }`,
  prefetch: `{ const l = document.createElement("link"); l.rel = "prefetch"; l.href = url + "prefetch"; document.head.append(l); }`,
  script: `{ const s = document.createElement("script"); s.src = url + "script"; document.head.append(s); }`,
  module: `import(url + "module").catch(() => {})`,
  socket: `new WebSocket(url.replace("http", "ws") + "socket")`,
  events: `new EventSource(url + "events")`,
  frame: `{ const f = document.createElement("iframe"); f.src = url + "frame"; document.body.append(f); }`,
  object: `{ const o = document.createElement("object"); o.data = url + "object"; document.body.append(o); }`,
  video: `{ const m = document.createElement("video"); m.src = url + "video"; document.body.append(m); }`,
  font: `new FontFace("f", "url(" + url + "font)").load().catch(() => {})`,
  form: `{ const f = document.createElement("form"); f.action = url + "form"; f.method = "post"; document.body.append(f); f.submit(); }`,
  worker: `new Worker("worker.js", { type: "module" }).postMessage(url + "worker")`,
  blobWorker: `new Worker(URL.createObjectURL(new Blob(["fetch('" + url + "blobWorker', { mode: 'no-cors' })"])))`,
} as const;

/** What a Content-Security-Policy leaves open and Connection-Allowlist closes. */
const CHANNELS_OF_THE_ALLOWLIST = {
  navigation: `location.href = url + "navigation"`,
  window: `window.open(url + "window")`,
  refresh: `{ const m = document.createElement("meta"); m.httpEquiv = "refresh"; m.content = "0;url=" + url + "refresh"; document.head.append(m); }`,
  stun: `{ const c = new RTCPeerConnection({ iceServers: [{ urls: "stun:" + host + ":" + udpPort }] }); c.createDataChannel("x"); c.createOffer().then((o) => c.setLocalDescription(o)); }`,
} as const;

const FIRST_WITH_ALLOWLIST = 152;

let browser: Browser;
let folder: string;
let otherServer: Server;
let heard: Set<string>;
let otherUrl: string;
const udp = createSocket("udp4");

beforeAll(async () => {
  browser = await startChromium();
  folder = mkdtempSync(join(tmpdir(), "espalier-headers-"));
  mkdirSync(folder, { recursive: true });
  writeFileSync(join(folder, "index.html"), '<!doctype html><script type="module" src="leak.js"></script>');
  writeFileSync(
    join(folder, "worker.js"),
    'onmessage = ({ data }) => fetch(data, { mode: "no-cors" }).catch(() => {});',
  );
  otherServer = createServer((request, response) => {
    heard.add((request.url ?? "").slice(1));
    response.setHeader("Access-Control-Allow-Origin", "*");
    response.end();
  });
  await new Promise<void>((resolve) => otherServer.listen(0, "127.0.0.1", resolve));
  otherServer.on("upgrade", (request, socket) => {
    heard.add((request.url ?? "").slice(1));
    socket.destroy();
  });
  otherUrl = `http://127.0.0.1:${(otherServer.address() as AddressInfo).port}/`;
  await new Promise<void>((resolve) => udp.bind(0, "127.0.0.1", resolve));
  udp.on("message", () => heard.add("stun"));
});

afterAll(async () => {
  await browser.close();
  otherServer.close();
  udp.close();
  rmSync(folder, { recursive: true });
});

/** Serve a page that tries the channels one by one; returns those that the other server heard. */
async function tryChannels(url: string, channels: Record<string, string>, patienceMs: number): Promise<string[]> {
  heard = new Set();
  for (const [name, attempt] of Object.entries(channels)) {
    const udpPort = udp.address().port;
    const script = `const url = ${JSON.stringify(otherUrl)}, host = "127.0.0.1", udpPort = ${udpPort};\n${attempt};`;
    writeFileSync(join(folder, "leak.js"), script);
    const page = await browser.newPage();
    await page.goto(url, { waitUntil: "commit" }); // A refused form would keep it waiting for more.
    await settled(page, name, patienceMs);
    await page.close();
  }
  return [...heard].filter((name) => name in channels).toSorted();
}

/** Until the other server has heard of it, or patience is at its end. */
async function settled(page: Page, name: string, patienceMs: number): Promise<void> {
  for (let waitedMs = 0; waitedMs < patienceMs && !heard.has(name); waitedMs += 25) {
    await page.waitForTimeout(25);
  }
}

async function withHeaders(channels: Record<string, string>): Promise<string[]> {
  const { server, url } = await serveFolder(folder, { port: 0, host: "127.0.0.1" });
  try {
    return await tryChannels(url, channels, 350); // A request within this machine takes milliseconds.
  } finally {
    server.close();
  }
}

async function withoutHeaders(channels: Record<string, string>): Promise<string[]> {
  const server = createServer((request, response) => {
    const name = request.url === "/" ? "index.html" : (request.url ?? "").slice(1);
    response.setHeader("Content-Type", extname(name) === ".js" ? "text/javascript" : "text/html");
    response.end(["index.html", "leak.js", "worker.js"].includes(name) ? readFileSync(join(folder, name)) : "");
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  try {
    return await tryChannels(`http://localhost:${(server.address() as AddressInfo).port}/`, channels, 10_000);
  } finally {
    server.close();
  }
}

describe("the server's headers", () => {
  it("make the page cross-origin isolated", async () => {
    const { server, url } = await serveFolder(folder, { port: 0, host: "127.0.0.1" });
    writeFileSync(join(folder, "leak.js"), "");
    const page = await browser.newPage();
    await page.goto(url);
    expect(await page.evaluate(() => [crossOriginIsolated, isSecureContext])).toEqual([true, true]);
    await page.close();
    server.close();
  });

  it("keep a page that tries from reaching another server", async () => {
    expect(await withHeaders(CHANNELS)).toEqual([]);
  });

  it("keep it from leaving for one, where the browser knows Connection-Allowlist", async ({ skip }) => {
    const version = Number(browser.version().split(".")[0]);
    skip(version < FIRST_WITH_ALLOWLIST, `Chromium ${version} does not know Connection-Allowlist`);
    expect(await withHeaders(CHANNELS_OF_THE_ALLOWLIST)).toEqual([]);
  });

  it("are what keeps it: without them every channel gets through", async () => {
    const all = { ...CHANNELS, ...CHANNELS_OF_THE_ALLOWLIST };
    expect(await withoutHeaders(all)).toEqual(Object.keys(all).toSorted());
  });
});
