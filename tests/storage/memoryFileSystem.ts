// The browser's private file system in memory, as far as src/storage uses it, with Chromium's way of saying that the quota
// is reached: write() returns 4294967288 and throws nothing.

import type { SyncAccessHandle } from "../../src/storage/files.ts";

const QUOTA_REACHED = 4294967288;

class Disk {
  usedBytes = 0;
  capacityBytes: number;
  constructor(capacityBytes: number) {
    this.capacityBytes = capacityBytes;
  }
}

class MemoryFile {
  readonly kind = "file";
  readonly name: string;
  bytes = new Uint8Array();
  #disk: Disk;
  #open = false;

  constructor(name: string, disk: Disk) {
    this.name = name;
    this.#disk = disk;
  }

  getFile(): Promise<File> {
    return Promise.resolve(new File([this.bytes], this.name));
  }

  createSyncAccessHandle(): Promise<SyncAccessHandle> {
    if (this.#open) return Promise.reject(new DOMException("in use", "NoModificationAllowedError"));
    this.#open = true;
    return Promise.resolve({
      read: (into, { at = 0 } = {}) => {
        const part = this.bytes.subarray(at, at + into.byteLength);
        into.set(part);
        return part.byteLength;
      },
      write: (bytes, { at = 0 } = {}) => {
        const size = Math.max(this.bytes.byteLength, at + bytes.byteLength);
        if (!this.resize(size)) return QUOTA_REACHED;
        this.bytes.set(bytes, at);
        return bytes.byteLength;
      },
      truncate: (sizeBytes) => {
        if (!this.resize(sizeBytes)) throw new DOMException("full", "QuotaExceededError");
      },
      flush: () => {},
      getSize: () => this.bytes.byteLength,
      close: () => {
        this.#open = false;
      },
    });
  }

  resize(sizeBytes: number): boolean {
    const growth = sizeBytes - this.bytes.byteLength;
    if (this.#disk.usedBytes + growth > this.#disk.capacityBytes) return false;
    this.#disk.usedBytes += growth;
    const bytes = new Uint8Array(sizeBytes);
    bytes.set(this.bytes.subarray(0, sizeBytes));
    this.bytes = bytes;
    return true;
  }
}

class MemoryFolder {
  readonly kind = "directory";
  readonly name: string;
  readonly entries = new Map<string, MemoryFile | MemoryFolder>();
  #disk: Disk;

  constructor(name: string, disk: Disk) {
    this.name = name;
    this.#disk = disk;
  }

  getDirectoryHandle(name: string, { create = false } = {}): Promise<MemoryFolder> {
    return this.#get(name, create, () => new MemoryFolder(name, this.#disk), "directory") as Promise<MemoryFolder>;
  }

  getFileHandle(name: string, { create = false } = {}): Promise<MemoryFile> {
    return this.#get(name, create, () => new MemoryFile(name, this.#disk), "file") as Promise<MemoryFile>;
  }

  removeEntry(name: string): Promise<void> {
    const entry = this.entries.get(name);
    if (!entry) return Promise.reject(new DOMException("not there", "NotFoundError"));
    if (entry instanceof MemoryFile) entry.resize(0);
    else for (const child of entry.entries.keys()) void entry.removeEntry(child);
    this.entries.delete(name);
    return Promise.resolve();
  }

  #get(name: string, create: boolean, make: () => MemoryFile | MemoryFolder, kind: string) {
    const found = this.entries.get(name);
    if (found) {
      return found.kind === kind ? Promise.resolve(found) : Promise.reject(new DOMException("", "TypeMismatchError"));
    }
    if (!create) return Promise.reject(new DOMException("not there", "NotFoundError"));
    const made = make();
    this.entries.set(name, made);
    return Promise.resolve(made);
  }
}

export interface MemoryFileSystem {
  root: FileSystemDirectoryHandle;
  disk: Disk;
  /** The stored bytes themselves, to damage them. */
  peek(path: string): MemoryFile;
}

export function memoryFileSystem(capacityBytes = Number.POSITIVE_INFINITY): MemoryFileSystem {
  const disk = new Disk(capacityBytes);
  const root = new MemoryFolder("", disk);
  return {
    root: root as unknown as FileSystemDirectoryHandle,
    disk,
    peek(path) {
      let entry: MemoryFile | MemoryFolder | undefined = root;
      for (const part of path.split("/")) entry = entry instanceof MemoryFolder ? entry.entries.get(part) : undefined;
      if (!(entry instanceof MemoryFile)) throw new Error(`${path} is no file`);
      return entry;
    },
  };
}
