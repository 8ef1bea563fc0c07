// A thread that computes what the GPU worker's CPU kernels share out. It knows their memory and nothing else.

import { kernelThread, type ThreadWork } from "../src/engine/wasm/threads.ts";

addEventListener(
  "message",
  ({ data }: MessageEvent<ThreadWork>) => {
    kernelThread(data, () => postMessage("ready"));
  },
  { once: true },
);
