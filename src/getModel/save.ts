// Files from the browser's storage to the person's disk, without passing through the page's memory.

type DirectoryPicker = (options: { mode: "readwrite" }) => Promise<FileSystemDirectoryHandle>;

const picker = (): DirectoryPicker | undefined =>
  (globalThis as { showDirectoryPicker?: DirectoryPicker }).showDirectoryPicker?.bind(globalThis);

/** Whether this browser can write into a folder that the person chooses. */
export const canSaveFolder = (): boolean => picker() !== undefined;

/** Hand `file` to the browser's downloads. */
export function download(file: File, name: string): void {
  const url = URL.createObjectURL(file);
  const link = document.createElement("a");
  link.href = url;
  link.download = name;
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(url), 60_000); // By then the browser has opened it.
}

/** Write files into a new folder within one that the person chooses. False if they chose none. */
export async function saveFolder(
  folder: string,
  names: string[],
  file: (name: string) => Promise<File>,
  onFile: (name: string) => void,
): Promise<boolean> {
  let chosen: FileSystemDirectoryHandle;
  try {
    chosen = await (picker() as DirectoryPicker)({ mode: "readwrite" });
  } catch (error) {
    if ((error as Error).name === "AbortError") return false;
    throw error;
  }
  const into = await chosen.getDirectoryHandle(folder, { create: true });
  for (const name of names) {
    onFile(name);
    // Nothing shows under the name before it is all there: the stream is closed at its end, or thrown away.
    const writable = await (await into.getFileHandle(name, { create: true })).createWritable();
    await (await file(name)).stream().pipeTo(writable);
  }
  return true;
}
