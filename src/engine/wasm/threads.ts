// The threads beside ours. Each instantiates the kernels on our memory and waits there for pieces of work
// (assembly/threads.ts); no message is passed after the start.

/** What a thread needs to begin. */
export interface ThreadWork {
  module: WebAssembly.Module;
  memory: WebAssembly.Memory;
  /** Its own memory for packing, and the table of work. */
  packing: number;
  table: number;
}

/** Where threads come from: a page and Node each have their own. */
export interface ThreadHost {
  /** Threads that should compute, ours among them. */
  count: number;
  /** Start one, to call `kernelThread`. Resolves when it is ready. */
  start: (work: ThreadWork) => Promise<void>;
}

const MOST_THREADS = 8; // More do not make products of our sizes faster.

/** Threads for a machine of so many processors. */
export function threadsFor(processors: number): number {
  return Math.max(1, Math.min(MOST_THREADS, processors));
}

interface ThreadKernels {
  bindGemm(packing: number): void;
  serve(table: number): void;
}

/** A thread's whole life. Its text goes to threads on its own, so it refers to nothing around it. */
export function kernelThread({ module, memory, packing, table }: ThreadWork, ready: () => void): void {
  const { exports } = new WebAssembly.Instance(module, { env: { memory } });
  const kernels = exports as unknown as ThreadKernels;
  kernels.bindGemm(packing);
  ready();
  setTimeout(() => kernels.serve(table)); // Once it serves, it never looks at a message again.
}
