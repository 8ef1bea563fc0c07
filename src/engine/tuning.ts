// Which variant of the matrix product runs for which shapes.

import type { Variant } from "./ops/matmulText.ts";

/** What the choice depends on. */
export interface Shape {
  M: number;
  N: number;
  K: number;
  transposeA: boolean;
  transposeB: boolean;
  packed: boolean;
}

/** few: a result of few rows, or of few elements altogether. */
export type Size = "few" | "middle" | "large";

export function sizeOf({ M, N }: Shape): Size {
  if (M <= 8 || M * N <= 1 << 14) return "few";
  return M * N < 1 << 18 ? "middle" : "large";
}

export function variantFor(shape: Shape): Variant {
  const rows = shape.M >= 64 ? 8 : shape.M >= 16 ? 4 : shape.M > 1 ? 2 : 1;
  return { kind: "registers", rows, columns: 4 };
}
