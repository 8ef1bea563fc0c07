// One file from the hub into the browser's private file system: in pieces if need be, hashed as it comes, and kept only if
// it is what it should be.

import { createSHA1, createSHA256, type IHasher } from "hash-wasm";
import type { Files } from "../storage/files.ts";
import type { Checksum, HubFile } from "./hub.ts";
import { Broken, broken, type Patience, patiently, request } from "./request.ts";
import { Troubled } from "./trouble.ts";

export interface FileProgress {
  /** "reading": what is there from before is hashed. "waiting": the connection broke; it is tried again. */
  phase: "reading" | "fetching" | "waiting";
  haveBytes: number;
}

export interface Target {
  url: string;
  /** Where it is kept. */
  path: string;
  file: HubFile;
}

/** How far a file is: what lies in storage, and the hash over it. */
interface Reached {
  haveBytes: number;
  hash: IHasher;
  /** Where the server once said that the file goes no further. */
  endedAt: number | null;
}

/**
 * Fetch a file, going on from what is there. Rejects with a trouble, with "quota" from storage, or as `patience.signal` says.
 * A file that is not what it should be is removed.
 */
export async function fetchFile(
  files: Files,
  { url, path, file }: Target,
  patience: Patience,
  tell: (progress: FileProgress) => void,
): Promise<void> {
  const reached = await fromBefore(files, path, file, patience.signal, tell);
  const inPieces: Patience = {
    ...patience,
    onWait: () => tell({ phase: "waiting", haveBytes: reached.haveBytes }),
  };
  await patiently(
    file.path,
    inPieces,
    async () => {
      tell({ phase: "fetching", haveBytes: reached.haveBytes });
      if (reached.haveBytes < file.sizeBytes) await connection(files, { url, path, file }, reached, inPieces, tell);
    },
    () => reached.haveBytes,
  );
  if (file.sizeBytes === 0) (await files.append(path, 0)).close(); // There was nothing to ask for.
  const found = reached.hash.digest("hex");
  if (found !== file.checksum.hex) {
    await files.remove(path);
    throw new Troubled({ kind: "wrongChecksum", path: file.path, wanted: file.checksum.hex, found });
  }
}

/** How many bytes of a file are there. */
export async function keptBytes(files: Files, path: string): Promise<number> {
  return (await kept(files, path))?.size ?? 0;
}

async function kept(files: Files, path: string): Promise<File | null> {
  try {
    return await files.file(path);
  } catch (error) {
    if ((error as Error).name === "missing") return null;
    throw error;
  }
}

async function fromBefore(
  files: Files,
  path: string,
  file: HubFile,
  signal: AbortSignal,
  tell: (progress: FileProgress) => void,
): Promise<Reached> {
  const reached: Reached = { haveBytes: 0, hash: await begin(file), endedAt: null };
  const before = await kept(files, path);
  if (!before || before.size > file.sizeBytes) return reached;
  for await (const chunk of before.stream()) {
    signal.throwIfAborted();
    reached.hash.update(chunk);
    reached.haveBytes += chunk.byteLength;
    tell({ phase: "reading", haveBytes: reached.haveBytes });
  }
  return reached;
}

async function begin({ checksum, sizeBytes }: HubFile): Promise<IHasher> {
  const hash = await hasher(checksum);
  return startOver(hash, checksum, sizeBytes);
}

const hasher = ({ algorithm }: Checksum): Promise<IHasher> => (algorithm === "git" ? createSHA1() : createSHA256());

function startOver(hash: IHasher, { algorithm }: Checksum, sizeBytes: number): IHasher {
  hash.init();
  if (algorithm === "git") hash.update(`blob ${sizeBytes}\0`); // Git hashes a file with its kind and length before it.
  return hash;
}

/** Ask for the rest of a file and write what comes. Throws Broken when it ends too early. */
async function connection(
  files: Files,
  { url, path, file }: Target,
  reached: Reached,
  patience: Patience,
  tell: (progress: FileProgress) => void,
): Promise<void> {
  const from = reached.haveBytes;
  // One open range from the start of the rest: the only form for which browsers need not ask the other host beforehand.
  const headers: Record<string, string> = from > 0 ? { Range: `bytes=${from}-` } : {};
  await request(url, { what: file.path, headers, accept: [200, 206, 416] }, patience, async (response, alive) => {
    if (!continues(response, from)) {
      startOver(reached.hash, file.checksum, file.sizeBytes);
      reached.haveBytes = 0;
      if (response.status !== 200) {
        await response.body?.cancel().catch(() => {});
        if (response.status === 416) {
          if (reached.endedAt === from) await refuseSize(files, { path, file }); // Twice the same: no accident.
          reached.endedAt = from;
        }
        throw new Broken("the server has no such range");
      }
    }
    await write(files, { path, file }, reached, body(response), () => {
      alive();
      tell({ phase: "fetching", haveBytes: reached.haveBytes });
    });
  });
  if (reached.haveBytes < file.sizeBytes) throw new Broken("the connection ended early");
}

/** Whether the answer begins where we are. Hosts that do not show Content-Range are believed: the hash tells in the end. */
function continues(response: Response, from: number): boolean {
  if (response.status === 200) return from === 0;
  const shown = /^bytes (\d+)-/.exec(response.headers.get("Content-Range") ?? "")?.[1];
  return response.status === 206 && (shown === undefined || Number(shown) === from);
}

async function* body(response: Response): AsyncGenerator<Uint8Array> {
  const reader = response.body?.getReader();
  if (!reader) return;
  try {
    for (;;) {
      const { done, value } = await broken(() => reader.read());
      if (done) return;
      yield value;
    }
  } finally {
    await reader.cancel().catch(() => {});
  }
}

async function write(
  files: Files,
  { path, file }: Omit<Target, "url">,
  reached: Reached,
  chunks: AsyncIterable<Uint8Array>,
  onChunk: () => void,
): Promise<void> {
  const out = await files.append(path, reached.haveBytes);
  let tooLong = false;
  try {
    for await (const chunk of chunks) {
      tooLong = reached.haveBytes + chunk.byteLength > file.sizeBytes;
      if (tooLong) break;
      await out.write(chunk);
      reached.hash.update(chunk);
      reached.haveBytes += chunk.byteLength;
      onChunk();
    }
  } finally {
    out.flush();
    out.close();
  }
  if (tooLong) await refuseSize(files, { path, file });
}

async function refuseSize(files: Files, { path, file }: Omit<Target, "url">): Promise<never> {
  await files.remove(path);
  throw new Troubled({ kind: "wrongSize", path: file.path, wantedBytes: file.sizeBytes });
}
