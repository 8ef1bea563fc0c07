// What the tests of kernels do on either backend: memory that holds NaN wherever a kernel gets some, and the same bits twice.

import type { BackendName } from "../../src/engine/backend.ts";
import { activate, type Comparison, expectAgreement, expectSameBits, run } from "./harness.ts";
import { poison as poisonHeap } from "./wasm/poison.ts";
import { poison as poisonPool } from "./webgpu/poison.ts";

export const KERNEL_BACKENDS = ["wasm", "webgpu"] as const satisfies BackendName[];
export type KernelBackend = (typeof KERNEL_BACKENDS)[number];

/** Spoil the memory that the backend, the active one, will hand out. */
export function poison(backend: KernelBackend): void {
  (backend === "wasm" ? poisonHeap : poisonPool)();
}

/**
 * Agrees with the reference in memory that held NaN, and gives the same bits again. It runs once before: only memory that
 * was used and given back can be spoiled.
 */
export async function expectKernel(backend: KernelBackend, comparison: Comparison): Promise<void> {
  const { inputs, trained, op } = comparison;
  const spoil = () => poison(backend);
  await activate(backend);
  const first = await run(inputs, trained, op);
  await expectAgreement(backend, { ...comparison, poison: spoil });
  expectSameBits(await run(inputs, trained, op, spoil), first);
}
