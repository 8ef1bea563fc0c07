// A place where recipes run in tests: a tiny random model, and storage in memory that keeps what real storage keeps.

import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { readConfig } from "../../src/formats/hfConfig.ts";
import { disposeModel, initModel, saveModel } from "../../src/models/weights.ts";
import type { CaseStudy } from "../../src/protocol/data.ts";
import type { Checkpoint, RunEvent } from "../../src/protocol/run.ts";
import { sourceOf } from "../../src/formats/bytes.ts";
import { NOTHING_BESIDE } from "../../src/formats/checkpoint.ts";
import { openSafetensors } from "../../src/formats/safetensors.ts";
import type { ModelFiles, RunHost } from "../../src/recipes/host.ts";
import type { OpenFile } from "../../src/storage/files.ts";
import { shippedJson } from "../data/shipped.ts";

const TINY = {
  hidden_size: 24,
  num_hidden_layers: 2,
  num_attention_heads: 3,
  num_key_value_heads: 3,
  q_lora_rank: 12,
  kv_lora_rank: 10,
  qk_nope_head_dim: 8,
  qk_rope_head_dim: 4,
  v_head_dim: 8,
  intermediate_size: 40,
  moe_intermediate_size: 19,
  n_routed_experts: 4,
  num_experts_per_tok: 2,
};

/** deepseek-nano's tokenizer with a random model of some thousand parameters beside its embedding. */
export async function tinyModelFiles(changes: Record<string, unknown> = {}): Promise<ModelFiles> {
  const nano = JSON.parse(readFileSync("public/models/deepseek-nano/config.json", "utf8"));
  const config = { ...nano, ...TINY, ...changes };
  const model = initModel(readConfig(config), 1);
  const weights = await saveModel(model, "F32");
  disposeModel(model);
  return {
    config,
    tokenizer: shippedJson("tokenizer.json"),
    tokenizerConfig: shippedJson("tokenizer_config.json"),
    ...NOTHING_BESIDE,
    weights: openSafetensors([sourceOf(weights, "model.safetensors")]),
  };
}

/** Checkpoints and files in memory. State goes through JSON, as it does in every real storage. */
export class MemoryHost implements RunHost {
  readonly description = "memory";
  readonly files = new Map<string, Uint8Array>();
  /** Files that were begun and neither closed nor aborted. */
  readonly open = new Set<string>();
  readonly events: RunEvent[] = [];
  readonly checkpoints: Checkpoint[] = [];
  /** How often the run has asked whether to stop. */
  asked = 0;
  private readonly model: ModelFiles;
  private readonly study: CaseStudy | null;
  private readonly stopAt: number;

  /** From the `stopAt`-th time that it asks (from 1), the run is told to stop. */
  constructor(model: ModelFiles, stopAt = Infinity, study: CaseStudy | null = null) {
    this.model = model;
    this.study = study;
    this.stopAt = stopAt;
  }

  async readModel(): Promise<ModelFiles> {
    return this.model;
  }

  async readStudy(datasetId: string): Promise<CaseStudy> {
    if (!this.study) throw new Error(`There is no data set ${datasetId}.`);
    return this.study;
  }

  async saveCheckpoint({ state, tensors }: Checkpoint): Promise<void> {
    this.checkpoints.push({ state: JSON.parse(JSON.stringify(state)), tensors: tensors.slice() });
  }

  async openFile(name: string): Promise<OpenFile> {
    const pieces: Uint8Array[] = [];
    this.open.add(name);
    return {
      write: async (bytes) => void pieces.push(bytes.slice()),
      close: async () => {
        const bytes = Uint8Array.from(Buffer.concat(pieces));
        this.open.delete(name);
        this.files.set(name, bytes);
        return { sizeBytes: bytes.length, sha256: createHash("sha256").update(bytes).digest("hex") };
      },
      abort: async () => void this.open.delete(name),
    };
  }

  async clearFolder(folder: string): Promise<void> {
    for (const name of this.files.keys()) if (name.startsWith(`${folder}/`)) this.files.delete(name);
  }

  async removeFile(name: string): Promise<void> {
    this.files.delete(name);
  }

  onEvent(event: RunEvent): void {
    this.events.push(structuredClone(event));
  }

  stopping(): boolean {
    this.asked += 1;
    return this.asked >= this.stopAt;
  }
}
