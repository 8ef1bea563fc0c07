// The compiled kernels without a backend: each build of them in memory of its own, full of NaN.

import { setFlagsFromString } from "node:v8";
import plain from "../../../src/engine/wasm/assembly/kernels.ts?assembly";
import relaxed from "../../../src/engine/wasm/assembly/kernels.ts?assembly&relaxed";
import type { CpuKernels } from "../../../src/engine/wasm/kernels.ts";

setFlagsFromString("--experimental-wasm-relaxed-simd"); // Node 20 wants to be asked.

const compiled = (base64: string) => new WebAssembly.Module(Buffer.from(base64, "base64"));

export const builds = { plain: compiled(plain), relaxed: compiled(relaxed) };

export interface Instance {
  kernels: CpuKernels;
  /** The address of a copy of these values, 64-byte aligned. */
  put: (values: Float32Array | Int32Array) => number;
  /** `count` floats at an address. */
  floats: (address: number, count: number) => Float32Array;
}

const PAGES = 64;
const FIRST = 1024;

export function instantiate(build: keyof typeof builds): Instance {
  const memory = new WebAssembly.Memory({ initial: PAGES });
  new Float32Array(memory.buffer).fill(Number.NaN);
  const kernels = new WebAssembly.Instance(builds[build], { env: { memory } }).exports as unknown as CpuKernels;
  let end = FIRST;
  const take = (bytes: number) => {
    const address = end;
    end += Math.ceil(bytes / 64) * 64;
    if (end > memory.buffer.byteLength) throw new Error(`the test wants more than ${PAGES} pages of memory`);
    return address;
  };
  kernels.bindGemm(take(kernels.gemmBytes()));
  return {
    kernels,
    put(values) {
      const address = take(values.byteLength);
      new Uint8Array(memory.buffer).set(new Uint8Array(values.buffer, values.byteOffset, values.byteLength), address);
      return address;
    },
    floats: (address, count) => new Float32Array(memory.buffer, address, count).slice(),
  };
}
