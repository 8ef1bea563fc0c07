// Files as a person hands them over: chosen one by one, as a folder, or dropped; and those of them that are one checkpoint.

export interface PlacedFile {
  file: File;
  /** Folders and name, "/" between them. */
  path: string;
}

/** The files of one checkpoint, and a name for it: its folder's. */
export interface ChosenModel {
  name: string;
  files: File[];
}

/** Folders below folders are looked through no further than this, nor for more files than this. */
const DEEPEST = 5;
const MOST_FILES = 10_000;

export const listedFiles = (list: FileList): PlacedFile[] =>
  [...list].map((file) => ({ file, path: file.webkitRelativePath || file.name }));

/** What was dropped. To be called while the event is handled: the items are gone afterwards. */
export function droppedFiles(items: Iterable<DataTransferItem>): Promise<PlacedFile[]> {
  const entries: FileSystemEntry[] = [];
  const found: PlacedFile[] = [];
  for (const item of items) {
    const entry = item.webkitGetAsEntry();
    const file = entry ? null : item.getAsFile();
    if (entry) entries.push(entry);
    if (file) found.push({ file, path: file.name });
  }
  return filesBelow(entries, found);
}

/** Level by level, as far as the first that holds a checkpoint. */
async function filesBelow(entries: FileSystemEntry[], found: PlacedFile[]): Promise<PlacedFile[]> {
  let level = entries;
  for (let depth = 0; depth <= DEEPEST && level.length > 0 && found.length < MOST_FILES; depth++) {
    found.push(...(await Promise.all(level.filter(isFile).map(placed))));
    if (found.some(isHead)) break;
    level = (await Promise.all(level.filter(isFolder).map(entriesOf))).flat();
  }
  return found;
}

/** The checkpoint in the uppermost folder that holds one; where none does, what lies uppermost. */
export function chosenModel(placed: PlacedFile[]): ChosenModel {
  const heads = placed.filter(isHead);
  const [top] = (heads.length > 0 ? heads : placed).map(folderOf).toSorted((a, b) => a.length - b.length);
  const files = placed.filter((one) => folderOf(one).join("/") === top?.join("/")).map(({ file }) => file);
  const gguf = files.find(({ name }) => /\.gguf$/i.test(name));
  return { name: top?.at(-1) ?? gguf?.name.slice(0, -".gguf".length) ?? "model", files };
}

/** A checkpoint has a config.json, or is one .gguf. */
const isHead = ({ file: { name } }: PlacedFile): boolean => name === "config.json" || /\.gguf$/i.test(name);

const folderOf = ({ path }: PlacedFile): string[] => path.split("/").slice(0, -1);

const isFile = (entry: FileSystemEntry): entry is FileSystemFileEntry => entry.isFile;
const isFolder = (entry: FileSystemEntry): entry is FileSystemDirectoryEntry => entry.isDirectory;

async function placed(entry: FileSystemFileEntry): Promise<PlacedFile> {
  const file = await new Promise<File>((resolve, reject) => entry.file(resolve, reject));
  return { file, path: entry.fullPath.replace(/^\//, "") };
}

/** A reader hands out a folder in pieces; an empty one is the last. */
async function entriesOf(folder: FileSystemDirectoryEntry): Promise<FileSystemEntry[]> {
  const reader = folder.createReader();
  const all: FileSystemEntry[] = [];
  for (;;) {
    const some = await new Promise<FileSystemEntry[]>((resolve, reject) => reader.readEntries(resolve, reject));
    if (some.length === 0) return all;
    all.push(...some);
  }
}
