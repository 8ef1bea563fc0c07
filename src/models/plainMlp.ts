// Which MLPs are computed as one operation.

import type { MlpWeights } from "../engine/ops/gatedMlp.ts";
import { isPacked } from "../engine/packed.ts";
import type { Mlp } from "./layers.ts";

/** The weights of an MLP that has nothing but weights: no biases, no adapters. Else null. */
export function bareMlp({ gateProj, upProj, downProj }: Mlp): MlpWeights | null {
  if ([gateProj, upProj, downProj].some(({ bias, lora }) => bias || lora)) return null;
  return { gate: gateProj.weight, up: upProj.weight, down: downProj.weight };
}

/** The same if all are float32: an MLP by itself that is stored small decodes faster as products, which suit few rows. */
export function plainMlp(p: Mlp): MlpWeights | null {
  const weights = bareMlp(p);
  return weights && !Object.values(weights).some(isPacked) ? weights : null;
}
