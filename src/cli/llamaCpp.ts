// llama.cpp through the package node-llama-cpp, the judge of what we export. It is large and is installed by hand, apart.

import { existsSync } from "node:fs";
import { join } from "node:path";
import { pathToFileURL } from "node:url";

const VERSION = "3.22.1";
const FOLDER = join(".cache", "llama.cpp");

/** A model that is loaded. */
export interface LlamaModel {
  /** The logits at each place, [T][V]. With `adapter`, the path of a GGUF adapter, under it. */
  logits: (ids: number[], adapter?: string) => Promise<Float32Array[]>;
  tokenize: (text: string) => number[];
  dispose: () => Promise<void>;
}

/** Throws a sentence that says how to get it where it is not installed. */
export async function openLlamaCpp(): Promise<{ load: (path: string) => Promise<LlamaModel> }> {
  const entry = join(FOLDER, "node_modules", "node-llama-cpp", "dist", "index.js");
  if (!existsSync(entry)) {
    throw new Error(
      `llama.cpp is not there. Install it (700 MB, not part of Espalier): npm install --prefix ${FOLDER} node-llama-cpp@${VERSION}`,
    );
  }
  const { getLlama, LlamaLogLevel } = (await import(/* @vite-ignore */ pathToFileURL(entry).href)) as NodeLlamaCpp;
  const llama = await getLlama({ gpu: false, build: "never", logLevel: LlamaLogLevel.error });
  return { load: async (path) => openModel(await llama.loadModel({ modelPath: path, useMmap: false })) };
}

function openModel(model: Loaded): LlamaModel {
  return {
    logits: async (ids, adapter) => {
      // The cache in float32 and attention step by step: by default both round, the first by up to 0.016 in log-probability.
      const context = await model.createContext({
        contextSize: ids.length + 1,
        threads: 2,
        flashAttention: false,
        experimentalKvCacheKeyType: "F32",
        experimentalKvCacheValueType: "F32",
        ...(adapter === undefined ? {} : { lora: adapter }),
      });
      const sequence = context.getSequence();
      const told = await sequence.controlledEvaluate(ids.map((id) => [id, { generateNext: { logits: true } }]));
      const places = told.map((one) => inOrder(one!.next.logits));
      await context.dispose();
      return places;
    },
    tokenize: (text) => model.tokenize(text, false),
    dispose: () => model.dispose(),
  };
}

function inOrder(byToken: Map<number, number>): Float32Array {
  const logits = new Float32Array(byToken.size);
  for (const [token, logit] of byToken) logits[token] = logit;
  return logits;
}

/** What is used of the package. */
interface NodeLlamaCpp {
  LlamaLogLevel: { error: string };
  getLlama: (options: object) => Promise<{ loadModel: (options: object) => Promise<Loaded> }>;
}

interface Loaded {
  createContext: (options: object) => Promise<{ getSequence: () => Sequence; dispose: () => Promise<void> }>;
  tokenize: (text: string, specialTokens: boolean) => number[];
  dispose: () => Promise<void>;
}

interface Sequence {
  controlledEvaluate: (input: [number, object][]) => Promise<({ next: { logits: Map<number, number> } } | undefined)[]>;
}
