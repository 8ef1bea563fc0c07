// WebGPU in Node: the npm package `webgpu` (Dawn, the implementation in Chromium), put where browsers have it.

import { existsSync } from "node:fs";
import { constants } from "node:os";
import { join } from "node:path";
import { findSoftwareGpu } from "./chromium.mjs";

const RTLD_NODELETE = 0x1000; // Linux: once loaded, it stays.

/** Device files of GPUs on Linux: most drivers, NVIDIA's, and Windows' below WSL. */
const LINUX_DEVICES = ["/dev/dri", "/dev/nvidia0", "/dev/dxg"];

/** Whether it is worth asking for a GPU: Dawn complains aloud where Linux has none. */
export function mayHaveGpu(): boolean {
  return process.platform !== "linux" || LINUX_DEVICES.some((path) => existsSync(path));
}

/**
 * Put `navigator.gpu` and WebGPU's classes on the global object, unless they are there.
 *
 * With `software`, a machine without a GPU gets the Vulkan driver of a Chromium on it, which computes on the processor;
 * throws if there is none.
 */
export async function provideWebGpu({ software }: { software: boolean }): Promise<void> {
  if ((globalThis.navigator as Navigator | undefined)?.gpu) return;
  const { create, globals } = await import("webgpu");
  let gpu = mayHaveGpu() || !software ? create([]) : null;
  if (software && !(await gpu?.requestAdapter())) {
    loadSoftwareDriver();
    gpu = create([]);
  }
  Object.assign(globalThis, globals);
  if (globalThis.navigator) Object.defineProperty(globalThis.navigator, "gpu", { value: gpu, configurable: true });
  else Object.defineProperty(globalThis, "navigator", { value: { gpu }, configurable: true });
}

function loadSoftwareDriver(): void {
  const folder = findSoftwareGpu();
  if (!folder) {
    throw new Error(
      "WebGPU without a GPU needs the software driver of a Chromium, and none was found. Install Chromium, or set CHROMIUM to one.",
    );
  }
  process.env.VK_DRIVER_FILES = join(folder, "vk_swiftshader_icd.json");
  // Dawn asks the system for libvulkan.so.1, which machines without a GPU lack; one that is loaded already it finds by
  // its name. Loading succeeds, and then Node complains that it is no module of Node's.
  try {
    process.dlopen({ exports: {} }, join(folder, "libvulkan.so.1"), constants.dlopen.RTLD_NOW | RTLD_NODELETE);
  } catch {}
}
