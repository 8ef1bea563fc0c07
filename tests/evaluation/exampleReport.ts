// A report as a run of the hospital recipe leaves it: every part filled, numbers of a likely size.

import type {
  Evaluation,
  EvaluationPoint,
  LayerPlan,
  LayerScores,
  Report,
  StageResult,
} from "../../src/protocol/report.ts";

const HEADS = 6;
const EXPERTS = 8;
const CHANNELS = 128;

/** A value in (0, 1) that looks random and is the same every time. */
function noise(...keys: number[]): number {
  const x = Math.sin(keys.reduce((total, key, i) => total + key * (12.9898 + 7 * i), 1)) * 43_758.5453;
  return x - Math.floor(x);
}

function scoresOf(layer: number): LayerScores {
  const dense = layer === 0;
  const scores = (count: number, kind: number) =>
    Array.from({ length: count }, (_, i) => 10 ** (-6 + 3 * noise(layer, kind, i)));
  return {
    heads: scores(HEADS, 1),
    channels: scores(dense ? CHANNELS * 2 : CHANNELS, 2),
    experts: dense ? [] : scores(EXPERTS, 3),
    expertChannels: dense ? [] : Array.from({ length: EXPERTS }, (_, i) => scores(32, 10 + i)),
    attention: noise(layer, 4) * 1e-3,
    ffn: noise(layer, 5) * 1e-3,
    layer: noise(layer, 6) * 1e-2,
  };
}

/** Indices of the better half. */
function best(list: number[]): number[] {
  const threshold = list.toSorted((a, b) => b - a)[Math.floor(list.length / 2)];
  return list.flatMap((score, i) => (score > threshold ? [i] : []));
}

/** Keeps the better half of everything. */
function planOf(scores: LayerScores): LayerPlan {
  const experts = best(scores.experts);
  return {
    heads: best(scores.heads),
    channels: best(scores.channels),
    experts,
    expertChannels: experts.map((expert) => best(scores.expertChannels[expert])),
  };
}

function stage(kind: StageResult["kind"], steps: number, from: number, to: number): StageResult {
  const curve = Array.from({ length: steps }, (_, i): [number, number] => {
    return [i + 1, to + (from - to) * Math.exp((-4 * i) / steps) + 0.2 * (noise(i, steps) - 0.5)];
  });
  return {
    kind,
    steps,
    seconds: steps * 0.41,
    tokensPerSecond: 6421,
    lossStart: steps > 0 ? from : null,
    lossEnd: steps > 0 ? to : null,
    curve,
    trainableParameters: kind === "recover" ? 618_240 : kind === "score" || kind === "prune" ? 0 : 73_728,
  };
}

function evaluation(point: EvaluationPoint, mode: Evaluation["mode"], accuracy: number): Evaluation {
  const n = 300;
  return {
    point,
    mode,
    n,
    correct: Math.round(accuracy * n),
    accuracy,
    macroF1: accuracy * 0.93,
    interval: [Math.max(0, accuracy - 0.055), Math.min(1, accuracy + 0.055)],
    chainsRight: mode === "chain" ? accuracy * 0.9 : null,
    tokensPerReply: mode === "chain" ? 74.2 : 6.1,
    slices: [
      { name: "seen wording", n: 150, accuracy: Math.min(1, accuracy + 0.03) },
      { name: "unseen wording", n: 150, accuracy: Math.max(0, accuracy - 0.03) },
    ],
    loss: 2.4 - 2 * accuracy,
    seconds: 14,
  };
}

export function exampleReport(): Report {
  const layers = [0, 1, 2, 3].map(scoresOf);
  return {
    schemaVersion: 1,
    recipe: {
      schemaVersion: 1,
      name: "hospital",
      model: "deepseek-nano",
      study: { kind: "hospital", seed: 1, train: 2000, validation: 100, test: 300 },
      stages: [
        { kind: "score", method: "gateFisher", cases: 64 },
        { kind: "prune", removeParameters: 0.4 },
        { kind: "recover", steps: 80, batch: 16, learningRate: 1e-3 },
        { kind: "chains", steps: 160, batch: 16, learningRate: 3e-3, rank: 8, alpha: 16, control: true },
        { kind: "sft", method: "lora", steps: 60, batch: 16, learningRate: 1e-3, rank: 8, alpha: 16 },
      ],
      evaluation: { cases: 300, maxNewTokens: 160, batch: 60 },
      checkpointEvery: 20,
      seed: 7,
    },
    seed: 7,
    environment: {
      backend: "wasm",
      device: "CPU (SIMD)",
      reason: "no GPU was found",
      espalier: "0.1.0",
      tensorflowJs: "4.22.0",
      host: "Node 20.20.2",
    },
    model: {
      name: "deepseek-nano",
      before: sizes(1, 1_030_400),
      after: sizes(0.6, 618_240),
    },
    scores: { method: "gateFisher", cases: 64, layers, splitHalfCorrelation: 0.87 },
    plan: { layers: layers.map(planOf), removedParameters: 412_160, removedShare: 0.4 },
    stages: [
      stage("score", 0, 0, 0),
      stage("prune", 0, 0, 0),
      stage("recover", 80, 3.2, 1.9),
      stage("directControl", 160, 2.4, 1.1),
      stage("chains", 160, 1.8, 0.21),
      stage("sft", 60, 0.4, 0.24),
    ],
    evaluations: [
      evaluation("before", "direct", 0.08),
      evaluation("before", "chain", 0.03),
      evaluation("pruned", "direct", 0.01),
      evaluation("pruned", "chain", 0),
      evaluation("recovered", "direct", 0.21),
      evaluation("recovered", "chain", 0.18),
      evaluation("directControl", "direct", 0.43),
      evaluation("chains", "direct", 0.3),
      evaluation("chains", "chain", 0.81),
      evaluation("sft", "direct", 0.46),
      evaluation("sft", "chain", 0.84),
    ],
    latency: {
      before: { prefillMs: 142.3, prefillSpreadMs: 6.1, decodeMs: 9.8, decodeSpreadMs: 0.7, repeats: 9 },
      after: { prefillMs: 88.9, prefillSpreadMs: 4.2, decodeMs: 6.4, decodeSpreadMs: 0.5, repeats: 9 },
    },
    files: [
      { name: "adapter_model.safetensors", sizeBytes: 295_632, sha256: "ab".repeat(32) },
      { name: "model.safetensors", sizeBytes: 1_238_912, sha256: "cd".repeat(32) },
    ],
    seconds: 642,
  };
}

function sizes(share: number, total: number): Report["model"]["before"] {
  const part = (fraction: number) => Math.round(1_030_400 * fraction * share);
  const rest = { attention: part(0.2), denseFfn: part(0.1), sharedExperts: part(0.1), routedExperts: part(0.3) };
  const small = { router: 3072, norms: 1184 };
  const others = Object.values({ ...rest, ...small }).reduce((sum, count) => sum + count, 0);
  return { total, embedding: total - others, ...rest, ...small };
}
