// Products and sums fused by the processor, in Node.

import { setFlagsFromString } from "node:v8";
import { hasRelaxedSimd } from "../engine/wasm/features.ts";

/** Node 20 has relaxed SIMD, but only for those who ask. To be called before the engine starts. */
export function enableRelaxedSimd(): void {
  if (!hasRelaxedSimd()) setFlagsFromString("--experimental-wasm-relaxed-simd");
}
