// Base models as they lie beside the page, under models/NAME/.

import { sourceOf } from "../src/formats/bytes.ts";
import { NOTHING_BESIDE } from "../src/formats/checkpoint.ts";
import { openSafetensors } from "../src/formats/safetensors.ts";
import type { ModelFiles } from "../src/recipes/host.ts";
import { Failure } from "../src/storage/failure.ts";
import { sha256 } from "../src/storage/files.ts";

/** Where the page is served: workers lie one folder below it, in assets/ when built and in workers/ when not. */
export const siteUrl = (): URL => new URL("../", self.location.href);

const folderOf = (name: string, site: URL): URL => new URL(`models/${encodeURIComponent(name)}/`, site);

/** Rejects with a sentence that names the file which is not to be had. */
export async function readBaseModel(name: string, site: URL): Promise<ModelFiles> {
  const folder = folderOf(name, site);
  const config = await json(folder, "config.json"); // First and alone: where there is no model, nothing large is asked for.
  const [tokenizer, tokenizerConfig, card, bytes] = await Promise.all([
    json(folder, "tokenizer.json"),
    json(folder, "tokenizer_config.json"),
    get(folder, "README.md").then(
      (response) => response.text(),
      () => null, // It can do without.
    ),
    get(folder, "model.safetensors").then(async (response) => new Uint8Array(await response.arrayBuffer())),
  ]);
  const weights = openSafetensors([sourceOf(bytes, "model.safetensors")]);
  const source = { name: "model.safetensors", sizeBytes: bytes.length };
  return {
    ...NOTHING_BESIDE,
    config,
    tokenizer,
    tokenizerConfig,
    card,
    weights,
    sources: async () => [{ ...source, sha256: await sha256(bytes) }],
  };
}

/** Its config.json alone. */
export const readBaseConfig = (name: string, site: URL): Promise<unknown> => json(folderOf(name, site), "config.json");

async function json(folder: URL, name: string): Promise<unknown> {
  const response = await get(folder, name);
  try {
    return await response.json();
  } catch {
    throw new Failure("input", `${shown(folder, name)} was to be JSON and is not. Put the model's own file there.`);
  }
}

async function get(folder: URL, name: string): Promise<Response> {
  const response = await fetch(new URL(name, folder)).catch((error: Error) => error);
  const problem = problemOf(response);
  if (response instanceof Response && problem === null) return response;
  throw new Failure(
    "missing",
    `The base model's file ${shown(folder, name)} cannot be read (${problem}). Serve Espalier together with its models folder, then reload.`,
  );
}

function problemOf(response: Response | Error): string | null {
  if (response instanceof Error) return response.message;
  if (!response.ok) return `the server answers ${response.status}`;
  // Some servers answer with their start page instead of a 404.
  return response.headers.get("content-type")?.startsWith("text/html") ? "the server answers with a web page" : null;
}

const shown = (folder: URL, name: string) => `${folder.pathname.split("/").slice(-3).join("/")}${name}`;
