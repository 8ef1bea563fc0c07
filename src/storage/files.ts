// Large bytes in the browser's private file system (OPFS): weights, checkpoints, files to take away.
// Written through synchronous handles, which exist only in workers and in every browser; never from the page.

import { createSHA256 } from "hash-wasm";
import type { ByteSink } from "../formats/bytes.ts";
import { Failure, outOfSpace } from "./failure.ts";

const CHUNK_BYTES = 4 * 1024 * 1024;

/** As the File System standard has it; TypeScript knows it only where there is no page. */
export interface SyncAccessHandle {
  read(into: Uint8Array, options?: { at?: number }): number;
  write(bytes: Uint8Array, options?: { at?: number }): number;
  truncate(sizeBytes: number): void;
  flush(): void;
  getSize(): number;
  close(): void;
}

export interface WrittenFile {
  sizeBytes: number;
  /** Lower-case hexadecimal. */
  sha256: string;
}

/** A file that is written piece by piece: it is there once it is closed, and not before. */
export interface OpenFile extends ByteSink {
  /** Resolves when the disk has all of it. */
  close(): Promise<WrittenFile>;
  /** Leave nothing of it. Also after `close` has failed. */
  abort(): Promise<void>;
}

export interface AppendedFile {
  /** Rejects with "quota" when there is no room; what was flushed before stays. */
  write(bytes: Uint8Array): Promise<void>;
  /** Returns when the disk has what was written. */
  flush(): void;
  close(): void;
}

export interface Files {
  /** Replace `path` by these parts, one after the other. Resolves when the system has flushed them. */
  write(path: string, parts: Uint8Array[]): Promise<WrittenFile>;
  /** Go on with a file that is written piece by piece: what is there past `at` bytes is dropped. Close it in any case. */
  append(path: string, at: number): Promise<AppendedFile>;
  /** Rejects with "missing" when there is no such file. */
  read(path: string): Promise<Uint8Array>;
  /** A handle on the bytes, to be handed to the page without reading them. Rejects with "missing". */
  file(path: string): Promise<File>;
  /** Remove a file, or a folder and all in it. Does nothing when it is not there. */
  remove(path: string): Promise<void>;
}

/** Open the private file system. Rejects with a sentence where the browser has none (e.g. some private windows). */
export async function openFiles(): Promise<Files> {
  const root = await navigator.storage?.getDirectory?.().catch(() => undefined);
  if (!root) {
    throw new Failure(
      "unsupported",
      "Espalier keeps weights and checkpoints in the browser's private file system, and this browser window offers none. Open the page over https or on localhost, in a window that is not private.",
    );
  }
  return filesIn(root);
}

/** "/" in a path is a folder; folders appear when a file in them is written. */
export function filesIn(root: FileSystemDirectoryHandle): Files {
  return {
    async write(path, parts) {
      const sizeBytes = parts.reduce((sum, part) => sum + part.byteLength, 0);
      const handle = await openSync(await fileHandle(root, path, true));
      try {
        return await writeParts(handle, parts, sizeBytes);
      } catch (error) {
        handle.truncate(0); // Gives the room back: half a file is of no use to anyone.
        throw isQuota(error) ? outOfSpace(`${path} (${megabytes(sizeBytes)})`) : error;
      } finally {
        handle.close();
      }
    },

    async append(path, at) {
      const handle = await openSync(await fileHandle(root, path, true));
      handle.truncate(at);
      let end = at;
      return {
        async write(bytes) {
          try {
            for (const chunk of chunks(bytes)) {
              if (handle.write(chunk, { at: end }) !== chunk.byteLength) throw quotaReached();
              end += chunk.byteLength;
            }
          } catch (error) {
            throw isQuota(error) ? outOfSpace(`${path} (${megabytes(end)} were written)`) : error;
          }
        },
        flush: () => handle.flush(),
        close: () => handle.close(),
      };
    },

    async read(path) {
      const handle = await openSync(await fileHandle(root, path, false));
      try {
        const bytes = new Uint8Array(handle.getSize());
        const count = handle.read(bytes, { at: 0 });
        if (count !== bytes.byteLength) {
          throw new Failure("damaged", `${path}: ${bytes.byteLength} bytes were to be read, ${count} came.`);
        }
        return bytes;
      } finally {
        handle.close();
      }
    },

    async file(path) {
      return (await fileHandle(root, path, false)).getFile();
    },

    async remove(path) {
      const { folders, name } = split(path);
      try {
        const folder = await folderHandle(root, folders, false);
        await folder.removeEntry(name, { recursive: true });
      } catch (error) {
        if (!isNotFound(error)) throw error;
      }
    },
  };
}

/** SHA-256 of `bytes`, lower-case hexadecimal. */
export async function sha256(bytes: Uint8Array): Promise<string> {
  const hash = await createSHA256();
  for (const chunk of chunks(bytes)) hash.update(chunk);
  return hash.digest("hex");
}

async function writeParts(handle: SyncAccessHandle, parts: Uint8Array[], sizeBytes: number): Promise<WrittenFile> {
  const hash = await createSHA256();
  handle.truncate(0);
  let at = 0;
  for (const part of parts) {
    for (const chunk of chunks(part)) {
      const count = handle.write(chunk, { at });
      // Chromium does not throw when the quota is reached: it returns -8 read as an unsigned number.
      if (count !== chunk.byteLength) throw quotaReached();
      hash.update(chunk);
      at += count;
    }
  }
  handle.flush();
  if (handle.getSize() !== sizeBytes) throw quotaReached();
  return { sizeBytes, sha256: hash.digest("hex") };
}

function* chunks(bytes: Uint8Array): Generator<Uint8Array> {
  for (let start = 0; start < bytes.byteLength; start += CHUNK_BYTES) yield bytes.subarray(start, start + CHUNK_BYTES);
}

async function openSync(handle: FileSystemFileHandle): Promise<SyncAccessHandle> {
  const { createSyncAccessHandle } = handle as { createSyncAccessHandle?: () => Promise<SyncAccessHandle> };
  if (!createSyncAccessHandle) {
    throw new Failure("unsupported", "This browser writes large files only from a worker, and not at all in this one.");
  }
  try {
    return await createSyncAccessHandle.call(handle);
  } catch (error) {
    if ((error as Error).name !== "NoModificationAllowedError") throw error;
    throw new Failure("elsewhere", `${handle.name} is being written by another tab. Close that tab and try again.`);
  }
}

async function fileHandle(
  root: FileSystemDirectoryHandle,
  path: string,
  create: boolean,
): Promise<FileSystemFileHandle> {
  const { folders, name } = split(path);
  try {
    const folder = await folderHandle(root, folders, create);
    return await folder.getFileHandle(name, { create });
  } catch (error) {
    if (isNotFound(error)) throw new Failure("missing", `${path} is not stored in this browser.`);
    throw isQuota(error) ? outOfSpace(path) : error;
  }
}

async function folderHandle(
  root: FileSystemDirectoryHandle,
  folders: string[],
  create: boolean,
): Promise<FileSystemDirectoryHandle> {
  let folder = root;
  for (const name of folders) folder = await folder.getDirectoryHandle(name, { create });
  return folder;
}

function split(path: string): { folders: string[]; name: string } {
  const folders = path.split("/");
  const name = folders.pop() as string;
  if ([name, ...folders].some((part) => part === "" || part === "." || part === "..")) {
    throw new Failure("input", `"${path}" is not a path: folders and name must not be empty, "." or "..".`);
  }
  return { folders, name };
}

const quotaReached = () => new DOMException("the quota was reached", "QuotaExceededError");
const isQuota = (error: unknown) => (error as Error).name === "QuotaExceededError";
const isNotFound = (error: unknown) => (error as Error).name === "NotFoundError";
const megabytes = (sizeBytes: number) => `${(sizeBytes / 1e6).toFixed(1)} MB`;
