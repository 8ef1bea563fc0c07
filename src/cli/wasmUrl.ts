// Where Node finds the WebAssembly of TensorFlow.js.

import { readFileSync } from "node:fs";
import { createRequire } from "node:module";

/** The SIMD build as a data: URL, which Node's fetch can read. */
export function wasmUrl(): string {
  const file = createRequire(import.meta.url).resolve("@tensorflow/tfjs-backend-wasm/dist/tfjs-backend-wasm-simd.wasm");
  return `data:application/wasm;base64,${readFileSync(file).toString("base64")}`;
}
