import { createHash } from "node:crypto";
import { beforeAll, describe, expect, it } from "vitest";
import { parse } from "yaml";
import { sourceOf } from "../../../src/formats/bytes.ts";
import { openGguf } from "../../../src/formats/gguf.ts";
import { readConfig } from "../../../src/formats/hfConfig.ts";
import { decodeToFloat32, encodeFloat32 } from "../../../src/formats/numbers.ts";
import { readAdapter } from "../../../src/formats/peftAdapter.ts";
import type { Model } from "../../../src/models/decoder.ts";
import { type CheckpointTensor, disposeModel, loadModelFrom } from "../../../src/models/weights.ts";
import type { LayerPlan } from "../../../src/protocol/report.ts";
import { writeCheckpoint } from "../../../src/recipes/export/checkpoint.ts";
import type { Folder } from "../../../src/recipes/export/folder.ts";
import { exportAdapter, exportModel, type ExportSource } from "../../../src/recipes/exports.ts";
import { type ModelFiles, Stopped } from "../../../src/recipes/host.ts";
import { attachAdapter } from "../../../src/training/lora.ts";
import { mergedTensors } from "../../../src/training/merged.ts";
import { useBackend } from "../../engine/harness.ts";
import { expectNear, expectNoLeak, logitsOf, tinyIds } from "../../models/tiny.ts";
import { MemoryHost, tinyModelFiles } from "../host.ts";
import { jsonOf, opened, QWEN2, type SourceOptions, sourceFor, textOf } from "./source.ts";

useBackend("wasm");

let deepseek: ModelFiles;
let qwen2: ModelFiles;

beforeAll(async () => {
  [deepseek, qwen2] = [await tinyModelFiles(), await tinyModelFiles(QWEN2)];
});

const CUT = (layers: LayerPlan[]): void => {
  layers[0].heads = [0, 2];
  layers[1].channels = [1, 2];
  if (layers[1].experts.length > 0) layers[1].experts = [0, 2, 3];
};

const ALIKE = (layers: LayerPlan[]): void => {
  for (const layer of layers) [layer.heads, layer.channels] = [[0, 2], layer.channels.slice(0, 19)];
};

/** Export, look, tidy up. */
async function exported(files: ModelFiles, options: SourceOptions, look: (source: Source) => unknown): Promise<void> {
  await expectNoLeak(async () => {
    const source = sourceFor(files, options);
    await exportAll(source);
    await look(source);
    disposeModel(source.model);
  });
}

async function exportAll(source: ExportSource): Promise<void> {
  await exportAdapter(source);
  await exportModel(source);
}

type Source = ReturnType<typeof sourceFor>;

function withModel(folder: Parameters<typeof opened>, use: (model: Model) => void): void {
  const { config, weights } = opened(...folder);
  const model = loadModelFrom(config, weights);
  use(model);
  disposeModel(model);
}

/** The same whether the merged model is loaded, or the adapter put on its base. */
function expectSame({ host, model }: Source, base: ModelFiles | null, tolerance = 1e-5): void {
  const ids = tinyIds(model, [9, 9]);
  const want = logitsOf(model, ids);
  withModel([host, "model"], (merged) => expectNear(logitsOf(merged, ids), want, tolerance));
  const { config, weights } = base ? { config: readConfig(base.config), weights: base.weights } : opened(host, "base");
  const under = loadModelFrom(config, weights);
  const bytes = host.files.get("adapter/adapter_model.safetensors")!;
  attachAdapter(under, readAdapter(jsonOf(host, "adapter/adapter_config.json"), bytes));
  expectNear(logitsOf(under, ids), want, tolerance);
  disposeModel(under);
}

const FAMILIES = [["deepseek"], ["qwen2"]] as const;
const filesOf = (family: "deepseek" | "qwen2") => (family === "deepseek" ? deepseek : qwen2);

describe.each(FAMILIES)("what is exported of %s", (family) => {
  it("answers as the model with its adapters does, merged and on the base that everybody has", async () => {
    await exported(filesOf(family), {}, (source) => {
      expectSame(source, filesOf(family));
      expect([...source.host.files.keys()].filter((name) => name.startsWith("base/"))).toEqual([]);
      expect(jsonOf(source.host, "adapter/adapter_config.json").base_model_name_or_path).toBe("tiny");
      expect(source.report.notes).toEqual([]);
    });
  });

  it("with layers of their own sizes does, too, with the base beside it", async () => {
    await exported(filesOf(family), { cut: CUT }, (source) => {
      expectSame(source, null);
      expect(jsonOf(source.host, "model/config.json").espalier_layers).toHaveLength(2);
      expect(source.report.notes?.join()).toContain("which only Espalier loads");
      expect(textOf(source.host, "model/README.md")).toContain("which only Espalier loads");
    });
  });

  it("padded has the sizes before pruning and answers as the pruned model", async () => {
    await exported(filesOf(family), { cut: CUT, exports: { shape: "padded" } }, (source) => {
      expectSame(source, null);
      const { config, weights } = opened(source.host, "model");
      expect(config.layers).toBeUndefined();
      const shapes = (tensors: ModelFiles["weights"]["tensors"]) =>
        [...tensors].map(([name, { shape }]) => `${name} ${shape.join()}`).toSorted();
      expect(shapes(weights.tensors)).toEqual(shapes(filesOf(family).weights.tensors));
      expect(source.report.notes?.join()).toContain("is written as zeros");
      expect(textOf(source.host, "model/README.md")).toContain("is written as zeros");
    });
  });
});

describe("a checkpoint", () => {
  it.each([
    ["f16", "F16", "float16"],
    ["bf16", "BF16", "bfloat16"],
  ] as const)("is written as %s, rounded once, in files of at most so many bytes", async (dtype, stored, name) => {
    const exports = { dtype, mostShardBytes: 1_000_000 };
    const most = 20_000;
    await expectNoLeak(async () => {
      const source = sourceFor(deepseek, { exports });
      source.report.recipe.exports!.mostShardBytes = most;
      await exportModel(source);
      const { host, model } = source;
      const shards = [...host.files.keys()].filter((file) => file.endsWith(".safetensors"));
      expect(shards.length).toBeGreaterThan(2);
      expect(shards[0]).toBe(`model/model-00001-of-0000${shards.length}.safetensors`);
      expect(jsonOf(host, "model/config.json")).toMatchObject({ torch_dtype: name, dtype: name });
      const { weights } = opened(host, "model");
      for (const { name: tensor, values } of mergedTensors(model)) {
        const bias = tensor.endsWith("e_score_correction_bias");
        expect(weights.tensors.get(tensor)?.dtype, tensor).toBe(bias ? "F32" : stored);
        const own = await values();
        const want = bias ? own : decodeToFloat32(stored, encodeFloat32(own, stored));
        expect(weights.read(tensor), tensor).toEqual(want);
      }
      disposeModel(model);
    });
  });

  it("has its tokenizer, its template in both places, and what ends a reply", async () => {
    await exported(deepseek, {}, ({ host }) => {
      const template = textOf(host, "model/chat_template.jinja");
      expect(template).toContain("<｜Assistant｜>");
      expect(jsonOf(host, "model/tokenizer_config.json").chat_template).toBe(template);
      expect(jsonOf(host, "model/tokenizer.json")).toEqual(deepseek.tokenizer);
      expect(jsonOf(host, "model/generation_config.json")).toEqual({
        bos_token_id: 0,
        eos_token_id: expect.anything(),
      });
      expect(jsonOf(host, "model/config.json")).not.toHaveProperty("auto_map");
      for (const folder of ["model", "adapter"]) {
        const sums = textOf(host, `${folder}/SHA256SUMS`).trimEnd().split("\n");
        const own = [...host.files.keys()].filter((name) => name.startsWith(`${folder}/`));
        expect(sums).toHaveLength(own.length - 1);
        for (const line of sums) {
          const [hash, name] = line.split("  ");
          expect(
            createHash("sha256")
              .update(host.files.get(`${folder}/${name}`)!)
              .digest("hex"),
          ).toBe(hash);
        }
      }
    });
  });

  it("tells in its card where it comes from, what was measured, and nothing of the data but their number and hash", async () => {
    const files = {
      ...deepseek,
      card: '---\nlicense: other\nlicense_name: "deepseek-license"\ntags:\n- a\n---\n# Base\nlicense: not this one\n',
      sources: async () => [{ name: "model.safetensors", sizeBytes: 3, sha256: "ab".repeat(32) }],
    };
    await exported(files, { cut: CUT, exports: { gguf: ["Q8_0"], shape: "padded" } }, ({ host, study, report }) => {
      const card = textOf(host, "model/README.md");
      const [, facts] = card.split(/^---$/m);
      expect(parse(facts)).toEqual({
        base_model: "tiny",
        license: "other",
        license_name: "deepseek-license",
        library_name: "transformers",
        pipeline_tag: "text-generation",
        language: ["en", "zh"],
        tags: ["espalier", "pruned"],
      });
      for (const part of [
        "ab".repeat(32),
        "6 cases to train on",
        "Seed ",
        "10.0 % of the parameters",
        "not medical advice",
      ]) {
        expect(card).toContain(part);
      }
      expect(card).toContain(`| ${report.evaluations[0].point} | ${report.evaluations[0].mode} |`);
      expect(card).toContain("ollama create");
      const said = [...host.files]
        .filter(([name]) => !/safetensors|gguf$|tokenizer/.test(name))
        .map(([name]) => textOf(host, name));
      for (const { question, chain } of [...study.train, ...study.test]) {
        for (const text of said) {
          expect(text).not.toContain(question.slice(0, 40));
          expect(text).not.toContain(chain.slice(0, 40));
        }
      }
    });
  });
});

describe("a uniform export", () => {
  it("is a plain model where pruning left its layers alike", async () => {
    await exported(qwen2, { cut: ALIKE, exports: { shape: "uniform" } }, (source) => {
      expectSame(source, null);
      expect(jsonOf(source.host, "model/config.json")).toMatchObject({ num_attention_heads: 4, intermediate_size: 19 });
      expect(jsonOf(source.host, "model/config.json")).not.toHaveProperty("espalier_layers");
    });
  });

  it("is refused where it did not, and nothing is left", async () => {
    const source = sourceFor(qwen2, { cut: CUT, exports: { shape: "uniform" } });
    await expect(exportModel(source)).rejects.toThrow('layers have 4 to 6 attention heads. Ask for the shape "padded"');
    expect(source.host.files.size).toBe(0);
    disposeModel(source.model);
  });
});

describe("GGUF files", () => {
  it("hold the merged model, padded where layers differ, and a Modelfile", async () => {
    await exported(deepseek, { cut: CUT, exports: { gguf: ["F32", "F16"] } }, ({ host, model, report }) => {
      const { config, weights } = openGguf(sourceOf(host.files.get("gguf/tiny-one-F32.gguf")!, "tiny-one-F32.gguf"));
      const loaded = loadModelFrom(readConfig(config), weights);
      const ids = tinyIds(model, [9, 9]);
      expectNear(logitsOf(loaded, ids), logitsOf(model, ids), 1e-5);
      disposeModel(loaded);
      expect(host.files.has("gguf/tiny-one-F16.gguf")).toBe(true);
      expect(textOf(host, "gguf/Modelfile")).toContain("FROM ./tiny-one-F32.gguf");
      expect(report.notes?.join()).toContain("gguf/: What pruning removed is written as zeros");
    });
  });
});

describe("an export that is stopped", () => {
  const LARGE = { gguf: ["F16" as const], shape: "padded" as const };

  it("leaves nothing of the folder that it was in, wherever it was", async () => {
    const whole = new MemoryHost(deepseek);
    await exported(deepseek, { cut: CUT, exports: LARGE, host: whole }, () => {});
    expect(whole.asked).toBeGreaterThan(20);
    for (let point = 1; point <= whole.asked; point++) {
      const host = new MemoryHost(deepseek, point);
      const source = sourceFor(deepseek, { cut: CUT, exports: LARGE, host });
      await expect(exportAll(source), `stop ${point}`).rejects.toThrow(Stopped);
      expect(host.open, `stop ${point}`).toEqual(new Set());
      const folders = new Set([...host.files.keys()].map((name) => name.split("/")[0]));
      for (const folder of folders) {
        if (folder !== "report.json")
          expect(host.files.has(`${folder}/SHA256SUMS`), `stop ${point}: ${folder}`).toBe(true);
      }
      expect(source.report.files.map(({ name }) => name)).toEqual(
        [...host.files.keys()].filter((name) => name.includes("/")),
      );
      disposeModel(source.model);
    }
  }, 60_000);

  it("by a disk that is full leaves nothing, and says so", async () => {
    const host = new MemoryHost(deepseek);
    const openFile = host.openFile.bind(host);
    host.openFile = async (name) => {
      const file = await openFile(name);
      let left = 50_000;
      return {
        ...file,
        write: async (bytes) => {
          left -= bytes.length;
          if (left < 0) throw new Error("the disk is full");
          await file.write(bytes);
        },
      };
    };
    const source = sourceFor(deepseek, { host });
    await expect(exportModel(source)).rejects.toThrow("the disk is full");
    expect([host.files.size, host.open.size]).toEqual([0, 0]);
    disposeModel(source.model);
  });

  it("by a weight that its type cannot hold names it and what to do", async () => {
    const weights = {
      ...deepseek.weights,
      read: (name: string, rows?: [number, number]) =>
        deepseek.weights.read(name, rows).map((x) => (name === "model.norm.weight" ? 1e6 : x)),
    };
    const source = sourceFor({ ...deepseek, weights }, { exports: { dtype: "f16" } });
    await expect(exportModel(source)).rejects.toThrow(
      "model.norm.weight: The value 1000000 does not fit F16. Store these weights as F32.",
    );
    expect([source.host.files.size, source.host.open.size]).toEqual([0, 0]);
    disposeModel(source.model);
  });
});

describe("a checkpoint larger than memory", () => {
  it("is written with one tensor held at a time", async () => {
    const SIZE = 1 << 16;
    let [held, most] = [0, 0];
    const tensors = Array.from(
      { length: 300 },
      (_, i): CheckpointTensor => ({
        name: `model.layers.${i}.mlp.up_proj.weight`,
        shape: [256, SIZE / 256],
        values: async () => {
          held += 4 * SIZE;
          most = Math.max(most, held);
          return new Float32Array(SIZE).fill(i);
        },
      }),
    );
    let [files, written] = [0, 0];
    const folder: Folder = {
      write: async () => {},
      stream: async (_, fill) => {
        files += 1;
        return fill({
          write: async ({ length }) => {
            written += length;
            if (length === 2 * SIZE) held -= 4 * SIZE;
          },
        });
      },
    };
    const { model, tokenizer }: ExportSource = sourceFor(deepseek);
    const exports = { dtype: "bf16", mostShardBytes: 40 * 2 * SIZE } as const;
    await writeCheckpoint(folder, { config: model.config, tensors, parts: deepseek, tokenizer, exports });
    expect([files, held, most]).toEqual([8, 0, 4 * SIZE]);
    expect(written).toBeGreaterThan(300 * 2 * SIZE);
    disposeModel(model);
  });
});
