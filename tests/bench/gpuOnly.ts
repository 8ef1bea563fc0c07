// What only a real GPU can answer, beside the published figure to beat. Without one the rows say that they are unmeasured.

import type { ModelConfig } from "../../src/formats/hfConfig.ts";
import { activate, placeOf, type Row } from "./bench.ts";
import { spreadOf, timed } from "./measure.ts";
import { freshModel, ourTrainer, randomBatch } from "./ours.ts";
import { atLeast, unmeasured } from "./results.ts";
import { DISTIL_GPT2 } from "./shapes.ts";

const [ROWS, LENGTH] = [1, 512];

/** torchlette in Node under Dawn on an A100: LoRA of DistilGPT-2, sequence 512. */
const PUBLISHED = 10_200;

/** Of the 1.5B shape on a data-centre GPU; the row "large" measures it. */
const LARGE_TARGET = "at least 2,000 tokens/s";

export const gpuOnly: Row = {
  name: "gpu",
  says: "LoRA at DistilGPT-2's size on a real GPU, against the published figure",
  async *run(bench) {
    const what = `LoRA, 82M (DistilGPT-2's size), ${ROWS} x ${LENGTH}`;
    if (!bench.backends.includes("webgpu")) return;
    if (bench.adapter.device !== "gpu") {
      const place = { where: "WebGPU, Node", device: "gpu" } as const;
      const why = "this machine has no GPU";
      yield unmeasured({ row: "gpu", what, ...place }, `at least ${PUBLISHED.toLocaleString("en-US")} tokens/s`, why);
      yield unmeasured({ row: "gpu", what: "LoRA, 1.5B shape, 1 x 512", ...place }, LARGE_TARGET, why);
      yield unmeasured({ row: "gpu", what: "training, decoding, products on a GPU", ...place }, "as in software", why);
      return;
    }
    await activate("webgpu");
    const speeds = await tokensPerSecond(DISTIL_GPT2, bench.quick ? 3 : 30);
    yield atLeast({ row: "gpu", what, ...placeOf("webgpu", bench) }, "tokens/s", spreadOf(speeds), PUBLISHED);
  },
};

async function tokensPerSecond(config: ModelConfig, steps: number): Promise<number[]> {
  const { model, trained } = freshModel(config, "lora");
  const trainer = ourTrainer(model, trained, randomBatch(config.vocabSize, ROWS, LENGTH), 1e-4);
  for (let step = 0; step < 3; step++) await trainer.step();
  const speeds: number[] = [];
  for (let step = 0; step < steps; step++) {
    speeds.push((ROWS * LENGTH * 1000) / (await timed(() => trainer.step())));
  }
  trainer.dispose();
  return speeds;
}
