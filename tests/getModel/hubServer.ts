// A hub on this machine: it lists files as the real one does and redirects to a second host for their bytes, which breaks
// off, lies or ignores what it is asked, when told to.

import { createHash } from "node:crypto";
import type { IncomingMessage, RequestListener, Server, ServerResponse } from "node:http";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";

/** What the second host does to the next request for a file. */
export type Fault =
  | { cutAfter: number } // The connection breaks after so many bytes.
  | { endAfter: number } // The answer ends properly, but too early.
  | { stallAfter: number } // After so many bytes nothing comes any more.
  | "busy" // Status 503.
  | "noRange" // It sends everything, whatever was asked for.
  | "elsewhere" // It begins ten bytes before what was asked for, and says so.
  | "wrongBytes"
  | "tooMany" // Bytes after the end.
  | "gone"; // Status 404.

export interface HubFolder {
  repository: string;
  commit: string;
  /** Branches and tags. */
  revisions: Record<string, string>;
  files: Record<string, Uint8Array>;
  /** Paths that are in the large file storage, listed with their SHA-256. */
  large: string[];
  /** What it lists instead of the right checksum. */
  told?: Record<string, string>;
  gated?: boolean;
}

export interface LocalHub {
  /** For the hub's own host and for the one of the bytes. */
  hub: RequestListener;
  cdn: RequestListener;
  /** Faults to come, by path. One is used up by each request for it. */
  faults: Map<string, Fault[]>;
  /** Requests for bytes: path and what was asked for. */
  asked: { path: string; range: string | undefined }[];
  /** Every request to the hub's own host, with its headers. */
  heard: IncomingMessage[];
}

const gitSha1 = (bytes: Uint8Array) =>
  createHash("sha1").update(`blob ${bytes.byteLength}\0`).update(bytes).digest("hex");
const sha256 = (bytes: Uint8Array) => createHash("sha256").update(bytes).digest("hex");

/** `cdnOrigin`: where the hub sends those who want bytes. `pageSize`: entries of a list in one answer. */
export function localHub(folder: HubFolder, cdnOrigin: () => string, pageSize = 3): LocalHub {
  const faults = new Map<string, Fault[]>();
  const asked: LocalHub["asked"] = [];
  const heard: IncomingMessage[] = [];
  const api = `/api/models/${folder.repository}`;

  const hub: RequestListener = (request, response) => {
    heard.push(request);
    allowAll(response);
    const { pathname, searchParams } = new URL(request.url ?? "/", "http://hub");
    const resolve = `/${folder.repository}/resolve/${folder.commit}/`;
    if (folder.gated && pathname.startsWith(`/${folder.repository}`)) return end(response, 403);
    if (pathname.startsWith(`${api}/revision/`)) {
      const sha = folder.revisions[decodeURIComponent(pathname.slice(`${api}/revision/`.length))];
      return sha ? sendJson(response, { id: folder.repository, sha }) : end(response, 404);
    }
    if (pathname === `${api}/tree/${folder.commit}`) {
      const from = Number(searchParams.get("cursor") ?? 0);
      const entries = [{ type: "directory", oid: "0".repeat(40), size: 0, path: "onnx" }, ...listed(folder)];
      if (from + pageSize < entries.length) {
        const next = `http${request.headers.host?.includes(":") ? "" : "s"}://${request.headers.host}${pathname}`;
        response.setHeader("Link", `<${next}?cursor=${from + pageSize}>; rel="next"`);
      }
      return sendJson(response, entries.slice(from, from + pageSize));
    }
    if (pathname.startsWith(resolve)) {
      response.setHeader("Location", `${cdnOrigin()}/blob/${pathname.slice(resolve.length)}`);
      return end(response, 302);
    }
    return end(response, 401); // As the real one answers for what it does not have.
  };

  const cdn: RequestListener = (request, response) => {
    allowAll(response);
    const path = decodeURIComponent((request.url ?? "").replace("/blob/", ""));
    const bytes = folder.files[path];
    if (!bytes) return end(response, 404);
    asked.push({ path, range: request.headers.range });
    return serve(response, bytes, request.headers.range, faults.get(path)?.shift());
  };

  return { hub, cdn, faults, asked, heard };
}

function listed({ files, large, told }: HubFolder) {
  return Object.entries(files).map(([path, bytes]) => {
    const entry = { type: "file", oid: gitSha1(bytes), size: bytes.byteLength, path };
    if (!large.includes(path)) return { ...entry, oid: told?.[path] ?? entry.oid };
    return { ...entry, lfs: { oid: told?.[path] ?? sha256(bytes), size: bytes.byteLength, pointerSize: 135 } };
  });
}

function serve(response: ServerResponse, bytes: Uint8Array, range: string | undefined, fault: Fault | undefined): void {
  if (fault === "busy") return end(response, 503);
  if (fault === "gone") return end(response, 404);
  const asked = range && fault !== "noRange" ? Number(/^bytes=(\d+)-$/.exec(range)?.[1]) : 0;
  const from = fault === "elsewhere" ? asked - 10 : asked;
  if (from > 0 && from >= bytes.byteLength) return end(response, 416);
  let body = bytes.slice(from);
  if (fault === "wrongBytes") body = body.map((byte) => byte ^ 1);
  if (fault === "tooMany") body = Uint8Array.from([...body, 1, 2, 3]);
  if (from > 0) response.setHeader("Content-Range", `bytes ${from}-${bytes.byteLength - 1}/${bytes.byteLength}`);
  const endAfter = typeof fault === "object" && "endAfter" in fault ? fault.endAfter : body.byteLength;
  response.writeHead(from > 0 ? 206 : 200, { "Content-Length": endAfter, "Content-Type": "application/octet-stream" });
  if (typeof fault === "object" && "stallAfter" in fault) {
    response.flushHeaders();
    response.write(body.subarray(0, fault.stallAfter));
    return;
  }
  if (typeof fault === "object" && "cutAfter" in fault) {
    response.write(body.subarray(0, fault.cutAfter), () => setTimeout(() => response.destroy(), 20));
    return;
  }
  response.end(body.subarray(0, endAfter));
}

function allowAll(response: ServerResponse): void {
  response.setHeader("Access-Control-Allow-Origin", "*");
  response.setHeader("Access-Control-Expose-Headers", "Link, Content-Range");
}

function sendJson(response: ServerResponse, value: unknown): void {
  response.setHeader("Content-Type", "application/json");
  response.end(JSON.stringify(value));
}

function end(response: ServerResponse, status: number): void {
  response.writeHead(status);
  response.end();
}

/** Listen on a free port of this machine. */
export async function listening(listener: RequestListener): Promise<{ server: Server; origin: string }> {
  const server = createServer(listener);
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  return { server, origin: `http://127.0.0.1:${(server.address() as AddressInfo).port}` };
}
