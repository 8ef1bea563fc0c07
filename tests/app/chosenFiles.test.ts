import { expect, it } from "vitest";
import { chosenModel, droppedFiles } from "../../src/app/chosenFiles.ts";

const placed = (...paths: string[]) =>
  paths.map((path) => ({ path, file: new File([path], path.split("/").at(-1) as string) }));

const pathsOf = async (files: File[]) => Promise.all(files.map((file) => file.text()));

it.each([
  ["a folder", ["m/config.json", "m/model.safetensors"], "m", ["m/config.json", "m/model.safetensors"]],
  ["a folder with others in it", ["m/config.json", "m/onnx/config.json", "m/original/x.pth"], "m", ["m/config.json"]],
  ["a folder around one", ["all/x.txt", "all/m/config.json", "all/m/a.bin"], "m", ["all/m/config.json", "all/m/a.bin"]],
  ["loose files", ["config.json", "model.safetensors"], "model", ["config.json", "model.safetensors"]],
  ["one .gguf", ["Qwen2.5-Q8_0.gguf"], "Qwen2.5-Q8_0", ["Qwen2.5-Q8_0.gguf"]],
  ["a folder that holds none", ["m/a.bin", "m/b/c.bin"], "m", ["m/a.bin"]],
])("takes of %s the uppermost checkpoint", async (_, paths, name, wanted) => {
  const chosen = chosenModel(placed(...paths));
  expect(chosen.name).toBe(name);
  expect(await pathsOf(chosen.files)).toEqual(wanted);
});

// ---- As a browser hands over what was dropped.

type Tree = { [name: string]: Tree | null };

let folders = 0;

/** An entry of the tree; a folder comes in pieces of two. */
function entryOf(name: string, tree: Tree | null, at = ""): FileSystemEntry {
  const fullPath = `${at}/${name}`;
  if (tree === null) {
    const file = (done: (file: File) => void) => done(new File([fullPath], name));
    return { name, fullPath, isFile: true, isDirectory: false, file } as unknown as FileSystemEntry;
  }
  const createReader = () => {
    folders += 1;
    const left = Object.entries(tree).map(([child, below]) => entryOf(child, below, fullPath));
    return { readEntries: (done: (entries: FileSystemEntry[]) => void) => done(left.splice(0, 2)) };
  };
  return { name, fullPath, isFile: false, isDirectory: true, createReader } as unknown as FileSystemEntry;
}

const itemOf = (name: string, tree: Tree | null) =>
  ({ webkitGetAsEntry: () => entryOf(name, tree), getAsFile: () => null }) as unknown as DataTransferItem;

it("reads a dropped folder whole, and no further than to the checkpoint in it", async () => {
  const deep = { "config.json": null, "a.safetensors": null, "b.safetensors": null, below: { "c.txt": null } };
  folders = 0;
  const files = await droppedFiles([itemOf("models", { "README.md": null, m: deep })]);
  expect(files.map(({ path }) => path)).toEqual([
    "models/README.md",
    "models/m/config.json",
    "models/m/a.safetensors",
    "models/m/b.safetensors",
  ]);
  expect(folders).toBe(2);
  expect(chosenModel(files)).toMatchObject({ name: "m", files: { length: 3 } });
});

it("gives up on folders in folders in folders", async () => {
  const nested = Array.from({ length: 40 }).reduce<Tree>((below) => ({ below }), { "config.json": null });
  expect(await droppedFiles([itemOf("m", nested)])).toEqual([]);
});

it("takes a file that is no entry as it is", async () => {
  const file = new File(["x"], "m.gguf");
  const item = { webkitGetAsEntry: () => null, getAsFile: () => file } as unknown as DataTransferItem;
  expect(await droppedFiles([item])).toEqual([{ file, path: "m.gguf" }]);
});
