// What the documents say about commands, fields and files, held against what is there.

import { existsSync, readdirSync, readFileSync } from "node:fs";
import { dirname, join } from "node:path";
import * as v from "valibot";
import { describe, expect, it } from "vitest";
import {
  ChainsStageSchema,
  ExportsSchema,
  PruneStageSchema,
  parseRecipe,
  type Recipe,
  RecipeSchema,
  RecoverStageSchema,
  ScoreStageSchema,
  SftStageSchema,
  StudySchema,
} from "../src/protocol/recipe.ts";
import { builtinRecipes } from "../src/recipes/builtin.ts";

const documents = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"].concat(
  readdirSync("docs")
    .filter((name) => name.endsWith(".md"))
    .map((name) => join("docs", name)),
);
const read = (file: string) => readFileSync(file, "utf8");

describe.each(documents)("%s", (file) => {
  it("links to files that are there", () => {
    const targets = [...read(file).matchAll(/\]\(([^)#]+)/g)].map(([, target]) => target);
    const local = targets.filter((target) => !target.includes("://"));
    expect(local.filter((target) => !existsSync(join(dirname(file), target)))).toEqual([]);
  });

  it("names scripts that npm knows", () => {
    const { scripts } = JSON.parse(read("package.json")) as { scripts: Record<string, string> };
    const named = [...read(file).matchAll(/npm (?:run )?([a-z][a-z:-]*)/g)].map(([, name]) => name);
    expect(named.filter((name) => name !== "install" && !(name in scripts))).toEqual([]);
  });

  it("names source files that are there", () => {
    const named = [...read(file).matchAll(/`((?:src|tests|public|workers)\/[\w./-]+\.\w+)`/g)].map(([, path]) => path);
    expect(named.filter((path) => !existsSync(path))).toEqual([]);
  });
});

describe("docs/recipes.md", () => {
  const text = read(join("docs", "recipes.md"));

  it("shows a recipe that can be run, with the stages of the built-in one", () => {
    const example = parseRecipe(JSON.parse(/```json\n([\s\S]*?)```/.exec(text)?.[1] ?? ""));
    const kinds = ({ stages }: Recipe) => stages.map(({ kind }) => kind);
    expect(kinds(example)).toEqual(kinds(builtinRecipes.hospital("quick")));
  });

  it("names every field of a recipe", () => {
    const schemas = [
      RecipeSchema,
      RecipeSchema.entries.evaluation,
      ExportsSchema,
      ...StudySchema.options,
      ScoreStageSchema,
      PruneStageSchema,
      RecoverStageSchema,
      ChainsStageSchema,
      ...SftStageSchema.options,
    ];
    const fields = new Set(schemas.flatMap((schema) => Object.keys(schema.entries)));
    expect([...fields].filter((field) => field !== "kind" && !text.includes(`\`${field}\``))).toEqual([]);
  });

  it("names every value that a field may have", () => {
    const kinds = builtinRecipes.hospital("full").stages.map(({ kind }) => kind);
    const values = [...kinds, ...ScoreStageSchema.entries.method.options, "lora", "unfreeze", "hospital", "imported"];
    expect(values.filter((value) => !text.includes(value))).toEqual([]);
    expect(v.is(RecipeSchema, builtinRecipes.hospital("full"))).toBe(true);
  });
});
