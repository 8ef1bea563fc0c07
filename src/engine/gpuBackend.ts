// TensorFlow.js's WebGPU backend, with what it lacks: room to record our own dispatches among its own, and a check of
// sizes before they reach the GPU, which would compute zeros without a word.

import { WebGPUBackend } from "@tensorflow/tfjs-backend-webgpu";
import { DeviceLostError } from "./device.ts";
import type * as tf from "./tf.ts";

/** Fields of the backend that TypeScript keeps private. TensorFlow.js is pinned to one version, so they hold still. */
interface Recorder {
  commandEncoder: GPUCommandEncoder;
  computePassEncoder: GPUComputePassEncoder | null;
  commandQueueOwnedIds: WeakSet<object>;
  dispatchCountInPass: number;
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

const UNIFORM_SLOTS = 1024;

export class GpuBackend extends WebGPUBackend {
  /** Uniforms of the dispatches recorded since the last submit, one slot each; written in one go before the submit. */
  readonly uniformBuffer: GPUBuffer;
  readonly uniformSlotBytes: number;
  /** Why the device was lost, once it is. */
  lostBecause: string | null = null;
  readonly #uniforms: ArrayBuffer;
  #slotsUsed = 0;
  #stopped = false;

  constructor(device: GPUDevice, info: GPUAdapterInfo) {
    super(device, info);
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

  /** Buffer of a tensor's content, uploaded if it lay on the processor. */
  bufferOf(tensor: tf.TensorInfo): GPUBuffer {
    this.uploadToGPU(tensor.dataId);
    return this.tensorMap.get(tensor.dataId).resource as GPUBuffer;
  }

  /** Forget the copy that an earlier read-back left on the processor: the GPU's content has changed. */
  forgetCopy(tensor: tf.TensorInfo): void {
    this.tensorMap.get(tensor.dataId).values = null as never;
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
    super.uploadToGPU(dataId);
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

function megabytes(bytes: number): string {
  return `${Math.ceil(bytes / 2 ** 20)} MiB`;
}
