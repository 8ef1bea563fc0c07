// Run a WGSL kernel of ours on TensorFlow.js's tensors, in order with its own kernels.
//
// Unlike its own path: any number of outputs, in-place writes, one bind group layout that is stated and not derived (a
// binding that the text does not use is then no error that yields zeros), pipelines and bind groups made once.

import { gpuBackend, reportGpuError } from "./device.ts";
import type { GpuBackend } from "./gpuBackend.ts";
import { PlannedBuffer, rangeOf, type Resource } from "./resources.ts";
import * as tf from "./tf.ts";

export interface Kernel {
  /** Names the kernel in error messages. */
  name: string;
  /**
   * WGSL with `fn main(group: u32, thread: u32)`. Each tensor is an array by its name, each size and number a field of
   * `u`; THREADS is the number of threads of a workgroup. Spare workgroups may run: every store is guarded, no barrier is.
   */
  source: string;
  /** Tensors that are read, as array<f32>, or array<i32> for int32. */
  reads: Record<string, tf.TensorInfo>;
  /** Tensors that are written, from `allocate`; or changed in place. None may be read under another name. */
  writes: Record<string, tf.TensorInfo>;
  /** Names of those float32 tensors that are arrays of vec4<f32>; what is past the last whole one is out of reach. */
  vectors?: string[];
  /** Names of those int32 tensors, among the written, that are arrays of atomic<i32>. */
  atomics?: string[];
  /** u32 fields of `u`. */
  sizes?: Record<string, number>;
  /** f32 fields of `u`. */
  numbers?: Record<string, number>;
  workgroups: number;
  /** Threads of a workgroup. */
  threads?: number;
  /** WGSL extensions that the text uses, such as "f16". */
  enable?: string[];
}

/** Threads of a workgroup where nothing else asks for another number. */
export const THREADS = 64;

export interface Compiled {
  id: number;
  pipeline: GPUComputePipeline;
  layout: GPUBindGroupLayout;
}

interface Caches {
  compiled: Map<string, Compiled>;
  bindGroups: Map<string, GPUBindGroup>;
  constants: Map<string, tf.TensorInfo>;
}

const MOST_BIND_GROUPS = 8192; // They keep their buffers alive; in the steady state a step needs some hundred.

const caches = new WeakMap<GpuBackend, Caches>();
const bufferIds = new WeakMap<GPUBuffer, number>();
let nextBufferId = 1;

/** Record one kernel. Nothing is waited for; what fails on the GPU is counted in `gpuErrors`. */
export function launch(kernel: Kernel): void {
  if (kernel.workgroups === 0) return;
  const backend = gpuBackend();
  const reads = Object.values(kernel.reads);
  const writes = Object.values(kernel.writes);
  checkAliases(kernel, reads, writes);
  const tensors = [...reads, ...writes];
  const resources = tensors.map((tensor) => backend.resourceOf(tensor));
  const names = [...Object.keys(kernel.reads), ...Object.keys(kernel.writes)];
  const types = tensors.map((tensor, i) => {
    const type = backend.elementType(tensor);
    if (kernel.atomics?.includes(names[i])) return `atomic<${type}>`;
    return kernel.vectors?.includes(names[i]) ? `vec4<${type}>` : type;
  });
  for (const tensor of writes) backend.forgetCopy(tensor);
  const workgroups = fold(kernel.workgroups, backend.device.limits.maxComputeWorkgroupsPerDimension);
  if (backend.noted) {
    const foreign = writes.filter((_, i) => !(resources[reads.length + i] instanceof PlannedBuffer));
    const changed = foreign.map(({ dataId }) => dataId);
    backend.noted.push({ kernel, resources, types, workgroups, changed });
    return;
  }

  const cache = cachesOf(backend);
  const key = keyOf(kernel, types);
  let compiled = cache.compiled.get(key);
  if (!compiled) {
    compiled = { id: cache.compiled.size, ...build(backend.device, kernel, types) };
    cache.compiled.set(key, compiled);
  }
  const uniformOffsets = writeUniforms(backend, kernel);
  backend.record({
    pipeline: compiled.pipeline,
    bindGroup: bindGroup(backend, cache, compiled, resources, uniformOffsets.length > 0),
    uniformOffsets,
    workgroups,
    dataIds: tensors.map((tensor) => tensor.dataId),
  });
  backend.submitIfDue(tf.env().getNumber("WEBGPU_DEFERRED_SUBMIT_BATCH_SIZE"));
}

/** A tensor on the GPU, its content undefined: pool buffers are handed on as they are. */
export function allocate(shape: number[], dtype: "float32" | "int32" = "float32"): tf.TensorInfo {
  return gpuBackend().makeTensorInfo(shape, dtype);
}

/** Give back a tensor from `allocate` that no one else has seen. */
export function release(...tensors: tf.TensorInfo[]): void {
  for (const tensor of tensors) gpuBackend().disposeData(tensor.dataId);
}

/** A table of integers that stays on the GPU, made once. */
export function constant(values: number[]): tf.TensorInfo {
  const backend = gpuBackend();
  const { constants } = cachesOf(backend);
  const key = values.join();
  let tensor = constants.get(key);
  if (!tensor) {
    tensor = backend.makeTensorInfo([values.length], "int32", Int32Array.from(values));
    constants.set(key, tensor);
  }
  return tensor;
}

/** Workgroups for one thread per element. */
export function groupsFor(elements: number, threads = THREADS): number {
  return Math.ceil(elements / threads);
}

/** A grid axis holds at most `limit` workgroups; past that the grid gets a second axis, and may get spare workgroups. */
export function fold(workgroups: number, limit: number): [number, number] {
  const rows = Math.ceil(workgroups / limit);
  if (rows > limit) throw new Error(`launch: ${workgroups} workgroups, more than a grid holds`);
  return [Math.ceil(workgroups / rows), rows];
}

function checkAliases(kernel: Kernel, reads: tf.TensorInfo[], writes: tf.TensorInfo[]): void {
  writes.forEach((written, i) => {
    const other = [...reads, ...writes.slice(i + 1)].find((tensor) => tensor.dataId === written.dataId);
    if (other) {
      throw new Error(
        `${kernel.name}: [${written.shape}] is written and bound a second time; it needs a copy of its own`,
      );
    }
  });
}

function cachesOf(backend: GpuBackend): Caches {
  let cache = caches.get(backend);
  if (!cache) {
    cache = { compiled: new Map(), bindGroups: new Map(), constants: new Map() };
    caches.set(backend, cache);
  }
  return cache;
}

function keyOf(kernel: Kernel, types: string[]): string {
  const names = [kernel.reads, kernel.writes, kernel.sizes ?? {}, kernel.numbers ?? {}].map((part) =>
    Object.keys(part),
  );
  return `${names.join(";")}|${types.join()}|${kernel.threads ?? THREADS}|${kernel.source}`;
}

/** Compile the kernels that are not yet, side by side and off this thread. Throws for a text that is not right. */
export async function compileAll(kernels: { kernel: Kernel; types: string[] }[]): Promise<Compiled[]> {
  const backend = gpuBackend();
  const { compiled } = cachesOf(backend);
  const wanted = new Map(kernels.map(({ kernel, types }) => [keyOf(kernel, types), { kernel, types }]));
  await Promise.all(
    [...wanted].map(async ([key, { kernel, types }]) => {
      if (compiled.has(key)) return;
      const { layout, descriptor, code } = describe(backend.device, kernel, types);
      try {
        const pipeline = await backend.device.createComputePipelineAsync(descriptor);
        if (!compiled.has(key)) compiled.set(key, { id: compiled.size, pipeline, layout });
      } catch (error) {
        throw new Error(`kernel ${kernel.name} does not compile: ${String(error)}\n${code}`, { cause: error });
      }
    }),
  );
  return kernels.map(({ kernel, types }) => compiled.get(keyOf(kernel, types))!);
}

function describe(device: GPUDevice, kernel: Kernel, types: string[]) {
  const code = wgsl(kernel, types);
  const readCount = Object.keys(kernel.reads).length;
  const entries: GPUBindGroupLayoutEntry[] = types.map((_, binding) => ({
    binding,
    visibility: GPUShaderStage.COMPUTE,
    buffer: { type: binding < readCount ? "read-only-storage" : "storage" },
  }));
  if (hasUniforms(kernel)) {
    const buffer: GPUBufferBindingLayout = { type: "uniform", hasDynamicOffset: true };
    entries.push({ binding: types.length, visibility: GPUShaderStage.COMPUTE, buffer });
  }
  const label = kernel.name;
  const layout = device.createBindGroupLayout({ label, entries });
  const descriptor: GPUComputePipelineDescriptor = {
    label,
    layout: device.createPipelineLayout({ label, bindGroupLayouts: [layout] }),
    compute: { module: device.createShaderModule({ label, code }), entryPoint: "entry" },
  };
  return { code, layout, descriptor };
}

function build(
  device: GPUDevice,
  kernel: Kernel,
  types: string[],
): { pipeline: GPUComputePipeline; layout: GPUBindGroupLayout } {
  device.pushErrorScope("validation");
  const { code, layout, descriptor } = describe(device, kernel, types);
  const pipeline = device.createComputePipeline(descriptor);
  void device.popErrorScope().then((error) => {
    if (error) reportGpuError(`kernel ${kernel.name} does not compile: ${error.message}\n${code}`);
  });
  return { pipeline, layout };
}

/** The kernel's text behind the declarations of its tensors, uniforms and entry point. */
function wgsl(kernel: Kernel, types: string[]): string {
  const readNames = Object.keys(kernel.reads);
  const names = [...readNames, ...Object.keys(kernel.writes)];
  const bindings = names.map((name, i) => {
    const access = i < readNames.length ? "read" : "read_write";
    return `@group(0) @binding(${i}) var<storage, ${access}> ${name}: array<${types[i]}>;`;
  });
  const fields = [
    ...Object.keys(kernel.sizes ?? {}).map((name) => `${name}: u32,`),
    ...Object.keys(kernel.numbers ?? {}).map((name) => `${name}: f32,`),
  ];
  if (fields.length > 0) {
    bindings.push(`struct Uniforms { ${fields.join(" ")} }`);
    bindings.push(`@group(0) @binding(${names.length}) var<uniform> u: Uniforms;`);
  }
  const threads = kernel.threads ?? THREADS;
  return `
    ${(kernel.enable ?? []).map((extension) => `enable ${extension};`).join("\n")}
    ${bindings.join("\n")}
    const THREADS = ${threads}u;
    ${kernel.source}
    @compute @workgroup_size(${threads})
    fn entry(
      @builtin(workgroup_id) id: vec3<u32>,
      @builtin(num_workgroups) grid: vec3<u32>,
      @builtin(local_invocation_index) thread: u32,
    ) {
      main(id.x + id.y * grid.x, thread);
    }
  `;
}

export function uniformCount({ sizes = {}, numbers = {} }: Kernel): number {
  return Object.keys(sizes).length + Object.keys(numbers).length;
}

export function hasUniforms(kernel: Kernel): boolean {
  return uniformCount(kernel) > 0;
}

/** Returns the dynamic offsets: one, or none for a kernel without uniforms. */
function writeUniforms(backend: GpuBackend, kernel: Kernel): number[] {
  if (!hasUniforms(kernel)) return [];
  const { offset, u32, f32 } = backend.uniformSlot();
  fillUniforms(kernel, u32, f32);
  return [offset];
}

/** Both views are of the same memory. */
export function fillUniforms(kernel: Kernel, u32: Uint32Array, f32: Float32Array): void {
  let at = 0;
  for (const size of Object.values(kernel.sizes ?? {})) u32[at++] = size;
  for (const number of Object.values(kernel.numbers ?? {})) f32[at++] = number;
}

function bindGroup(
  backend: GpuBackend,
  cache: Caches,
  compiled: Compiled,
  resources: Resource[],
  uniforms: boolean,
): GPUBindGroup {
  const ranges = resources.map(rangeOf);
  const key = `${compiled.id}:${ranges.map(({ buffer, offset }) => `${bufferId(buffer)}+${offset}`).join()}`;
  let group = cache.bindGroups.get(key);
  if (!group) {
    if (cache.bindGroups.size >= MOST_BIND_GROUPS) cache.bindGroups.clear();
    group = createBindGroup(backend, compiled, ranges, uniforms ? backend.uniformBuffer : null);
    cache.bindGroups.set(key, group);
  }
  return group;
}

export function createBindGroup(
  backend: GpuBackend,
  compiled: Compiled,
  ranges: { buffer: GPUBuffer; offset: number; size: number }[],
  uniforms: GPUBuffer | null,
): GPUBindGroup {
  const entries: GPUBindGroupEntry[] = ranges.map(({ buffer, offset, size }, binding) => ({
    binding,
    resource: { buffer, offset, size },
  }));
  if (uniforms) {
    entries.push({ binding: ranges.length, resource: { buffer: uniforms, size: backend.uniformSlotBytes } });
  }
  return backend.device.createBindGroup({ layout: compiled.layout, entries });
}

export function bufferId(buffer: GPUBuffer): number {
  let id = bufferIds.get(buffer);
  if (id === undefined) {
    id = nextBufferId++;
    bufferIds.set(buffer, id);
  }
  return id;
}
