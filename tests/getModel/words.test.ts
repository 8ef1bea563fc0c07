import { readdirSync, readFileSync } from "node:fs";
import { describe, expect, it } from "vitest";
import { en, type Messages } from "../../src/getModel/en.ts";
import type { Trouble } from "../../src/getModel/trouble.ts";
import { zh } from "../../src/getModel/zh.ts";

const troubles: Trouble[] = [
  { kind: "notARepository", text: "what was typed" },
  { kind: "unreachable", what: "a/b@main" },
  { kind: "notFound", what: "a/b@main" },
  { kind: "gated", what: "a/b@main" },
  { kind: "status", what: "a/b@main", status: 418 },
  { kind: "notUnderstood", what: "a/b@main" },
  { kind: "nothingToFetch", repository: "a/b@main" },
  { kind: "notAsPinned", path: "model.safetensors", wanted: "12ab", found: "34cd" },
  { kind: "wrongSize", path: "model.safetensors", wantedBytes: 1234 },
  { kind: "wrongChecksum", path: "model.safetensors", wanted: "12ab", found: "34cd" },
  { kind: "noRoom", neededBytes: 1234, freeBytes: 567 },
  { kind: "storage", message: "The storage says why." },
];

/** Every message with its path; those that take words are given recognisable ones. */
function said(words: object, path = ""): [string, string][] {
  return Object.entries(words).flatMap(([key, value]: [string, unknown]): [string, string][] => {
    const at = `${path}.${key}`;
    if (at === ".trouble" || at === ".checksum") return [];
    if (typeof value === "function") return [[at, String(value("word0", "word1"))]];
    return value && typeof value === "object" ? said(value, at) : [[at, value as string]];
  });
}

describe.each([
  ["English", en],
  ["Chinese", zh],
] as [string, Messages][])("the %s words", (_, t) => {
  it.each(troubles.map((trouble) => [trouble.kind, trouble] as const))("of %s say all there is to it", (_, trouble) => {
    const sentence = t.trouble(trouble, (bytes) => `${bytes} bytes`);
    for (const [name, value] of Object.entries(trouble)) if (name !== "kind") expect(sentence).toContain(String(value));
    expect(sentence).toMatch(/[.。]$/);
  });

  it("are none of them empty, and say who says what a file should be", () => {
    for (const [path, text] of said(t)) expect(text, path).not.toBe("");
    const checksums = [
      t.checksum({ algorithm: "sha256", hex: "", saidBy: "page" }),
      t.checksum({ algorithm: "sha256", hex: "", saidBy: "hub" }),
      t.checksum({ algorithm: "git", hex: "", saidBy: "hub" }),
    ];
    expect(new Set(checksums).size).toBe(3);
  });
});

it("leaves nothing in English for Chinese readers", () => {
  const english = new Map(said(en));
  expect(said(zh).filter(([path, text]) => english.get(path) === text)).toEqual([]);
});

it("has no words on the page but those", () => {
  const files = readdirSync("src/getModel").filter((name) => name.endsWith(".tsx"));
  const written = files.flatMap((file) =>
    [
      ...readFileSync(`src/getModel/${file}`, "utf8").matchAll(
        /(?:>|^)\s*([A-Z][a-z]+(?: [a-z]+)*)\s*<\/|(?:aria-label|title|placeholder|label)="([^"]+)"/gm,
      ),
    ].map((match) => `${file}: ${match[1] ?? match[2]}`),
  );
  expect(files.length).toBeGreaterThan(3);
  expect(written).toEqual([]);
});
