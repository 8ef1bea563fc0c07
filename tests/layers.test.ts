// The law of the house: which folder may import what. The table is the one that the architecture was agreed on with.

import { readdirSync, readFileSync, statSync } from "node:fs";
import { dirname, join, posix, resolve } from "node:path";
import { describe, expect, it } from "vitest";
import type { Import } from "./imports.ts";
import { importsOf } from "./imports.ts";

const base = ["engine", "formats", "protocol"];
const trained = ["engine", "formats", "models", "data", "protocol"];
const onTraining = ["training", ...trained];
const parts = ["models", "data", "training", "loar", "cot", "sft", "evaluation", "privacy", "storage"];
const everything = [...base, ...parts, "recipes"];

/** Folder -> folders it may import, itself aside. */
const MAY_IMPORT: Record<string, string[]> = {
  engine: [],
  formats: [],
  protocol: [],
  models: base,
  data: ["formats", "protocol"],
  training: trained,
  loar: onTraining,
  cot: onTraining,
  sft: onTraining,
  evaluation: onTraining,
  privacy: ["formats", "protocol"],
  storage: ["formats", "protocol"],
  recipes: [...base, ...parts],
  workers: everything,
  cli: everything,
  app: ["protocol", "storage", "recipes"],
  getModel: ["formats"],
};

/** The page that talks to a hub sees nothing of what is private: of the storage only plain files and their errors. */
const GET_MODEL_MAY_IMPORT = ["src/storage/files.ts", "src/storage/failure.ts", "src/app/styles.css"];

const COMPUTES = ["engine", "models", "training", "loar", "evaluation"];

/** Package -> where it may be imported. */
const PACKAGES: [package_: RegExp, allowed: (file: string) => boolean, where: string][] = [
  [/^@tensorflow\//, (file) => folderOf(file) === "engine", "src/engine; others import src/engine/tf.ts"],
  [/^idb$/, (file) => folderOf(file) === "storage", "src/storage"],
  [
    /^comlink$/,
    (file) =>
      folderOf(file) === "workers" ||
      ["src/app/client.ts", "src/app/thread.ts", "src/getModel/client.ts"].includes(file) ||
      file === "src/getModel/getModel.worker.ts",
    "workers and the pages' clients",
  ],
  [/^preact|^@preact\//, (file) => ["app", "getModel"].includes(folderOf(file)), "the pages"],
  [/^uplot/, (file) => folderOf(file) === "app", "src/app"],
  [/^node:|^webgpu$/, (file) => folderOf(file) === "cli", "src/cli"],
];

const root = resolve(import.meta.dirname, "..");
const ASSEMBLY = "src/engine/wasm/assembly/"; // A language of its own, compiled apart.
const sources = [...filesUnder("src"), ...filesUnder("workers")].filter(
  (file) => /\.tsx?$/.test(file) && !file.startsWith(ASSEMBLY),
);
const imports = new Map(sources.map((file) => [file, importsOf(readFileSync(join(root, file), "utf8"), langOf(file))]));

/** Paths below `folder`, from the root, with forward slashes. */
function filesUnder(folder: string): string[] {
  return readdirSync(join(root, folder))
    .map((name) => posix.join(folder, name))
    .flatMap((path) => (statSync(join(root, path)).isDirectory() ? filesUnder(path) : [path]));
}

function langOf(file: string): "ts" | "tsx" {
  return file.endsWith("x") ? "tsx" : "ts";
}

/** "src/engine/ops/rmsNorm.ts" -> "engine", "workers/gpu.worker.ts" -> "workers". */
function folderOf(file: string): string {
  const [first, second] = file.split("/");
  return first === "src" ? second : first;
}

/** The file that a relative import names, or null for a package. */
function target(file: string, { specifier }: Import): string | null {
  if (!specifier.startsWith(".")) return null;
  return posix.join(dirname(file), specifier.split("?", 1)[0]);
}

/** One line per import for which `wrong` gives a reason. */
function complaints(wrong: (file: string, to: string | null, imported: Import) => string | null): string[] {
  return [...imports].flatMap(([file, list]) =>
    list.flatMap((imported) => {
      const reason = wrong(file, target(file, imported), imported);
      return reason === null ? [] : [`${file} imports ${imported.specifier}: ${reason}`];
    }),
  );
}

describe("every import of src and workers", () => {
  it("is seen: static, dynamic, in types, passed on, by URL", () => {
    const code = `
      import "a"; import b from "b"; import type { C } from "c"; import { type D } from "d"; export * from "./e.ts";
      const f = import("f"); type G = import("g").G; new Worker(new URL("../h.ts", import.meta.url)); const i = <b>{b}</b>;`;
    expect(importsOf(code, "tsx").map(({ specifier, typeOnly }) => [specifier, typeOnly])).toEqual([
      ["a", false],
      ["b", false],
      ["c", true],
      ["d", true],
      ["./e.ts", false],
      ["f", false],
      ["g", true],
      ["../h.ts", false],
    ]);
  });

  it("goes down the layers", () => {
    expect(
      complaints((file, to) => {
        if (to === null) return null;
        const [from, into] = [folderOf(file), folderOf(to)];
        if (from === into || to === "package.json") return null;
        if (from === "app" && into === "workers") return null; // The next test looks at these.
        if (from === "getModel" && GET_MODEL_MAY_IMPORT.includes(to)) return null;
        return MAY_IMPORT[from]?.includes(into) ? null : `${from} may not import ${into}`;
      }),
    ).toEqual([]);
  });

  it("lets the page that talks to a hub reach no database, not even by others", () => {
    const found = sources.filter((file) => folderOf(file) === "getModel" && reaches(file, isDatabase));
    expect(found).toEqual([]);
    expect(reaches("src/app/main.tsx", isDatabase)).toBe(true); // So it would be found.
  });

  it("brings into the page no worker but its type and its address, and no recipe that computes", () => {
    expect(
      complaints((file, to, { specifier, typeOnly }) => {
        if (to === null || folderOf(file) !== "app" || typeOnly) return null;
        if (folderOf(to) === "workers" && !specifier.endsWith("?worker&url"))
          return "that loads the worker into the page";
        return folderOf(to) === "recipes" && reaches(to, isEngine) ? "that loads the engine into the page" : null;
      }),
    ).toEqual([]);
  });

  it("takes packages where they belong", () => {
    expect(
      complaints((file, _, { specifier }) => {
        if (specifier.endsWith("?url")) return null; // The address of a file, nothing of what it holds.
        const rule = PACKAGES.find(([name]) => name.test(specifier));
        return rule && !rule[1](file) ? `it belongs in ${rule[2]}` : null;
      }),
    ).toEqual([]);
  });

  it("takes TensorFlow.js only where something is computed", () => {
    expect(
      complaints((file, to) => {
        return to === "src/engine/tf.ts" && !COMPUTES.includes(folderOf(file))
          ? `only ${COMPUTES.join(", ")} may`
          : null;
      }),
    ).toEqual([]);
  });

  it("names the file that defines the thing, with its extension", () => {
    expect(
      complaints((_, to, { reExport }) => {
        if (to === null) return null;
        if (reExport) return "no file passes on what another one defines";
        return /\.(tsx?|mjs|css|json|wasm)$/.test(to) ? null : "the extension is missing";
      }),
    ).toEqual([]);
  });
});

it("keeps the assembly's imports within its folder", () => {
  const specifiers = filesUnder(ASSEMBLY).flatMap((file) => {
    return [...readFileSync(join(root, file), "utf8").matchAll(/\bfrom\s+"([^"]+)"/g)].map(
      ([, specifier]) => specifier,
    );
  });
  expect(specifiers.filter((specifier) => !/^\.\/\w+$/.test(specifier))).toEqual([]);
});

const isEngine = (file: string) => folderOf(file) === "engine";
const isDatabase = (file: string) => file === "src/storage/database.ts";

/** Whether loading `file` also loads one that `isSought`. */
function reaches(file: string, isSought: (file: string) => boolean, seen = new Set<string>()): boolean {
  if (seen.has(file)) return false;
  seen.add(file);
  if (isSought(file)) return true;
  return (imports.get(file) ?? []).some((imported) => {
    const to = target(file, imported);
    return to !== null && !imported.typeOnly && reaches(to, isSought, seen);
  });
}

describe("the folders of src", () => {
  it("are those of the table", () => {
    const found = new Set(sources.map(folderOf));
    expect([...found].filter((folder) => !(folder in MAY_IMPORT))).toEqual([]);
  });
});

describe("what we write", () => {
  const written = ["src", "workers", "tests", "docs", ".ci"]
    .flatMap(filesUnder)
    .concat(readdirSync(root).filter((name) => /\.(json|ts|md|html)$/.test(name)))
    .filter((file) => /\.(tsx?|mjs|md|json|html|css)$|^\.ci\//.test(file))
    .filter((file) => !/^tests\/(fixtures|artefacts)\/|^package-lock\.json$/.test(file));

  it("names no path of one machine", () => {
    const machinePath = /(?<![\w.)}])\/(work|farm|home|root|tmp|Users)\/\w/;
    const found = written.filter((file) => machinePath.test(readFileSync(join(root, file), "utf8")));
    expect(found).toEqual([]);
  });
});
