// Memory that holds NaN wherever a kernel gets memory, so that an element it forgets to write is seen.

import * as tf from "../../../src/engine/tf.ts";
import { workspace, writeIntegers } from "../../../src/engine/wasm/heap.ts";

const NAN_BITS = 0x7fc00000;
const SCRATCH = 1 << 16; // Elements of the working memory; the tests' sizes need no more.
const SIZES = [1, 4, 16, 64, 256, 1024, 4096, 16384, 65536, 1 << 20];

/** Fill the working memory, and free memory of many sizes, with NaN. */
export function poison(): void {
  writeIntegers(workspace(SCRATCH * 4), new Array<number>(SCRATCH).fill(NAN_BITS));
  const spoiled = SIZES.flatMap((size) => Array.from({ length: 4 }, () => tf.fill([size], Number.NaN)));
  tf.dispose(spoiled);
}
