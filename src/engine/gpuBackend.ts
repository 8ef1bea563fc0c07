// TensorFlow.js's WebGPU backend, with what it lacks: room to record our own dispatches among its own, and a check of
// sizes before they reach the GPU, which would compute zeros without a word.

import { WebGPUBackend } from "@tensorflow/tfjs-backend-webgpu";
import { DeviceLostError } from "./device.ts";
import { mergeLaunches } from "./mergeLaunches.ts";
import { BufferRange, type NotedLaunch, PlannedBuffer, rangeOf, type Resource } from "./resources.ts";
import type * as tf from "./tf.ts";

/** Fields of the backend that TypeScript keeps private. TensorFlow.js is pinned to one version, so they hold still. */
interface Recorder {
  commandEncoder: GPUCommandEncoder;
  computePassEncoder: GPUComputePassEncoder | null;
  commandQueueOwnedIds: WeakSet<object>;
  dispatchCountInPass: number;
  releaseResource(dataId: object): void;
  tensorToBinding(tensor?: tf.TensorInfo): GPUBindingResource | null;
}

/** Fields of its buffer manager, private too. */
interface BufferPool {
  freeBuffers: Map<string, GPUBuffer[]>;
  numFreeBuffers: number;
  numBytesAllocated: number;
}

/** One dispatch: what runs, on what, and where its uniforms lie. */
export interface Dispatch {
  pipeline: GPUComputePipeline;
  bindGroup: GPUBindGroup;
  uniformOffsets: number[];
  workgroups: [number, number];
  /** Tensors that must outlive the submit. */
  dataIds: object[];
}

const STORAGE_USAGE = 0x80 | 0x4 | 0x8; // STORAGE, COPY_SRC, COPY_DST.
const RANGE_ALIGNMENT = 256; // Any offset of a binding is a multiple of this.

const UNIFORM_SLOTS = 1024;

export class GpuBackend extends WebGPUBackend {
  /** Uniforms of the dispatches recorded since the last submit, one slot each; written in one go before the submit. */
  readonly uniformBuffer: GPUBuffer;
  readonly uniformSlotBytes: number;
  /** Why the device was lost, once it is. */
  lostBecause: string | null = null;
  /** Launches are noted here and not done while a step is recorded. */
  noted: NotedLaunch[] | null = null;
  /**
   * Whether launches that do not wait for one another share a dispatch. Not on software GPUs: there a branch that is not
   * taken costs nearly as much as one that is, a step of the 1M model a fifth more.
   */
  merging: boolean;
  readonly #uniforms: ArrayBuffer;
  #slotsUsed = 0;
  /** What lies in a tensor of `inOneBuffer`, by its data. */
  readonly #parts = new WeakMap<object, object[]>();
  #stopped = false;

  constructor(
    device: GPUDevice,
    readonly info: GPUAdapterInfo,
    /** Whether the adapter computes on the processor. */
    readonly software: boolean,
  ) {
    super(device, info);
    this.#knowRanges();
    this.merging = !software;
    this.uniformSlotBytes = device.limits.minUniformBufferOffsetAlignment;
    this.#uniforms = new ArrayBuffer(UNIFORM_SLOTS * this.uniformSlotBytes);
    this.uniformBuffer = device.createBuffer({
      label: "uniforms",
      size: this.#uniforms.byteLength,
      usage: GPUBufferUsage.UNIFORM | GPUBufferUsage.COPY_DST,
    });
  }

  /** Whether we let go of the device ourselves; a device that is lost later is no news. */
  get stopped(): boolean {
    return this.#stopped;
  }

  /** A slot for the uniforms of the next dispatch: its offset, and views to fill in. */
  uniformSlot(): { offset: number; u32: Uint32Array; f32: Float32Array } {
    if (this.#slotsUsed === UNIFORM_SLOTS) this.submit();
    const offset = this.#slotsUsed++ * this.uniformSlotBytes;
    const length = this.uniformSlotBytes / 4;
    return {
      offset,
      u32: new Uint32Array(this.#uniforms, offset, length),
      f32: new Float32Array(this.#uniforms, offset, length),
    };
  }

  /** Record in the pass that TensorFlow.js has open, in order with its own dispatches. */
  record({ pipeline, bindGroup, uniformOffsets, workgroups, dataIds }: Dispatch): void {
    const recorder = this as unknown as Recorder;
    for (const id of dataIds) recorder.commandQueueOwnedIds.add(id);
    this.ensureCommandEncoderReady();
    recorder.computePassEncoder ??= recorder.commandEncoder.beginComputePass();
    const pass = recorder.computePassEncoder;
    pass.setPipeline(pipeline);
    pass.setBindGroup(0, bindGroup, uniformOffsets);
    pass.dispatchWorkgroups(workgroups[0], workgroups[1]);
    recorder.dispatchCountInPass++;
  }

  /** Submit if as much is recorded as TensorFlow.js records before it submits. */
  submitIfDue(batchSize: number): void {
    if ((this as unknown as Recorder).dispatchCountInPass >= batchSize) this.submit();
  }

  /** Send what is recorded to the GPU. */
  submit(): void {
    this.ensureCommandEncoderReady();
    this.endComputePassEncoder();
    this.submitQueue();
  }

  /** What a tensor's content lies in, uploaded if it lay on the processor. */
  resourceOf(tensor: tf.TensorInfo): Resource {
    this.uploadToGPU(tensor.dataId);
    return this.tensorMap.get(tensor.dataId).resource as unknown as Resource;
  }

  /** Send what is recorded, if anything is. */
  flush(): void {
    if ((this as unknown as Recorder).commandEncoder) this.submit();
  }

  /** Destroy the buffers that TensorFlow.js keeps for tensors to come. Returns their bytes. What is in use stays. */
  trimPool(): number {
    this.flush(); // What was disposed of is free from here on.
    const pool = this.bufferManager as unknown as BufferPool;
    let bytes = 0;
    for (const [key, buffers] of pool.freeBuffers) {
      for (const buffer of buffers) {
        bytes += buffer.size;
        buffer.destroy();
      }
      pool.freeBuffers.set(key, []); // Not taken out: without any key the pool would take no buffer back.
      pool.numFreeBuffers -= buffers.length;
    }
    pool.numBytesAllocated -= bytes;
    return bytes;
  }

  /** From here on launches are noted and not done, until `endRecording`. */
  beginRecording(): void {
    this.noted = [];
  }

  /** What was noted; where `merging` helps, in as few launches as can be. */
  endRecording(): NotedLaunch[] {
    const launches = this.noted ?? [];
    this.noted = null;
    if (!this.merging) return launches;
    const { limits } = this.device;
    return mergeLaunches(launches, {
      buffers: limits.maxStorageBuffersPerShaderStage,
      uniforms: this.uniformSlotBytes / 4,
      workgroupBytes: limits.maxComputeWorkgroupStorageSize,
      workgroups: limits.maxComputeWorkgroupsPerDimension,
    });
  }

  /** Change a tensor's content in place. */
  overwrite(tensor: tf.TensorInfo, values: Float32Array | Int32Array): void {
    const { buffer, offset } = rangeOf(this.resourceOf(tensor));
    this.flush(); // What was recorded before reads the old content.
    this.queue.writeBuffer(buffer, offset, values.buffer, values.byteOffset, values.byteLength);
    this.forgetCopy(tensor);
  }

  /** Put the tensors side by side into one buffer, which is also a tensor: float32 [all of them, each up to 256 bytes]. */
  inOneBuffer(tensors: tf.TensorInfo[]): { whole: tf.TensorInfo; starts: number[] } {
    const old = tensors.map((tensor) => rangeOf(this.resourceOf(tensor)));
    const starts: number[] = [];
    let bytes = 0;
    for (const { size } of old) {
      starts.push(bytes / 4);
      bytes += Math.ceil(size / RANGE_ALIGNMENT) * RANGE_ALIGNMENT;
    }
    const buffer = this.device.createBuffer({ label: "parameters", size: bytes, usage: STORAGE_USAGE });
    let users = tensors.length + 1;
    const released = (): void => {
      users -= 1;
      if (users > 0) return;
      this.flush();
      buffer.destroy();
    };
    this.ensureCommandEncoderReady();
    this.endComputePassEncoder();
    const { commandEncoder } = this as unknown as Recorder;
    old.forEach((from, i) => {
      commandEncoder.copyBufferToBuffer(from.buffer, from.offset, buffer, 4 * starts[i], from.size);
    });
    this.submit();
    tensors.forEach(({ dataId }, i) => {
      (this as unknown as Recorder).releaseResource(dataId);
      const range = new BufferRange(buffer, 4 * starts[i], old[i].size, released);
      this.tensorMap.get(dataId).resource = range as unknown as GPUBuffer;
    });
    const whole = this.makeTensorInfo([bytes / 4], "float32");
    this.tensorMap.get(whole.dataId).resource = new BufferRange(buffer, 0, bytes, released) as unknown as GPUBuffer;
    this.#parts.set(
      whole.dataId,
      tensors.map(({ dataId }) => dataId),
    );
    return { whole, starts };
  }

  /**
   * While recording: let an intermediate result be computed right into `whole`, from element `start` on. False where that
   * cannot be: it is none of the recording's, or has a place, or a launch has it beside another part of `whole`.
   */
  place(tensor: tf.TensorInfo, whole: tf.TensorInfo, start: number): boolean {
    const planned = this.resourceOf(tensor);
    if (!(planned instanceof PlannedBuffer) || planned.home) return false;
    const { buffer } = rangeOf(this.resourceOf(whole));
    const clash = this.noted!.some(({ kernel, resources }) => {
      if (!resources.includes(planned)) return false;
      const reads = Object.keys(kernel.reads).length;
      const sides = resources.map((resource, i) => (isIn(resource, buffer) || resource === planned ? i < reads : null));
      return sides.includes(true) && sides.includes(false);
    });
    if (clash) return false;
    planned.home = new BufferRange(buffer, 4 * start, planned.size);
    return true;
  }

  /**
   * Forget the copy that an earlier read-back left on the processor, and those of the tensors that lie in this one: the
   * GPU's content has changed.
   */
  forgetCopy({ dataId }: { dataId: object }): void {
    for (const each of [dataId, ...(this.#parts.get(dataId) ?? [])]) {
      if (this.tensorMap.has(each)) this.tensorMap.get(each).values = null as never;
    }
  }

  /** "f32" or "i32": what the buffer holds (a boolean tensor holds int32). */
  elementType(tensor: tf.TensorInfo): "f32" | "i32" {
    return this.tensorMap.get(tensor.dataId).dtype === "float32" ? "f32" : "i32";
  }

  /** Every input and output of every kernel, TensorFlow.js's included, comes by here. */
  override uploadToGPU(dataId: object): void {
    this.#checkAlive();
    const { shape, dtype, resource } = this.tensorMap.get(dataId);
    const sizeBytes = shape.reduce((product, size) => product * size, 1) * 4;
    const limitBytes = Math.min(this.device.limits.maxStorageBufferBindingSize, this.device.limits.maxBufferSize);
    if (resource == null && sizeBytes > limitBytes) {
      throw new Error(
        `A tensor of [${shape}] (${dtype}) takes ${megabytes(sizeBytes)}, and this GPU takes at most ` +
          `${megabytes(limitBytes)} in one piece: use fewer tokens or rows at a time.`,
      );
    }
    const data = this.tensorMap.get(dataId);
    if (this.noted && resource == null && data.values == null) {
      data.resource = new PlannedBuffer(sizeBytes) as unknown as GPUBuffer;
      return;
    }
    super.uploadToGPU(dataId);
  }

  /** Tensors that lie in a part of a buffer are bound and given back as such. */
  #knowRanges(): void {
    const stock = this as unknown as Recorder;
    const releaseResource = stock.releaseResource.bind(this);
    const tensorToBinding = stock.tensorToBinding.bind(this);
    stock.releaseResource = (dataId) => {
      const data = this.tensorMap.get(dataId);
      const resource = data?.resource as unknown as Resource | null;
      if (!(resource instanceof BufferRange)) return releaseResource(dataId);
      data.resource = null as never;
      resource.released();
    };
    stock.tensorToBinding = (tensor) => {
      const resource = tensor && (this.tensorMap.get(tensor.dataId).resource as unknown as Resource);
      if (!(resource instanceof BufferRange)) return tensorToBinding(tensor);
      return { buffer: resource.buffer, offset: resource.offset, size: resource.size };
    };
  }

  override async getBufferData(resource: GPUBuffer): Promise<ArrayBuffer> {
    if (!((resource as unknown) instanceof BufferRange)) return super.getBufferData(resource);
    const { buffer, offset, size } = resource as unknown as BufferRange;
    const copy = this.device.createBuffer({ size, usage: STORAGE_USAGE });
    this.ensureCommandEncoderReady();
    this.endComputePassEncoder();
    (this as unknown as Recorder).commandEncoder.copyBufferToBuffer(buffer, offset, copy, 0, size);
    const data = await super.getBufferData(copy);
    copy.destroy();
    return data;
  }

  /** Uniforms are written just before what reads them is submitted, whoever submits it. */
  override submitQueue(): void {
    if (this.#slotsUsed > 0) {
      this.queue.writeBuffer(this.uniformBuffer, 0, this.#uniforms, 0, this.#slotsUsed * this.uniformSlotBytes);
      this.#slotsUsed = 0;
    }
    super.submitQueue();
  }

  override async read(dataId: object): Promise<tf.BackendValues> {
    try {
      return await super.read(dataId);
    } catch (error) {
      this.#checkAlive();
      throw error;
    }
  }

  /** On a lost device every operation seems to work and computes nothing. */
  #checkAlive(): void {
    if (this.lostBecause !== null) {
      throw new DeviceLostError(`The GPU was lost (${this.lostBecause}). Start again from the last checkpoint.`);
    }
  }

  override dispose(): void {
    if (this.#stopped) return;
    this.#stopped = true;
    super.dispose();
    this.device.destroy();
  }
}

function isIn(resource: Resource, buffer: GPUBuffer): boolean {
  if (resource instanceof PlannedBuffer) return resource.home?.buffer === buffer;
  return rangeOf(resource).buffer === buffer;
}

function megabytes(bytes: number): string {
  return `${Math.ceil(bytes / 2 ** 20)} MiB`;
}
