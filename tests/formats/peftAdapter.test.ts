import { readFileSync } from "node:fs";
import * as fc from "fast-check";
import { describe, expect, it } from "vitest";
import { type Adapter, adapterScale, readAdapter, writeAdapter } from "../../src/formats/peftAdapter.ts";
import { packSafetensors, readSafetensors } from "../../src/formats/safetensors.ts";

const FOLDER = "tests/fixtures/qwen2-tiny/lora";
const config: Record<string, unknown> = JSON.parse(readFileSync(`${FOLDER}/adapter_config.json`, "utf8"));
const weights = readFileSync(`${FOLDER}/adapter_model.safetensors`);

const zeros = (name: string, shape: number[]) => {
  const values = new Float32Array(shape.reduce((product, size) => product * size, 1));
  return { name, dtype: "F32" as const, shape, data: new Uint8Array(values.buffer) };
};

const again = (adapter: Adapter): Adapter => {
  const files = writeAdapter(adapter);
  return readAdapter(JSON.parse(JSON.stringify(files.config)), files.weights);
};

describe("an adapter of PEFT's", () => {
  const adapter = readAdapter(config, weights);

  it("is read with its modules, sizes and scale", () => {
    const wanted = [0, 1, 2].flatMap((layer) =>
      ["q_proj", "v_proj"].map((name) => `model.layers.${layer}.self_attn.${name}`),
    );
    expect([...adapter.modules.keys()].toSorted()).toEqual(wanted);
    expect(adapter).toMatchObject({ rsLora: false, baseModel: "qwen2-tiny", mixture: false });
    const { a, b, ...sizes } = adapter.modules.get("model.layers.0.self_attn.v_proj")!;
    expect([a.length, b.length, sizes]).toEqual([4 * 64, 32 * 4, { rank: 4, alpha: 8, in: 64, out: 32 }]);
    expect(adapterScale(sizes, false)).toBe(2);
    expect(adapterScale(sizes, true)).toBe(4);
    expect(a.some((value) => value !== 0)).toBe(true);
  });

  it("is written with the same names, shapes and bytes", () => {
    const written = readSafetensors(writeAdapter(adapter).weights);
    const original = readSafetensors(weights);
    expect([...written.keys()].toSorted()).toEqual([...original.keys()].toSorted());
    for (const [name, { dtype, shape, data }] of original) {
      const copy = written.get(name)!;
      expect([copy.dtype, copy.shape]).toEqual([dtype, shape]);
      expect(Buffer.from(copy.data).equals(data)).toBe(true);
    }
  });

  it("is written with the keys that PEFT needs and no other, its modules by last names and layers", () => {
    const written = writeAdapter(adapter).config;
    expect(written).toMatchObject({ ...config, layers_to_transform: [0, 1, 2] });
    const portable =
      "peft_type task_type base_model_name_or_path r lora_alpha lora_dropout bias fan_in_fan_out inference_mode " +
      "init_lora_weights modules_to_save layers_to_transform rank_pattern alpha_pattern target_modules use_rslora use_dora";
    expect(Object.keys(written).toSorted()).toEqual(portable.split(" ").toSorted());
  });

  it("is written with names in full where last names would say too much", () => {
    const modules = new Map([...adapter.modules].slice(1));
    expect(writeAdapter({ ...adapter, modules }).config).toMatchObject({
      layers_to_transform: null,
      target_modules: [...modules.keys()],
    });
  });
});

// What PEFT does with a config, written anew after its sources: once as versions 0.8 to 0.14 look patterns up, once as
// later ones do.

type Config = Record<string, never> & {
  r: number;
  lora_alpha: number;
  rank_pattern: Record<string, number>;
  alpha_pattern: Record<string, number>;
  target_modules: string[];
  target_parameters?: string[];
  layers_to_transform: number[] | null;
};

const older = (peft: Config, key: string) => {
  const keys = [...Object.keys(peft.rank_pattern), ...Object.keys(peft.alpha_pattern)];
  const found = keys.find((each) => new RegExp(`^.*\\.${each}$`).test(key)) ?? key;
  return { rank: peft.rank_pattern[found] ?? peft.r, alpha: peft.alpha_pattern[found] ?? peft.lora_alpha };
};

const newer = (peft: Config, key: string) => {
  const find = (keys: string[]) => keys.find((each) => new RegExp(`^(.*\\.)?(${each})$`).test(key)) ?? key;
  const [rank, alpha] = [find(Object.keys(peft.rank_pattern)), find(Object.keys(peft.alpha_pattern))];
  return { rank: peft.rank_pattern[rank] ?? peft.r, alpha: peft.alpha_pattern[alpha] ?? peft.lora_alpha };
};

const targeted = ({ target_modules: modules, layers_to_transform: layers }: Config, key: string) => {
  if (modules.includes(key)) return true;
  if (!modules.some((each) => key.endsWith(`.${each}`))) return false;
  return layers === null || layers.includes(Number(/^.*\.[^.]*\.(\d+)\./.exec(key)?.[1]));
};

const QWEN2 = ["q_proj", "k_proj", "v_proj", "o_proj"]
  .map((name) => `self_attn.${name}`)
  .concat(["gate_proj", "up_proj", "down_proj"].map((name) => `mlp.${name}`));
const LATENT = ["q_a_proj", "q_b_proj", "kv_a_proj_with_mqa", "kv_b_proj", "o_proj"].map((name) => `self_attn.${name}`);
const DENSE = ["gate_proj", "up_proj", "down_proj"].map((name) => `mlp.${name}`);
const SHARED = ["gate_proj", "up_proj", "down_proj"].map((name) => `mlp.shared_experts.${name}`);

const inLayers = (layers: number[], names: string[]) =>
  layers.flatMap((layer) => names.map((name) => `model.layers.${layer}.${name}`));

/** Every module of a base that could be adapted, and those that only others can adapt. */
const BASES = {
  qwen2: { mixture: false, modules: inLayers([0, 1, 2, 10, 11, 12], QWEN2), never: ["lm_head"] },
  deepseek: {
    mixture: true,
    modules: [...inLayers([0], [...LATENT, ...DENSE]), ...inLayers([1, 11], [...LATENT, ...SHARED])],
    never: ["lm_head", ...inLayers([1, 11], ["mlp.gate", ...DENSE.map((name) => name.replace(".", ".experts.0."))])],
  },
};

const pairs = fc.record({ rank: fc.integer({ min: 1, max: 4 }), alpha: fc.constantFrom(1, 2, 8, 0.3) });

/** An adapter on some modules of a base: any, or all of some names in some layers; ranks and alphas as they come. */
function adapters(base: { mixture: boolean; modules: string[] }): fc.Arbitrary<Adapter> {
  const product = fc
    .tuple(fc.subarray(base.modules, { minLength: 1 }), fc.subarray([0, 1, 2, 10, 11, 12], { minLength: 1 }))
    .map(([some, layers]) => base.modules.filter((name) => some.includes(name) && layers.includes(layerOf(name))))
    .filter((names) => names.length > 0);
  const names = fc.oneof(product, fc.subarray(base.modules, { minLength: 1 }));
  return fc
    .tuple(names, fc.oneof(fc.constant([{ rank: 2, alpha: 3 }]), fc.array(pairs, { minLength: 2 })), fc.boolean())
    .map(([modules, settings, rsLora]) => {
      const made = modules.map((name, i) => {
        const { rank, alpha } = settings[i % settings.length];
        const a = Float32Array.from({ length: 3 * rank }, (_, k) => Math.fround(i + k / 7));
        return [name, { rank, alpha, a, b: a.slice(rank).toReversed(), in: 3, out: 2 }] as const;
      });
      // What a file cannot tell: a base with routed experts, where none of its own modules is adapted.
      const tells = modules.some((name) => /kv_|q_a|q_b|mlp/.test(name));
      return { rsLora, baseModel: "base", mixture: base.mixture && tells, modules: new Map(made) };
    });
}

const layerOf = (name: string) => Number(name.split(".")[2]);

describe.each(Object.entries(BASES))("any adapter on %s", (_, base) => {
  it("is the same after writing and reading: tensors, ranks, alphas, scale", () => {
    fc.assert(
      fc.property(adapters(base), (adapter) => {
        expect(again(adapter)).toEqual(adapter);
      }),
    );
  });

  it("is for PEFT, old and new, on the same modules with the same ranks and alphas", () => {
    fc.assert(
      fc.property(adapters(base), (adapter) => {
        const peft = writeAdapter(adapter).config as Config;
        for (const module of [...base.modules, ...base.never]) {
          const pair = adapter.modules.get(module);
          const parameter = peft.target_parameters?.includes(`${module}.weight`) ?? false;
          expect(targeted(peft, module) || parameter, module).toBe(pair !== undefined);
          if (!pair) continue;
          const want = { rank: pair.rank, alpha: pair.alpha };
          expect(newer(peft, parameter ? `${module}.weight` : module), module).toEqual(want);
          if (!parameter) expect(older(peft, module), module).toEqual(want);
        }
      }),
    );
  });
});

describe("on a base with routed experts", () => {
  const on = (modules: string[], mixture = true) => {
    const pair = { rank: 1, alpha: 1, a: new Float32Array(3), b: new Float32Array(2), in: 3, out: 2 };
    const all = new Map(modules.map((name) => [name, pair]));
    return writeAdapter({ rsLora: false, baseModel: "", mixture, modules: all }).config;
  };

  it("no MLP is a target module, whose name PEFT would take for the experts': it is a parameter", () => {
    const written = on([...inLayers([0], [...LATENT, ...DENSE]), ...inLayers([1], [...LATENT, ...SHARED])]);
    expect(written.target_modules).toEqual(LATENT.map((name) => name.replace("self_attn.", "")));
    const mlps = [...inLayers([0], DENSE), ...inLayers([1], SHARED)];
    expect(written.target_parameters).toEqual(mlps.map((name) => `${name}.weight`));
  });

  it("attention alone is written as anywhere, without the key that old versions refuse", () => {
    expect(on(inLayers([0, 1], LATENT))).not.toHaveProperty("target_parameters");
    expect(on(inLayers([0], DENSE), false)).not.toHaveProperty("target_parameters");
  });
});

describe("a config of the newest PEFT", () => {
  it("is read, keys that change nothing left aside", () => {
    const more = `{
      "alora_invocation_tokens": null, "arrow_config": null, "auto_mapping": null, "corda_config": null,
      "ensure_weight_tying": false, "eva_config": null, "exclude_modules": null, "kasa_config": null,
      "layer_replication": null, "layers_pattern": null, "loftq_config": {}, "lora_bias": false,
      "lora_ga_config": null, "megatron_config": null, "megatron_core": "megatron.core", "monteclora_config": null,
      "peft_version": "0.21.0", "qalora_group_size": 16, "revision": null, "target_parameters": null,
      "trainable_token_indices": null, "use_bdlora": null, "use_qalora": false, "velora_config": null,
      "some_key_of_2031": {"nobody": "knows"}
    }`;
    const newest = { ...config, ...(JSON.parse(more) as object) };
    expect(readAdapter(newest, weights)).toEqual(readAdapter(config, weights));
  });

  it.each([
    { target_modules: String.raw`.*\.self_attn\.(q|v)_proj` },
    { target_modules: "all-linear" },
    { target_modules: null },
    { target_modules: ["self_attn.q_proj", "v_proj"], layers_to_transform: [0, 1, 2] },
    { layers_pattern: "layers", layers_to_transform: [0, 1, 2], exclude_modules: ["o_proj"] },
    { rank_pattern: { "nowhere.q_proj": 9 }, alpha_pattern: { k_proj: 1 } },
    { init_lora_weights: "gaussian" },
    {
      target_modules: ["q_proj"],
      target_parameters: [0, 1, 2].map((layer) => `layers.${layer}.self_attn.v_proj.weight`),
    },
  ])("may name its modules otherwise: %j", (change) => {
    const { modules } = readAdapter({ ...config, ...change }, weights);
    expect(modules).toEqual(readAdapter(config, weights).modules);
  });

  it("gives alphas of their own to the modules of a pattern", () => {
    const { modules } = readAdapter({ ...config, alpha_pattern: { [String.raw`layers\.[01]\..*q_proj`]: 3 } }, weights);
    expect([...modules].filter(([, { alpha }]) => alpha === 3).map(([name]) => name)).toEqual(
      inLayers([0, 1], ["self_attn.q_proj"]),
    );
  });
});

describe("what would be read as something else is refused:", () => {
  const q = "base_model.model.model.layers.0.self_attn.q_proj";
  const pair = [zeros(`${q}.lora_A.weight`, [4, 8]), zeros(`${q}.lora_B.weight`, [6, 4])];
  const expert = q.replace("self_attn.q_proj", "mlp.experts.3.up_proj");

  it.each([
    [{ peft_type: "IA3" }, pair, 'adapter_config.json is of type "IA3"'],
    [{ r: 0 }, pair, "adapter_config.json has r 0 and lora_alpha 8"],
    [{ lora_alpha: "8" }, pair, 'lora_alpha "8"'],
    [{ use_dora: true }, pair, "The adapter has use_dora true, which is not supported."],
    [{ use_qalora: true }, pair, "use_qalora true"],
    [{ lora_bias: true }, pair, "lora_bias true"],
    [{ bias: "all" }, pair, 'The adapter has bias "all"'],
    [{ fan_in_fan_out: true }, pair, "fan_in_fan_out true"],
    [{ modules_to_save: ["lm_head"] }, pair, 'modules_to_save ["lm_head"]'],
    [{ trainable_token_indices: [3] }, pair, "trainable_token_indices [3]"],
    [{ layer_replication: [[0, 4]] }, pair, "layer_replication [[0,4]]"],
    [{ alora_invocation_tokens: [1, 2] }, pair, "alora_invocation_tokens [1,2]"],
    [{ arrow_config: { top_k: 2 } }, pair, "arrow_config"],
    [{ init_lora_weights: "pissa" }, pair, 'init_lora_weights "pissa"'],
    [{ target_parameters: ["mlp.experts.gate_up_proj"] }, pair, 'target_parameters "mlp.experts.gate_up_proj"'],
    [
      { rank_pattern: { q_proj: 2 } },
      pair,
      "lora_A [4,8] and lora_B [6,4], and adapter_config.json gives it the rank 2",
    ],
    [{ rank_pattern: { q_proj: 1.5 } }, pair, 'rank_pattern {"q_proj":1.5}; names of modules with whole numbers'],
    [{ alpha_pattern: { q_proj: "8" } }, pair, 'alpha_pattern {"q_proj":"8"}; names of modules with positive numbers'],
    [{ alpha_pattern: { "(?=q)": 8 } }, pair, 'The pattern "(.*\\.)?((?=q))" has "(?="'],
    [{ target_modules: ["v_proj"] }, pair, "which its adapter_config.json does not name (target_modules)"],
    [{ layers_to_transform: [1] }, pair, "does not name (target_modules)"],
    [{ exclude_modules: ["q_proj"] }, pair, "does not name (target_modules)"],
    [{ target_modules: 3 }, pair, "target_modules 3; a list of names is wanted"],
    [{ layers_to_transform: ["1"] }, pair, 'layers_to_transform ["1"]; numbers of layers are wanted'],
    [{}, [...pair, zeros("base_model.model.lm_head.weight", [4, 4])], "a whole matrix (modules_to_save)"],
    [{}, [...pair, zeros(`${q}.lora_magnitude_vector`, [6])], "lora_magnitude_vector\" [6], which is DoRA's"],
    [{}, [...pair, zeros(`${q}.lora_B.bias`, [6])], "a bias of the adapter's own"],
    [{}, [...pair, zeros("base_model.model.embed_tokens.lora_embedding_A", [4, 9])], "adapters on embeddings"],
    [
      {},
      [...pair, zeros(`${expert}.lora_A.weight`, [4, 8])],
      "on routed experts (model.layers.0.mlp.experts.3.up_proj)",
    ],
    [
      {},
      [zeros(`${q}.lora_A.weight`, [2, 8]), pair[1]],
      "lora_A [2,8] and lora_B [6,4], and adapter_config.json gives",
    ],
    [{}, [pair[0]], "model.layers.0.self_attn.q_proj has only one of lora_A and lora_B"],
    [{}, [], "The adapter holds no weights"],
  ])("%j (%#)", (change, tensors, message) => {
    expect(() => readAdapter({ ...config, ...change }, packSafetensors(tensors))).toThrow(message);
  });

  it("whatever stands in the config, in a sentence", () => {
    const value = fc.oneof(
      fc.jsonValue(),
      fc.constantFrom<unknown>("q_proj", ["q_proj"], { q_proj: 4 }, "(.*)+", 4, 8, true, "LORA"),
    );
    const keys = "r lora_alpha target_modules rank_pattern alpha_pattern layers_to_transform layers_pattern bias".split(
      " ",
    );
    const more = ["exclude_modules", "target_parameters", "use_rslora", "peft_type", "base_model_name_or_path"];
    const change = fc.dictionary(fc.constantFrom(...keys, ...more), value, { maxKeys: 3 });
    const file = packSafetensors(pair);
    fc.assert(
      fc.property(change, (changed) => {
        try {
          const { modules } = readAdapter({ ...config, ...changed }, file);
          expect([...modules.values()]).toMatchObject([{ rank: 4, in: 8, out: 6 }]);
        } catch (error) {
          expect((error as Error).name).toBe("Error"); // Not a TypeError: a sentence of ours.
          expect((error as Error).message).toMatch(/^[A-Z"a-z].*\.$/s);
        }
      }),
      { numRuns: 1000 },
    );
  });
});
