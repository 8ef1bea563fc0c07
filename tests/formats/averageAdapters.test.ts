import * as fc from "fast-check";
import { describe, expect, it } from "vitest";
import { averageFactors, averageStacked, type Site } from "../../src/formats/averageAdapters.ts";
import { type Adapter, adapterScale, type LoraPair, readAdapter, writeAdapter } from "../../src/formats/peftAdapter.ts";
import { normal } from "../engine/harness.ts";

const SIZES = { "model.layers.0.self_attn.q_proj": [5, 3], "model.layers.1.mlp.up_proj": [4, 7] } as const;

interface Settings {
  rank: number;
  alpha?: number;
  rsLora?: boolean;
  seed?: number;
}

function adapter({ rank, alpha = 3, rsLora = false, seed = 1 }: Settings): Adapter {
  const modules = Object.entries(SIZES).map(([name, [width, out]], i): [string, LoraPair] => {
    const values = (shape: number[], own: number) => normal(shape, 10 * seed + own).values as Float32Array;
    const [a, b] = [values([rank, width], 2 * i), values([out, rank], 2 * i + 1)];
    return [name, { rank, alpha, a, b, in: width, out }];
  });
  return { rsLora, baseModel: "base", mixture: false, modules: new Map(modules) };
}

const site = (settings: Settings, rows: number, name = "a"): Site => ({ name, adapter: adapter(settings), rows });

/** What the adapter adds to a module's weight: [out, in], in float64. */
function added({ modules, rsLora }: Adapter, module: string): number[] {
  const pair = modules.get(module)!;
  const { a, b, rank, in: width, out } = pair;
  const scale = adapterScale(pair, rsLora);
  return Array.from({ length: out * width }, (_, i) => {
    const [row, column] = [Math.floor(i / width), i % width];
    let sum = 0;
    for (let k = 0; k < rank; k++) sum += b[row * rank + k] * a[k * width + column];
    return scale * sum;
  });
}

/** The mean by rows of what the sites' adapters add. */
function meanAdded(sites: Site[], module: string): number[] {
  const total = sites.reduce((sum, { rows }) => sum + rows, 0);
  const each = sites.map((one) => ({ share: one.rows / total, delta: added(one.adapter, module) }));
  return each[0].delta.map((_, i) => each.reduce((sum, { share, delta }) => sum + share * delta[i], 0));
}

const largest = (values: number[]) => Math.max(...values.map(Math.abs));
const difference = (a: number[], b: number[]) => largest(a.map((value, i) => value - b[i]));

const settings = fc.record({
  rank: fc.integer({ min: 1, max: 4 }),
  alpha: fc.constantFrom(1, 3, 16),
  rsLora: fc.boolean(),
  seed: fc.integer({ min: 1, max: 50 }),
});
const sitesOf = fc.array(fc.tuple(settings, fc.integer({ min: 1, max: 1000 })), { minLength: 2, maxLength: 4 });

describe("stacked, the average", () => {
  it("adds to each weight the mean of what the sites' adapters add, whatever their ranks and scales", () => {
    fc.assert(
      fc.property(sitesOf, (all) => {
        const sites = all.map(([own, rows]) => site(own, rows));
        const average = averageStacked(sites);
        for (const module of Object.keys(SIZES)) {
          const want = meanAdded(sites, module);
          expect(difference(added(average, module), want)).toBeLessThanOrEqual(2e-6 * (1 + largest(want)));
          const ranks = all.reduce((sum, [{ rank }]) => sum + rank, 0);
          expect(average.modules.get(module)).toMatchObject({ rank: ranks, alpha: ranks });
        }
        const files = writeAdapter(average);
        expect(readAdapter(files.config, files.weights)).toEqual(average);
      }),
    );
  });

  it("of one adapter twice adds what that adds", () => {
    const one = site({ rank: 2 }, 3);
    const average = averageStacked([one, { ...one, rows: 5 }]);
    for (const module of Object.keys(SIZES)) {
      expect(difference(added(average, module), added(one.adapter, module))).toBeLessThan(1e-5);
    }
  });
});

describe("the average of the factors", () => {
  it("has the rank of one, and says how far it is from the exact one", () => {
    fc.assert(
      fc.property(
        fc.array(fc.tuple(fc.integer({ min: 1, max: 50 }), fc.integer({ min: 1, max: 99 })), {
          minLength: 2,
          maxLength: 3,
        }),
        (all) => {
          const sites = all.map(([seed, rows]) => site({ rank: 2, rsLora: true, seed }, rows));
          const { adapter: average, error } = averageFactors(sites);
          let [off, size] = [0, 0];
          for (const module of Object.keys(SIZES)) {
            expect(average.modules.get(module)).toMatchObject({ rank: 2, alpha: 3 });
            const [found, want] = [added(average, module), meanAdded(sites, module)];
            found.forEach((value, i) => {
              off += (value - want[i]) ** 2;
              size += want[i] ** 2;
            });
          }
          expect(error).toBeCloseTo(Math.sqrt(off / size), 3);
        },
      ),
    );
  });

  it("is the mean of A and the mean of B, by rows", () => {
    const sites = [site({ rank: 2, seed: 1 }, 30), site({ rank: 2, seed: 2 }, 10)];
    const { adapter: average } = averageFactors(sites);
    for (const [module, { a, b }] of average.modules) {
      const [one, other] = sites.map((each) => each.adapter.modules.get(module)!);
      a.forEach((value, i) => expect(value).toBeCloseTo(0.75 * one.a[i] + 0.25 * other.a[i], 6));
      b.forEach((value, i) => expect(value).toBeCloseTo(0.75 * one.b[i] + 0.25 * other.b[i], 6));
    }
  });

  it("is exact where the sites share A", () => {
    const [one, other] = [site({ rank: 2, seed: 1 }, 1), site({ rank: 2, seed: 2 }, 1)];
    for (const [module, pair] of other.adapter.modules) pair.a = one.adapter.modules.get(module)!.a;
    expect(averageFactors([one, other]).error).toBeLessThan(1e-6);
  });
});

describe("adapters that do not belong together are refused:", () => {
  const one = site({ rank: 2 }, 1, "a");
  const changed = (change: Partial<Adapter>): Site[] => [
    one,
    { ...one, name: "b", adapter: { ...one.adapter, ...change } },
  ];
  const [[q, pair], up] = [...one.adapter.modules];

  it.each<[string, Site[], string]>([
    ["one alone", [one], "An average wants two adapters or more, and 1 were given."],
    ["of two bases", changed({ baseModel: "other" }), 'a is of the base "base" and b of "other"; adapters of one base'],
    ["with fewer modules", changed({ modules: new Map([up]) }), `for ${q} and b nothing; adapters on the same modules`],
    [
      "of other sizes",
      changed({ modules: new Map([[q, { ...pair, in: 6 }], up]) }),
      `a has 5 inputs and 3 outputs for ${q} and b 6 inputs and 3 outputs`,
    ],
  ])("%s", (_, sites, message) => {
    expect(() => averageStacked(sites)).toThrow(message);
    expect(() => averageFactors(sites)).toThrow(message);
  });

  it.each<[string, Settings, string]>([
    ["ranks", { rank: 3 }, "a has rank 2 and alpha 3 for model.layers.0.self_attn.q_proj and b rank 3 and alpha 3"],
    ["alphas", { rank: 2, alpha: 4 }, "b rank 2 and alpha 4; factors of one rank and alpha can be averaged."],
    ["kinds of scale", { rank: 2, rsLora: true }, "and b rank 2 and alpha 3 (rsLoRA)"],
  ])("of several %s, where factors are averaged", (_, other, message) => {
    expect(() => averageFactors([one, site(other, 1, "b")])).toThrow(message);
  });
});
