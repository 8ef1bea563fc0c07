import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { request } from "node:http";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { GET_MODEL_HEADERS, SECURITY_HEADERS } from "../../src/cli/headers.ts";
import type { Listening } from "../../src/cli/staticServer.ts";
import { fileFor, serveFolder } from "../../src/cli/staticServer.ts";

const host = "127.0.0.1";
let parent: string;
let folder: string;
let listening: Listening;

beforeAll(async () => {
  parent = mkdtempSync(join(tmpdir(), "espalier-serve-"));
  folder = join(parent, "dist");
  mkdirSync(join(folder, "assets"), { recursive: true });
  mkdirSync(join(folder, "models", "nano"), { recursive: true });
  writeFileSync(join(folder, "index.html"), "<!doctype html><title>页面</title>");
  writeFileSync(join(folder, "assets", "main-4f2a.js"), "export {};");
  writeFileSync(join(folder, "assets", "kernels-77aa.wasm"), new Uint8Array([0, 97, 115, 109]));
  writeFileSync(join(folder, "models", "nano", "model.safetensors"), new Uint8Array([1, 2, 3]));
  mkdirSync(join(folder, "get-model", "code"), { recursive: true });
  writeFileSync(join(folder, "get-model", "index.html"), "<!doctype html>");
  writeFileSync(join(folder, "get-model", "code", "worker-1a2b.js"), "export {};");
  writeFileSync(join(folder, ".hidden"), "not for others");
  writeFileSync(join(parent, "secret.txt"), "not for others");
  listening = await serveFolder(folder, { port: 0, host });
});

afterAll(() => {
  listening.server.close();
  rmSync(parent, { recursive: true });
});

/** A GET whose path is sent as it stands; fetch would tidy it up first. */
function rawGet(path: string): Promise<{ status: number; body: string; headers: NodeJS.Dict<string | string[]> }> {
  return new Promise((resolve, reject) => {
    const sent = request({ host, port: listening.port, path }, (response) => {
      let body = "";
      response.on("data", (chunk) => (body += String(chunk)));
      response.on("end", () => resolve({ status: response.statusCode ?? 0, body, headers: response.headers }));
    });
    sent.on("error", reject);
    sent.end();
  });
}

describe("the server of the built page", () => {
  it.each([
    ["/", 200, "text/html; charset=utf-8"],
    ["/index.html?again", 200, "text/html; charset=utf-8"],
    ["/assets/main-4f2a.js", 200, "text/javascript; charset=utf-8"],
    ["/assets/kernels-77aa.wasm", 200, "application/wasm"],
    ["/models/nano/model.safetensors", 200, "application/octet-stream"],
    ["/missing.js", 404, "text/plain; charset=utf-8"],
    ["/models", 404, "text/plain; charset=utf-8"], // A folder.
    ["/%E0%A4%A", 404, "text/plain; charset=utf-8"], // Broken percent encoding.
  ])("answers %s with %i, %s and every security header", async (path, status, type) => {
    const response = await rawGet(path);
    expect(response.status).toBe(status);
    expect(response.headers["content-type"]).toBe(type);
    for (const [name, value] of Object.entries(SECURITY_HEADERS)) {
      expect(response.headers[name.toLowerCase()]).toBe(value);
    }
  });

  it.each(["/get-model/", "/get-model/code/worker-1a2b.js"])(
    "lets %s, and nothing else, talk to the hub",
    async (path) => {
      const { status, headers } = await rawGet(path);
      expect(status).toBe(200);
      for (const [name, value] of Object.entries(GET_MODEL_HEADERS)) expect(headers[name.toLowerCase()]).toBe(value);
      expect(headers["cache-control"]).toBe(path.endsWith("/") ? "no-cache" : "public, max-age=31536000, immutable");
    },
  );

  it.each(["/get-model", "/get-model/missing.js", "/get-model/../index.html", "/get-modelx", "/assets/main-4f2a.js"])(
    "keeps the strict headers on %s",
    async (path) => {
      const { headers } = await rawGet(path);
      expect(headers["content-security-policy"]).toBe(SECURITY_HEADERS["Content-Security-Policy"]);
      expect(headers["connection-allowlist"]).toBe(SECURITY_HEADERS["Connection-Allowlist"]);
    },
  );

  it.each([
    "/../secret.txt",
    "/..%2fsecret.txt",
    "/%2e%2e/secret.txt",
    "/assets/../../secret.txt",
    "/..%5csecret.txt",
    "/.hidden",
    "//../secret.txt",
    "/assets/..%00/secret.txt",
    "secret.txt",
  ])("keeps to its folder when asked for %s", async (path) => {
    expect(fileFor(folder, path)).toBeNull();
    const { status, body } = path.startsWith("/") ? await rawGet(path) : { status: 404, body: "" };
    expect(status).toBe(404);
    expect(body).not.toContain("not for others");
  });

  it("sends what public/_headers tells static hosts to send", () => {
    const lines = readFileSync(join("public", "_headers"), "utf8").split("\n");
    const told = lines.filter((line) => line.startsWith("  ")).map((line) => line.trim().split(/: (.*)/, 2));
    expect(Object.fromEntries(told)).toEqual(SECURITY_HEADERS);
  });

  it("serves the same bytes as the file has", async () => {
    const response = await fetch(`${listening.url}models/nano/model.safetensors`);
    expect([...new Uint8Array(await response.arrayBuffer())]).toEqual([1, 2, 3]);
    expect(response.headers.get("content-length")).toBe("3");
  });

  it("lets browsers keep what is named by its hash, and asks again for the rest", async () => {
    const hashed = await rawGet("/assets/main-4f2a.js");
    expect(hashed.headers["cache-control"]).toBe("public, max-age=31536000, immutable");
    const page = await fetch(listening.url);
    expect(page.headers.get("cache-control")).toBe("no-cache");
    const again = await fetch(listening.url, { headers: { "If-None-Match": page.headers.get("etag") ?? "" } });
    expect(again.status).toBe(304);
    expect(again.headers.get("content-security-policy")).toBe(SECURITY_HEADERS["Content-Security-Policy"]);
    writeFileSync(join(folder, "index.html"), "<!doctype html><title>changed</title>");
    const changed = await fetch(listening.url, { headers: { "If-None-Match": page.headers.get("etag") ?? "" } });
    expect(changed.status).toBe(200);
  });

  it("answers HEAD without a body and refuses to take anything", async () => {
    const head = await fetch(listening.url, { method: "HEAD" });
    expect([head.status, await head.text()]).toEqual([200, ""]);
    const posted = await fetch(listening.url, { method: "POST", body: "data" });
    expect(posted.status).toBe(405);
    expect(posted.headers.get("content-security-policy")).toBe(SECURITY_HEADERS["Content-Security-Policy"]);
  });

  it("goes to the next free port when one is taken, and says which it has", async () => {
    const second = await serveFolder(folder, { port: listening.port, host });
    try {
      expect(second.port).toBeGreaterThan(listening.port);
      expect(second.url).toBe(`http://localhost:${second.port}/`);
      expect((await fetch(`http://${host}:${second.port}/`)).status).toBe(200);
    } finally {
      second.server.close();
    }
  });

  it("says which host it could not listen on", async () => {
    await expect(serveFolder(folder, { port: 0, host: "192.0.2.1" })).rejects.toThrow(/192\.0\.2\.1/);
  });
});
