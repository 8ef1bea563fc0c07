// The compiled kernels without a backend: each build of them in memory of its own, full of NaN.

import { enableRelaxedSimd } from "../../../src/cli/relaxedSimd.ts";
import plain from "../../../src/engine/wasm/assembly/kernels.ts?assembly";
import relaxed from "../../../src/engine/wasm/assembly/kernels.ts?assembly&relaxed";
import type { CpuKernels } from "../../../src/engine/wasm/kernels.ts";
import { instantiateKernels } from "../../../src/engine/wasm/module.ts";

enableRelaxedSimd();

const compiled = (base64: string) => new WebAssembly.Module(Buffer.from(base64, "base64"));

export const builds = { plain: compiled(plain), relaxed: compiled(relaxed) };

export interface Instance {
  kernels: CpuKernels;
  /** The address of a copy of these values, 64-byte aligned. */
  put: (values: Float32Array | Int32Array) => number;
  /** `count` floats at an address. */
  floats: (address: number, count: number) => Float32Array;
}

const FIRST = 1024;

export function instantiate(build: keyof typeof builds, pages = 64): Instance {
  const memory = new WebAssembly.Memory({ initial: pages, maximum: pages });
  new Float32Array(memory.buffer).fill(Number.NaN);
  const kernels = instantiateKernels(builds[build], memory);
  let end = FIRST;
  const take = (bytes: number) => {
    const address = end;
    end += Math.ceil(bytes / 64) * 64;
    if (end > memory.buffer.byteLength) throw new Error(`the test wants more than ${pages} pages of memory`);
    return address;
  };
  kernels.bindOwn(take(kernels.ownBytes()));
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
