// Files from the browser's storage to the person's disk, without passing through the page's memory.

type DirectoryPicker = (options: { mode: "readwrite" }) => Promise<FileSystemDirectoryHandle>;

const picker = (): DirectoryPicker | undefined =>
  (globalThis as { showDirectoryPicker?: DirectoryPicker }).showDirectoryPicker?.bind(globalThis);

/** Whether this browser can write into a folder that the person chooses. */
export const canSaveFolder = (): boolean => picker() !== undefined;

/** Hand `file` to the browser's downloads under the last part of `name`. */
export function download(file: File, name: string): void {
  const url = URL.createObjectURL(file);
  const link = document.createElement("a");
  link.href = url;
  link.download = name.split("/").at(-1) ?? name;
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(url), 60_000); // By then the browser has opened it.
}

/** Write files into a folder that the person chooses, "/" in a name being a folder in it. False if they chose none. */
export async function saveFolder(names: string[], file: (name: string) => Promise<File>): Promise<boolean> {
  let folder: FileSystemDirectoryHandle;
  try {
    folder = await (picker() as DirectoryPicker)({ mode: "readwrite" });
  } catch (error) {
    if ((error as Error).name === "AbortError") return false;
    throw error;
  }
  for (const name of names) {
    const parts = name.split("/");
    const last = parts.pop() as string;
    let into = folder;
    for (const part of parts) into = await into.getDirectoryHandle(part, { create: true });
    const writable = await (await into.getFileHandle(last, { create: true })).createWritable();
    await (await file(name)).stream().pipeTo(writable);
  }
  return true;
}
