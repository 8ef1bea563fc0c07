// Recorded launches on WebGPU: buffers planned by when each is used, pipelines compiled ahead, bind groups and uniforms
// made once. A replay is one submit, so that a step which the GPU refuses leaves nothing half done.

import { withinMemory } from "./device.ts";
import type { GpuBackend } from "./gpuBackend.ts";
import { bufferId, compileAll, createBindGroup, fillUniforms, hasUniforms } from "./launch.ts";
import { BufferRange, type NotedLaunch, PlannedBuffer, rangeOf } from "./resources.ts";
import type * as tf from "./tf.ts";

export interface GpuRecording {
  launches: number;
  /** Bytes of the buffers that its intermediate results take. */
  bytes: () => number;
  /** Find buffers and compile. `outputs` keep their content from one replay to the next. */
  prepare: (outputs: tf.TensorInfo[]) => Promise<void>;
  replay: () => void;
  dispose: () => void;
}

interface Command {
  pipeline: GPUComputePipeline;
  bindGroup: GPUBindGroup;
  uniformOffsets: number[];
  workgroups: [number, number];
}

export function recordLaunches(backend: GpuBackend, noted: NotedLaunch[]): GpuRecording {
  const { device } = backend;
  let commands: Command[] = [];
  let uniforms: GPUBuffer | null = null;
  let bytes = 0;
  let outputIds: object[] = [];
  const pool = poolOf(backend);
  pool.users += 1;
  const changed = [...new Set(noted.flatMap((launch) => launch.changed))];

  async function prepare(outputs: tf.TensorInfo[]): Promise<void> {
    const compiled = await compileAll(noted);
    const kept = outputs.map((output) => backend.resourceOf(output));
    const { buffers } = pool;
    const before = buffers.length;
    try {
      await withinMemory(() => {
        bytes = planBuffers(backend, buffers, noted, kept);
        uniforms = uniformsOf(backend, noted);
      });
    } catch (error) {
      for (const buffer of buffers.splice(before)) buffer.destroy(); // Without memory they are of no use to others.
      throw error;
    }
    const groups = new Map<string, GPUBindGroup>();
    commands = noted.map(({ kernel, resources, workgroups }, i) => {
      const ranges = resources.map(rangeOf);
      const key = `${compiled[i].id}:${ranges.map(({ buffer, offset }) => `${bufferId(buffer)}+${offset}`).join()}`;
      const own = hasUniforms(kernel);
      const bindGroup = groups.get(key) ?? createBindGroup(backend, compiled[i], ranges, own ? uniforms : null);
      groups.set(key, bindGroup);
      const uniformOffsets = own ? [i * backend.uniformSlotBytes] : [];
      return { pipeline: compiled[i].pipeline, bindGroup, uniformOffsets, workgroups };
    });
    outputIds = outputs.map(({ dataId }) => dataId);
    for (const dataId of outputIds) {
      const data = backend.tensorMap.get(dataId);
      const { buffer, offset, size } = rangeOf(data.resource as unknown as PlannedBuffer);
      data.resource = new BufferRange(buffer, offset, size) as unknown as GPUBuffer;
    }
  }

  function replay(): void {
    backend.flush();
    const encoder = device.createCommandEncoder();
    const pass = encoder.beginComputePass();
    for (const { pipeline, bindGroup, uniformOffsets, workgroups } of commands) {
      pass.setPipeline(pipeline);
      pass.setBindGroup(0, bindGroup, uniformOffsets);
      pass.dispatchWorkgroups(workgroups[0], workgroups[1]);
    }
    pass.end();
    device.queue.submit([encoder.finish()]);
    for (const dataId of outputIds) backend.forgetCopy({ dataId } as tf.TensorInfo);
    for (const dataId of changed) backend.forgetCopy({ dataId } as tf.TensorInfo);
  }

  function dispose(): void {
    uniforms?.destroy();
    commands = [];
    pool.users -= 1;
    if (pool.users > 0) return;
    for (const buffer of pool.buffers.splice(0)) buffer.destroy();
  }

  return { launches: noted.length, bytes: () => bytes, prepare, replay, dispose };
}

/** Buffers that recordings share, for only one is replayed at a time; given back when the last of them is gone. */
interface Pool {
  buffers: GPUBuffer[];
  users: number;
}

const pools = new WeakMap<GpuBackend, Pool>();

function poolOf(backend: GpuBackend): Pool {
  let pool = pools.get(backend);
  if (!pool) pools.set(backend, (pool = { buffers: [], users: 0 }));
  return pool;
}

interface Interval {
  first: number;
  last: number;
}

/**
 * Give every intermediate result a buffer, the largest first: one that is free from its first to its last use, or a new
 * one, which joins the pool. Returns the bytes of the buffers used.
 */
function planBuffers(backend: GpuBackend, pool: GPUBuffer[], noted: NotedLaunch[], outputs: unknown[]): number {
  const uses = new Map<PlannedBuffer, Interval>();
  noted.forEach(({ resources }, i) => {
    for (const resource of resources) {
      if (!(resource instanceof PlannedBuffer) || resource.home) continue;
      const use = uses.get(resource);
      if (use) use.last = i;
      else uses.set(resource, { first: i, last: i });
    }
  });
  for (const [planned, use] of uses) if (outputs.includes(planned)) use.last = noted.length;
  const taken = new Map<GPUBuffer, Interval[]>();
  for (const [planned, use] of [...uses].toSorted(([a], [b]) => b.size - a.size)) {
    const free = pool
      .filter((buffer) => buffer.size >= planned.size)
      .filter((buffer) => (taken.get(buffer) ?? []).every(({ first, last }) => last < use.first || first > use.last));
    // Of those in use already the smallest, so that few are used.
    const inUse = free.filter((buffer) => taken.has(buffer));
    let found = (inUse.length > 0 ? inUse : free).toSorted((a, b) => a.size - b.size)[0];
    if (!found) {
      found = backend.device.createBuffer({
        label: "recorded",
        size: planned.size,
        usage: GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_SRC | GPUBufferUsage.COPY_DST,
      });
      pool.push(found);
    }
    taken.set(found, [...(taken.get(found) ?? []), use]);
    planned.home = new BufferRange(found, 0, planned.size);
  }
  return [...taken.keys()].reduce((sum, { size }) => sum + size, 0);
}

/** The uniforms of every launch, one slot each. */
function uniformsOf(backend: GpuBackend, noted: NotedLaunch[]): GPUBuffer {
  const slot = backend.uniformSlotBytes;
  const buffer = backend.device.createBuffer({
    label: "recorded uniforms",
    size: Math.max(1, noted.length) * slot,
    usage: GPUBufferUsage.UNIFORM,
    mappedAtCreation: true,
  });
  const memory = buffer.getMappedRange();
  noted.forEach(({ kernel }, i) => {
    fillUniforms(kernel, new Uint32Array(memory, i * slot, slot / 4), new Float32Array(memory, i * slot, slot / 4));
  });
  buffer.unmap();
  return buffer;
}
