// A folder for the person to take away: written piece by piece, whole or not at all.

import { nextTask } from "../../engine/idle.ts";
import type { ByteSink } from "../../formats/bytes.ts";
import { type NamedFile, type RunHost, Stopped } from "../host.ts";

/** The file that lists the others of a folder, as the tool sha256sum reads it. */
export const CHECKSUMS = "SHA256SUMS";

export interface Folder {
  /** A small file: bytes, text, or a value as JSON. */
  write(name: string, content: Uint8Array | string | object): Promise<void>;
  /** A file of any size, which `fill` writes from its first byte to its last. Resolves with what `fill` returns. */
  stream<T>(name: string, fill: (sink: ByteSink) => Promise<T>): Promise<T>;
}

/**
 * Write a folder, its SHA256SUMS last. Resolves with its files, for the report.
 *
 * Where `fill` fails, or the run is asked to stop (then rejects with Stopped), nothing of the folder is left.
 */
export async function writeFolder(
  host: RunHost,
  name: string,
  fill: (folder: Folder) => Promise<void>,
): Promise<NamedFile[]> {
  await host.clearFolder(name); // Files of another form would lie among those of this one.
  const files: NamedFile[] = [];
  const folder: Folder = {
    stream: async (file, pour) => {
      const { written, result } = await streamFile(host, `${name}/${file}`, pour);
      files.push(written);
      return result;
    },
    write: async (file, content) => {
      files.push(await writeFile(host, `${name}/${file}`, content));
    },
  };
  try {
    await fill(folder);
    await folder.write(CHECKSUMS, checksums(name, files));
    return files;
  } catch (error) {
    for (const file of files) await host.removeFile(file.name);
    throw error;
  }
}

/** A folder in a folder. */
export function inside(folder: Folder, name: string): Folder {
  return {
    write: (file, content) => folder.write(`${name}/${file}`, content),
    stream: (file, fill) => folder.stream(`${name}/${file}`, fill),
  };
}

/** A small file. */
export async function writeFile(
  host: RunHost,
  name: string,
  content: Uint8Array | string | object,
): Promise<NamedFile> {
  const { written } = await streamFile(host, name, (sink) => sink.write(bytesOf(content)));
  return written;
}

async function streamFile<T>(
  host: RunHost,
  name: string,
  fill: (sink: ByteSink) => Promise<T>,
): Promise<{ written: NamedFile; result: T }> {
  goOn(host);
  host.onEvent({ type: "exporting", name });
  const file = await host.openFile(name);
  try {
    const result = await fill(stoppable(file, host));
    return { written: { name, ...(await file.close()) }, result };
  } catch (error) {
    await file.abort();
    throw error;
  }
}

const ASKED_EVERY_BYTES = 16 * 2 ** 20;

/** Asks while large files are written, too, whether to stop. */
function stoppable(file: ByteSink, host: RunHost): ByteSink {
  let sinceAsked = 0;
  return {
    async write(bytes) {
      await file.write(bytes);
      sinceAsked += bytes.byteLength;
      if (sinceAsked < ASKED_EVERY_BYTES) return;
      sinceAsked = 0;
      await nextTask(); // The page's message comes in between.
      goOn(host);
    },
  };
}

function goOn(host: RunHost): void {
  if (host.stopping()) throw new Stopped();
}

function bytesOf(content: Uint8Array | string | object): Uint8Array {
  if (content instanceof Uint8Array) return content;
  return new TextEncoder().encode(typeof content === "string" ? content : `${JSON.stringify(content, null, 2)}\n`);
}

function checksums(folder: string, files: NamedFile[]): string {
  return files.map(({ name, sha256 }) => `${sha256}  ${name.slice(folder.length + 1)}\n`).join("");
}
