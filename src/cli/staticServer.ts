// A server for the built page: files of one folder, with the headers that keep the page to itself.

import { createHash } from "node:crypto";
import { readFile } from "node:fs/promises";
import type { IncomingMessage, Server, ServerResponse } from "node:http";
import { createServer } from "node:http";
import { extname, join, normalize, sep } from "node:path";
import { GET_MODEL_FOLDER, GET_MODEL_HEADERS, SECURITY_HEADERS } from "./headers.ts";

const MIME_TYPES: Record<string, string> = {
  ".css": "text/css; charset=utf-8",
  ".csv": "text/csv; charset=utf-8",
  ".html": "text/html; charset=utf-8",
  ".ico": "image/x-icon",
  ".js": "text/javascript; charset=utf-8",
  ".json": "application/json; charset=utf-8",
  ".jsonl": "application/x-ndjson; charset=utf-8",
  ".map": "application/json; charset=utf-8",
  ".md": "text/markdown; charset=utf-8",
  ".png": "image/png",
  ".safetensors": "application/octet-stream",
  ".svg": "image/svg+xml",
  ".txt": "text/plain; charset=utf-8",
  ".wasm": "application/wasm",
  ".webmanifest": "application/manifest+json",
  ".woff2": "font/woff2",
};

const PORTS_TRIED = 20;

export interface Listening {
  server: Server;
  /** Where a browser on this machine finds the page. */
  url: string;
  port: number;
}

/** Serve `folder` on the first free port from `port` on (0: any). Throws if none of the next twenty is free. */
export async function serveFolder(folder: string, { port, host }: { port: number; host: string }): Promise<Listening> {
  const server = createServer((request, response) => {
    answer(folder, request, response).catch((error: unknown) => {
      send(response, 500, "text/plain; charset=utf-8", `The file could not be read: ${String(error)}`);
    });
  });
  const taken = await listen(server, port, host);
  const name = host.includes(":") ? `[${host}]` : host;
  const local = host === "0.0.0.0" || host === "::" || host === "127.0.0.1" ? "localhost" : name;
  return { server, port: taken, url: `http://${local}:${taken}/` };
}

async function listen(server: Server, first: number, host: string): Promise<number> {
  const last = first === 0 ? 0 : Math.min(first + PORTS_TRIED - 1, 65_535);
  for (let port = first; port <= last; port++) {
    const found = await tryPort(server, port, host);
    if (found !== null) return found;
  }
  throw new Error(`Ports ${first} to ${last} on ${host} are all taken. Name another one with --port.`);
}

/** The port it listens on, or null if that port is taken. */
function tryPort(server: Server, port: number, host: string): Promise<number | null> {
  return new Promise((resolve, reject) => {
    const onError = (error: NodeJS.ErrnoException) => {
      if (error.code === "EADDRINUSE") resolve(null);
      else reject(new Error(`Could not listen on ${host}, port ${port}: ${error.message}.`));
    };
    server.once("error", onError);
    server.listen(port, host, () => {
      server.off("error", onError);
      const address = server.address();
      resolve(typeof address === "object" && address ? address.port : port);
    });
  });
}

async function answer(folder: string, request: IncomingMessage, response: ServerResponse): Promise<void> {
  if (request.method !== "GET" && request.method !== "HEAD") {
    response.setHeader("Allow", "GET, HEAD");
    return send(response, 405, "text/plain; charset=utf-8", "Only GET and HEAD are answered here.");
  }
  const file = fileFor(folder, request.url ?? "/");
  const bytes = file === null ? null : await readFileOrNull(file);
  if (file === null || bytes === null) {
    return send(response, 404, "text/plain; charset=utf-8", "There is no such file.");
  }
  for (const [name, value] of Object.entries(headersOf(folder, file))) response.setHeader(name, value);
  const etag = `"${createHash("sha256").update(bytes).digest("base64url")}"`;
  response.setHeader("ETag", etag);
  response.setHeader("Cache-Control", cacheControl(folder, file));
  if (request.headers["if-none-match"] === etag) return send(response, 304);
  send(response, 200, MIME_TYPES[extname(file)] ?? "application/octet-stream", bytes, request.method === "HEAD");
}

/** The file that a request's target names, or null if it names none inside the folder. */
export function fileFor(folder: string, target: string): string | null {
  let path: string;
  try {
    path = decodeURIComponent(target.split(/[?#]/, 1)[0]);
  } catch {
    return null; // Broken percent encoding.
  }
  if (!path.startsWith("/") || path.includes("\0") || path.includes("\\")) return null;
  const base = normalize(folder).replace(/[\\/]+$/, "") + sep;
  const file = join(base, path.endsWith("/") ? `${path}index.html` : path);
  return file.startsWith(base) && !file.slice(base.length).split(sep).some(isHidden) ? file : null;
}

function isHidden(name: string): boolean {
  return name.startsWith(".");
}

/** What is not there carries the strict ones, wherever it is not. */
function headersOf(folder: string, file: string): Readonly<Record<string, string>> {
  return file.startsWith(join(folder, GET_MODEL_FOLDER) + sep) ? GET_MODEL_HEADERS : SECURITY_HEADERS;
}

/** Vite puts a hash of the content into the names in these folders, so those never change. */
function cacheControl(folder: string, file: string): string {
  const hashed = [join(folder, "assets"), join(folder, GET_MODEL_FOLDER, "code")];
  return hashed.some((one) => file.startsWith(one + sep)) ? "public, max-age=31536000, immutable" : "no-cache";
}

async function readFileOrNull(file: string): Promise<Buffer | null> {
  try {
    return await readFile(file);
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === "ENOENT" || code === "EISDIR" || code === "ENOTDIR" || code === "ENAMETOOLONG") return null;
    throw error;
  }
}

function send(
  response: ServerResponse,
  status: number,
  type?: string,
  body: Buffer | string = "",
  headOnly = false,
): void {
  for (const [name, value] of Object.entries(SECURITY_HEADERS)) {
    if (!response.hasHeader(name)) response.setHeader(name, value);
  }
  if (type) {
    response.setHeader("Content-Type", type);
    response.setHeader("Content-Length", Buffer.byteLength(body));
  }
  response.writeHead(status);
  response.end(headOnly ? undefined : body);
}
