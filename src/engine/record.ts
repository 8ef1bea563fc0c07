// A step of static shape, recorded once and replayed: no tape, no allocation, no look-up of anything in the steady state.
//
// While it is recorded nothing is computed. The function runs through TensorFlow.js's tape as usual, and our operations
// only note what they would do: on the wasm backend calls with fixed addresses, on WebGPU launches whose buffers are
// planned afterwards by when each is used. The cpu backend, for tests and last resorts, runs the function each time.

import { gpuBackend } from "./device.ts";
import { recordLaunches } from "./launches.ts";
import { isRecordable } from "./op.ts";
import { canAdd } from "./ops/add.ts";
import * as tf from "./tf.ts";
import { beginRecording, endRecording, letGoOfRecording, view } from "./wasm/heap.ts";

export interface Recording<T> {
  /** Do what was recorded, with what the tensors it read hold now. The outputs keep until the next replay of any recording. */
  replay(): T;
  /** Bytes that its intermediate results take. */
  readonly bytes: number;
  /** Calls or launches of a replay. */
  readonly kernels: number;
  dispose(): void;
}

/**
 * Record `f`, which must compute with our operations only, on tensors that exist before (its inputs, which `overwrite`
 * changes between replays) and outlive the recording. Throws a GpuMemoryError where its memory cannot be had.
 */
export async function record<T extends tf.TensorContainer>(f: () => T): Promise<Recording<T>> {
  switch (tf.getBackend()) {
    case "webgpu":
      return onGpu(f);
    case "wasm":
      return onWasm(f);
    default:
      return eachTime(f);
  }
}

/** Change a tensor's content in place. Outside of recordings. */
export function overwrite(tensor: tf.Tensor, values: Float32Array | Int32Array): void {
  if (values.length !== tensor.size) {
    throw new Error(`overwrite: the tensor is [${tensor.shape}], the values are ${values.length}`);
  }
  switch (tf.getBackend()) {
    case "webgpu":
      gpuBackend().overwrite(tensor, values);
      break;
    case "wasm":
      view(tensor).set(values);
      break;
    default:
      (tensor.dataSync() as Float32Array).set(values); // On the cpu backend this is the tensor's own memory.
  }
}

function onWasm<T extends tf.TensorContainer>(f: () => T): Recording<T> {
  beginRecording();
  let noted: Noted<T>;
  let done: ReturnType<typeof endRecording>;
  try {
    noted = note(f);
  } catch (error) {
    letGoOfRecording();
    throw error;
  } finally {
    done = endRecording();
  }
  const { works, bytes } = done;
  const replay = (): T => {
    for (const work of works) work();
    return noted.outputs;
  };
  const dispose = (): void => {
    noted.dispose();
    letGoOfRecording();
  };
  return { replay, bytes, kernels: works.length, dispose };
}

async function onGpu<T extends tf.TensorContainer>(f: () => T): Promise<Recording<T>> {
  const backend = gpuBackend();
  backend.beginRecording();
  let noted: Noted<T>;
  let launches: ReturnType<typeof backend.endRecording>;
  try {
    noted = note(f);
  } finally {
    launches = backend.endRecording();
  }
  const recording = recordLaunches(backend, launches);
  const dispose = (): void => {
    noted.dispose();
    recording.dispose();
  };
  try {
    await recording.prepare(getTensorsInContainer(noted.outputs));
  } catch (error) {
    dispose();
    throw error;
  }
  const replay = (): T => {
    recording.replay();
    return noted.outputs;
  };
  return { replay, bytes: recording.bytes(), kernels: recording.launches, dispose };
}

/** The cpu backend records nothing: the function runs at each replay. */
function eachTime<T extends tf.TensorContainer>(f: () => T): Recording<T> {
  let outputs: T | null = null;
  const dispose = (): void => {
    if (outputs) tf.dispose(outputs);
    outputs = null;
  };
  const replay = (): T => {
    dispose();
    outputs = tf.tidy(f);
    for (const tensor of getTensorsInContainer(outputs)) tf.keep(tensor);
    return outputs;
  };
  return { replay, bytes: 0, kernels: 0, dispose };
}

const { getTensorsInContainer } = tf.tensor_util;

interface Noted<T> {
  outputs: T;
  dispose: () => void;
}

type RunKernel = ReturnType<typeof tf.engine>["runKernel"];

/**
 * Run the function with every operation refused that is not ours: it would compute at once, and on nothing. Tensors that
 * come with values are kept for the replays.
 */
export function note<T extends tf.TensorContainer>(f: () => T): Noted<T> {
  const [engine, backend] = [tf.engine(), tf.backend()];
  const constants: object[] = [];
  const runKernel = engine.runKernel.bind(engine) as RunKernel;
  engine.runKernel = ((name, inputs, attributes) => {
    if (name === tf.Add && canAdd(inputs)) return runKernel("AddAlike", inputs); // The tape's own sums.
    if (!isRecordable(name)) {
      throw new Error(
        `record: ${name} is an operation of TensorFlow.js; a recorded step takes only those of engine/ops`,
      );
    }
    return runKernel(name, inputs, attributes);
  }) as RunKernel;
  const write = backend.write.bind(backend);
  backend.write = (values, shape, dtype) => {
    const dataId = write(values, shape, dtype);
    if (values != null) {
      backend.incRef(dataId);
      constants.push(dataId);
    }
    return dataId;
  };
  const release = (): void => constants.forEach((dataId) => backend.disposeData(dataId));
  try {
    const outputs = tf.tidy(f);
    const kept = getTensorsInContainer(outputs).map((tensor) => tf.keep(tensor));
    const dispose = (): void => {
      tf.dispose(kept);
      release();
    };
    return { outputs, dispose };
  } catch (error) {
    release();
    throw error;
  } finally {
    // The classes' own methods are back.
    delete (engine as Partial<typeof engine>).runKernel;
    delete (backend as Partial<typeof backend>).write;
  }
}
