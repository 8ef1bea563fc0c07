// How often WebGPU is called: dispatches and what else a step does, ours and TensorFlow.js's alike.

/** Calls of WebGPU's own methods. */
export interface Calls {
  dispatches: number;
  submits: number;
  bindGroups: number;
  buffers: number;
  pipelines: number;
  /** When the last submit returned (performance.now): from there on JavaScript waits. */
  submittedMs: number;
}

type Method = (...args: unknown[]) => unknown;

/** Count while `run` runs. */
export async function countCalls(run: () => Promise<unknown>): Promise<Calls> {
  const calls: Calls = { dispatches: 0, submits: 0, bindGroups: 0, buffers: 0, pipelines: 0, submittedMs: 0 };
  const restore = [
    watch(GPUComputePassEncoder, "dispatchWorkgroups", () => calls.dispatches++),
    watch(GPUComputePassEncoder, "dispatchWorkgroupsIndirect", () => calls.dispatches++),
    watch(GPUQueue, "submit", () => {
      calls.submits++;
      calls.submittedMs = performance.now();
    }),
    watch(GPUDevice, "createBindGroup", () => calls.bindGroups++),
    watch(GPUDevice, "createBuffer", () => calls.buffers++),
    watch(GPUDevice, "createComputePipeline", () => calls.pipelines++),
    watch(GPUDevice, "createComputePipelineAsync", () => calls.pipelines++),
  ];
  try {
    await run();
  } finally {
    for (const undo of restore) undo();
  }
  return calls;
}

/** Call `see` after each call of the method. Returns how to stop. */
function watch({ prototype }: { prototype: object }, name: string, see: () => void): () => void {
  const methods = prototype as Record<string, Method>;
  const original = methods[name];
  methods[name] = function (this: unknown, ...args: unknown[]) {
    const result = original.apply(this, args);
    see();
    return result;
  };
  return () => {
    methods[name] = original;
  };
}
