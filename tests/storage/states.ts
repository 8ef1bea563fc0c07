// Run states to store: real in shape, small in size.

import type { Recipe } from "../../src/protocol/recipe.ts";
import type { Checkpoint, RunState } from "../../src/protocol/run.ts";

export const recipe: Recipe = {
  schemaVersion: 1,
  name: "tiny",
  model: "deepseek-nano",
  study: { kind: "hospital", seed: 7, train: 30, validation: 5, test: 9 },
  stages: [
    { kind: "score", method: "gateFisher", cases: 8 },
    { kind: "prune", removeParameters: 0.4 },
    { kind: "recover", steps: 12, batch: 4, learningRate: 1e-3 },
  ],
  evaluation: { cases: 9, maxNewTokens: 64, batch: 3 },
  checkpointEvery: 5,
  seed: 11,
};

const size = {
  total: 1000,
  embedding: 400,
  attention: 200,
  denseFfn: 150,
  sharedExperts: 100,
  routedExperts: 100,
  router: 30,
  norms: 20,
};

export function stateAt(stage: number, step: number): RunState {
  return {
    schemaVersion: 1,
    recipe,
    stage,
    step,
    report: {
      schemaVersion: 1,
      recipe,
      seed: recipe.seed,
      environment: {
        backend: "wasm",
        device: "CPU (SIMD)",
        reason: "there is no GPU",
        espalier: "0.1.0",
        tensorflowJs: "4.22.0",
        host: "a test",
      },
      model: { name: "deepseek-nano", before: size, after: size },
      scores: null,
      plan: null,
      stages: [],
      evaluations: [],
      latency: null,
      files: [],
      seconds: 0,
    },
    curve: Array.from({ length: step }, (_, index) => [index + 1, 5 / (index + 1)]),
    tokens: step * 100,
    seconds: step,
    part: "main",
    config: { hidden_size: 16, 名: "化" },
  };
}

/** A checkpoint whose tensors are `sizeBytes` bytes that depend on the step. */
export function checkpointAt(stage: number, step: number, sizeBytes = 1003): Checkpoint {
  const tensors = new Uint8Array(sizeBytes);
  for (let i = 0; i < sizeBytes; i++) tensors[i] = (i * 7 + step) % 251;
  return { state: stateAt(stage, step), tensors };
}
