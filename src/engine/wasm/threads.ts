// The threads beside ours. Each instantiates the kernels on our memory and waits there for pieces of work
// (assembly/threads.ts); no message is passed after the start. One that ends is missed, but not needed.

/** What a thread needs to begin. */
export interface ThreadWork {
  module: WebAssembly.Module;
  memory: WebAssembly.Memory;
  /** Its own memory, the table of work, and its number there. */
  own: number;
  table: number;
  number: number;
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

/** A thread ended in the middle of a change that cannot be made again. */
export class ThreadLostError extends Error {
  override name = "ThreadLostError";
}

interface ThreadKernels {
  bindOwn(own: number): void;
  serve(table: number, number: number): void;
  abandon(): void;
}

/** A thread's whole life. Its text goes to threads on its own, so it refers to nothing around it. */
export function kernelThread({ module, memory, own, table, number }: ThreadWork, ready: () => void): void {
  const pieceLost = () => {}; // Only the thread that has the work misses one.
  const { exports } = new WebAssembly.Instance(module, { env: { memory }, threads: { pieceLost } });
  const kernels = exports as unknown as ThreadKernels;
  kernels.bindOwn(own);
  ready();
  // Once it serves, it never looks at a message again.
  setTimeout(() => {
    try {
      kernels.serve(table, number);
    } catch (error) {
      kernels.abandon();
      throw error;
    }
  });
}
