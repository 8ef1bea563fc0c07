import type { Model } from "../../src/models/decoder.ts";
import type { Batch } from "../../src/protocol/data.ts";
import type { Optimizer } from "../../src/training/optimizer.ts";
import { createStepper } from "../../src/training/step.ts";

/** One step by itself, recorded for it alone. Returns the loss before it. */
export async function trainStep(
  model: Model,
  optimizer: Optimizer,
  batch: Batch,
  learningRate: number,
  active?: boolean[],
): Promise<number> {
  const stepper = createStepper(model, optimizer);
  try {
    return (await stepper.step([batch], { learningRate, active })).loss;
  } finally {
    stepper.dispose();
  }
}
