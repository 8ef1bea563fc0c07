// The hub's own interface: which files a repository has at a revision, and what they should be.

import * as v from "valibot";
import { PINNED_MODELS } from "./pinned.ts";
import { broken, type Patience, patiently, request } from "./request.ts";
import { Troubled } from "./trouble.ts";

export const HUB = "https://huggingface.co";

export const ChecksumSchema = v.object({
  /** "git": SHA-1 over the file as git stores it, which the hub has for what is not in its large file storage. */
  algorithm: v.picklist(["sha256", "git"]),
  hex: v.pipe(v.string(), v.regex(/^[0-9a-f]{40,64}$/)),
  /** Who says so: this page, or the hub itself. */
  saidBy: v.picklist(["page", "hub"]),
});
export type Checksum = v.InferOutput<typeof ChecksumSchema>;

const NAME = "[A-Za-z0-9][\\w.-]{0,95}";
const REPOSITORY = new RegExp(`^(${NAME}/${NAME})(?:@([\\w./-]{1,100}))?$`);
const COMMIT = /^[0-9a-f]{40}$/;

/** What Espalier reads of a checkpoint, and its licence and card. Names only: a path with folders is something else. */
const WANTED =
  /^(?:(?:config|generation_config|tokenizer|tokenizer_config|chat_template|model\.safetensors\.index)\.json|chat_template\.jinja|[A-Za-z0-9][\w.-]*\.(?:safetensors|gguf)|LICEN[CS]E[\w.-]*|README\.md)$/;

const sizeSchema = v.pipe(v.number(), v.safeInteger(), v.minValue(0));
export const HubFileSchema = v.object({
  path: v.pipe(v.string(), v.regex(WANTED)),
  sizeBytes: sizeSchema,
  checksum: ChecksumSchema,
});
export type HubFile = v.InferOutput<typeof HubFileSchema>;
export const RepositorySchema = v.pipe(v.string(), v.regex(new RegExp(`^${NAME}/${NAME}$`)));
export const CommitSchema = v.pipe(v.string(), v.regex(COMMIT));

/** A repository at one commit. */
export interface Snapshot {
  repository: string;
  commit: string;
  /** What Espalier can read of it, and what says whose it is. */
  files: HubFile[];
}

const InfoSchema = v.object({ sha: CommitSchema });
const sha256Schema = v.pipe(v.string(), v.regex(/^[0-9a-f]{64}$/));
const EntrySchema = v.object({
  type: v.string(),
  path: v.string(),
  size: sizeSchema,
  oid: CommitSchema,
  lfs: v.optional(v.object({ oid: sha256Schema, size: sizeSchema })),
});

/** "owner/name@revision", also as the address of a repository. Without a revision: "main". */
export function readRepository(text: string): { repository: string; revision: string } {
  const [, repository, revision = "main"] = REPOSITORY.exec(text.trim().replace(`${HUB}/`, "")) ?? [];
  if (!repository || `${repository}@${revision}`.includes("..")) throw new Troubled({ kind: "notARepository", text });
  return { repository, revision };
}

/** Where a file lies. */
export function addressOf(hub: string, { repository, commit }: Pick<Snapshot, "repository" | "commit">, path: string) {
  return `${hub}/${repository}/resolve/${commit}/${encodeURIComponent(path)}`;
}

/** Ask the hub what there is. Rejects with a trouble. */
export async function listFiles(hub: string, text: string, patience: Patience): Promise<Snapshot> {
  const { repository, revision } = readRepository(text);
  const what = `${repository}@${revision}`;
  const api = `${hub}/api/models/${repository}`;
  const commit = COMMIT.test(revision)
    ? revision
    : (await ask(`${api}/revision/${encodeURIComponent(revision)}`, what, InfoSchema, patience)).value.sha;
  const files: HubFile[] = [];
  for (let url: string | null = `${api}/tree/${commit}`; url; ) {
    const page: Answer<v.InferOutput<typeof EntrySchema>[]> = await ask(url, what, v.array(EntrySchema), patience);
    files.push(...page.value.filter(({ type, path }) => type === "file" && WANTED.test(path)).map(fileOf));
    url = page.next === null ? null : sameHub(hub, page.next, what);
  }
  if (!files.some(({ path }) => /\.(?:safetensors|gguf)$/.test(path))) {
    throw new Troubled({ kind: "nothingToFetch", repository: what });
  }
  return { repository, commit, files: asPinned({ repository, commit, files }) };
}

function fileOf({ path, size, oid, lfs }: v.InferOutput<typeof EntrySchema>): HubFile {
  return lfs
    ? { path, sizeBytes: lfs.size, checksum: { algorithm: "sha256", hex: lfs.oid, saidBy: "hub" } }
    : { path, sizeBytes: size, checksum: { algorithm: "git", hex: oid, saidBy: "hub" } };
}

/** Where this page knows better, its checksums instead of the hub's. */
function asPinned({ repository, commit, files }: Snapshot): HubFile[] {
  const pinned = PINNED_MODELS.find((model) => model.repository === repository && model.commit === commit);
  return files.map((file) => {
    const hex = pinned?.sha256[file.path];
    if (!hex) return file;
    const { algorithm, hex: found } = file.checksum;
    if (algorithm === "sha256" && found !== hex) {
      throw new Troubled({ kind: "notAsPinned", path: file.path, wanted: hex, found });
    }
    return { ...file, checksum: { algorithm: "sha256", hex, saidBy: "page" } };
  });
}

interface Answer<T> {
  value: T;
  /** Where the rest of a list is. */
  next: string | null;
}

async function ask<T extends v.GenericSchema>(
  url: string,
  what: string,
  schema: T,
  patience: Patience,
): Promise<Answer<v.InferOutput<T>>> {
  return patiently(what, patience, () =>
    request(url, { what, accept: [200] }, patience, async (response) => {
      const text = await broken(() => response.text());
      const result = v.safeParse(schema, json(text));
      if (!result.success) throw new Troubled({ kind: "notUnderstood", what });
      const next = /<([^>]+)>;\s*rel="next"/.exec(response.headers.get("Link") ?? "")?.[1] ?? null;
      return { value: result.output, next };
    }),
  );
}

function json(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined; // No schema takes that.
  }
}

function sameHub(hub: string, url: string, what: string): string {
  if (!url.startsWith(`${hub}/`)) throw new Troubled({ kind: "notUnderstood", what });
  return url;
}
