// Where tensors lie on the GPU, apart from the backend, which is large: whoever only asks need not load it.

import type { Kernel } from "./launch.ts";

/** A part of a GPU buffer as a tensor's home, where a tensor is not alone in its buffer. */
export class BufferRange {
  constructor(
    readonly buffer: GPUBuffer,
    readonly offset: number,
    readonly size: number,
    /** Told when the tensor is disposed of. */
    readonly released: () => void = () => {},
  ) {}
}

/** The home of an intermediate result of a recording: a buffer that is found for it when all is recorded. */
export class PlannedBuffer {
  home: BufferRange | null = null;
  constructor(readonly size: number) {}
}

/** What a tensor's content lies in. */
export type Resource = GPUBuffer | BufferRange | PlannedBuffer;

/** A launch that is noted and not done. */
export interface NotedLaunch {
  kernel: Kernel;
  /** Of the tensors read, then of those written. */
  resources: Resource[];
  types: string[];
  workgroups: [number, number];
  /** Tensors written that are not the recording's own. */
  changed: object[];
}

/** Where a resource lies that is there already. */
export function rangeOf(resource: Resource): { buffer: GPUBuffer; offset: number; size: number } {
  if (resource instanceof PlannedBuffer) {
    if (!resource.home) throw new Error("an intermediate result of a recording was used outside of it");
    return resource.home;
  }
  return resource instanceof BufferRange ? resource : { buffer: resource, offset: 0, size: resource.size };
}
