// Which MLPs are computed as one operation.

import type { MlpWeights } from "../engine/ops/gatedMlp.ts";
import { isPacked } from "../engine/packed.ts";
import type { Mlp } from "./layers.ts";

/** The weights of an MLP that has nothing but float32 weights: no biases, no adapters. Else null. */
export function plainMlp({ gateProj, upProj, downProj }: Mlp): MlpWeights | null {
  const [gate, up, down] = [gateProj, upProj, downProj].map(({ weight, bias, lora }) =>
    bias || lora || isPacked(weight) ? null : weight,
  );
  return gate && up && down ? { gate, up, down } : null;
}
