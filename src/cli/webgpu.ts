// WebGPU in Node: the npm package `webgpu` (Dawn, the implementation in Chromium), put where browsers have it.

import { constants } from "node:os";
import { join } from "node:path";
import { findSoftwareGpu } from "./chromium.mjs";

const RTLD_NODELETE = 0x1000; // Linux: once loaded, it stays.

/**
 * Put `navigator.gpu` and WebGPU's classes on the global object.
 *
 * driver "system": this machine's GPU. "software": the Vulkan driver of a Chromium on this machine, which computes on the
 * processor. Throws if the driver asked for is missing. Does nothing where WebGPU is there already.
 */
export async function provideWebGpu(driver: "system" | "software"): Promise<void> {
  if ((globalThis.navigator as Navigator | undefined)?.gpu) return;
  if (driver === "software") loadSoftwareDriver();
  const { create, globals } = await import("webgpu");
  Object.assign(globalThis, globals);
  const gpu = create([]);
  if (globalThis.navigator) Object.defineProperty(globalThis.navigator, "gpu", { value: gpu, configurable: true });
  else Object.defineProperty(globalThis, "navigator", { value: { gpu }, configurable: true });
}

/** Whether WebGPU finds an adapter of any kind. */
export async function hasAdapter(): Promise<boolean> {
  return (await globalThis.navigator?.gpu?.requestAdapter()) != null;
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
