// One adapter from several that were trained apart, at sites whose data may not leave them: only adapters travel.

import { type Adapter, adapterScale, type LoraPair } from "./peftAdapter.ts";

/** An adapter and the rows that it was trained on, by which it counts. */
export interface Site {
  /** For messages. */
  name: string;
  adapter: Adapter;
  rows: number;
}

/**
 * The mean of what the adapters add to each weight, exactly: their factors are stacked (FLoRA; Wang et al., 2024), so the
 * rank is the sum of theirs. Throws a sentence if they are not of one base, on the same modules.
 */
export function averageStacked(sites: Site[]): Adapter {
  checkAlike(sites);
  const shares = sharesOf(sites);
  return withModules(sites, false, (module) => {
    const parts = sites.map(({ adapter }, i) => {
      const pair = adapter.modules.get(module)!;
      return { pair, factor: shares[i] * adapterScale(pair, adapter.rsLora) };
    });
    const { a, b, rank } = stack(parts);
    return { a, b, rank, alpha: rank }; // Their scales are in b: its own is 1.
  });
}

export interface FactorAverage {
  adapter: Adapter;
  /** What it adds to the weights differs from the exact mean by this part of it (Frobenius norms over all modules). */
  error: number;
}

/**
 * The mean of the factors, of the rank that each has (FedAvg; McMahan et al., 2017). The product of means is not the mean of
 * products, so this is not what the sites learned: `error` says by how much. Throws a sentence as averageStacked does, and
 * for ranks and alphas that differ.
 */
export function averageFactors(sites: Site[]): FactorAverage {
  checkAlike(sites);
  checkSameScales(sites);
  const shares = sharesOf(sites);
  const { rsLora } = sites[0].adapter;
  const adapter = withModules(sites, rsLora, (module) => {
    const pairs = sites.map((site) => site.adapter.modules.get(module)!);
    const mean = (of: (pair: LoraPair) => Float32Array) =>
      of(pairs[0]).map((_, k) => pairs.reduce((sum, pair, i) => sum + shares[i] * of(pair)[k], 0));
    return { ...pairs[0], a: mean(({ a }) => a), b: mean(({ b }) => b) };
  });
  return { adapter, error: distance(adapter, averageStacked(sites)) };
}

function withModules(
  sites: Site[],
  rsLora: boolean,
  average: (module: string) => Pick<LoraPair, "a" | "b" | "rank" | "alpha">,
): Adapter {
  const [first] = sites;
  const modules = [...first.adapter.modules].map(([module, { in: width, out }]): [string, LoraPair] => {
    return [module, { ...average(module), in: width, out }];
  });
  return { ...first.adapter, rsLora, modules: new Map(modules) };
}

/** Each site's rows over those of all. */
function sharesOf(sites: Site[]): number[] {
  const total = sites.reduce((sum, { rows }) => sum + rows, 0);
  return sites.map(({ rows }) => rows / total);
}

/** Factors of the sum of factor·B·A: A's one below the other, B's side by side. */
function stack(parts: { pair: LoraPair; factor: number }[]): { a: Float32Array; b: Float32Array; rank: number } {
  const { in: width, out } = parts[0].pair;
  const rank = parts.reduce((sum, { pair }) => sum + pair.rank, 0);
  const [a, b] = [new Float32Array(rank * width), new Float32Array(out * rank)];
  let from = 0;
  for (const { pair, factor } of parts) {
    a.set(pair.a, from * width);
    for (let row = 0; row < out; row++) {
      for (let k = 0; k < pair.rank; k++) b[row * rank + from + k] = factor * pair.b[row * pair.rank + k];
    }
    from += pair.rank;
  }
  return { a, b, rank };
}

function checkAlike(sites: Site[]): void {
  if (sites.length < 2) throw new Error(`An average wants two adapters or more, and ${sites.length} were given.`);
  const [first, ...others] = sites;
  for (const site of others) {
    const [one, other] = [first.adapter, site.adapter];
    if (one.baseModel !== other.baseModel) {
      throw new Error(
        `${first.name} is of the base "${one.baseModel}" and ${site.name} of "${other.baseModel}"; adapters of one base can be averaged.`,
      );
    }
    const module = [...one.modules.keys(), ...other.modules.keys()].find((each) => {
      const [a, b] = [one.modules.get(each), other.modules.get(each)];
      return !a || !b || a.in !== b.in || a.out !== b.out;
    });
    if (module === undefined) continue;
    throw new Error(
      `${first.name} has ${sizeOf(one, module)} for ${module} and ${site.name} ${sizeOf(other, module)}; adapters on the same modules of one base can be averaged.`,
    );
  }
}

function sizeOf({ modules }: Adapter, module: string): string {
  const pair = modules.get(module);
  return pair ? `${pair.in} inputs and ${pair.out} outputs` : "nothing";
}

function checkSameScales([first, ...others]: Site[]): void {
  for (const site of others) {
    for (const [module, pair] of first.adapter.modules) {
      const other = site.adapter.modules.get(module)!;
      const same = pair.rank === other.rank && pair.alpha === other.alpha;
      if (same && first.adapter.rsLora === site.adapter.rsLora) continue;
      throw new Error(
        `${first.name} has ${scaleOf(first.adapter, pair)} for ${module} and ${site.name} ${scaleOf(site.adapter, other)}; factors of one rank and alpha can be averaged. Average without --same-rank.`,
      );
    }
  }
}

function scaleOf({ rsLora }: Adapter, { rank, alpha }: LoraPair): string {
  return `rank ${rank} and alpha ${alpha}${rsLora ? " (rsLoRA)" : ""}`;
}

/** How far what `found` adds to the weights is from what `want` adds, over the latter: Frobenius norms over all modules. */
function distance(found: Adapter, want: Adapter): number {
  let [difference, size] = [0, 0];
  for (const [module, pair] of want.modules) {
    const own = found.modules.get(module)!;
    const exact = { pair, factor: adapterScale(pair, want.rsLora) };
    difference += squaredNorm([exact, { pair: own, factor: -adapterScale(own, found.rsLora) }]);
    size += squaredNorm([exact]);
  }
  return size === 0 ? 0 : Math.sqrt(Math.max(0, difference) / size);
}

/** Of the sum of factor·B·A, by the factors' own products: |BA|² = sum of (BᵀB)·(AAᵀ), without the product's many entries. */
function squaredNorm(parts: { pair: LoraPair; factor: number }[]): number {
  let sum = 0;
  for (const one of parts) {
    for (const other of parts) {
      const factor = one.factor * other.factor;
      for (let i = 0; i < one.pair.rank; i++) {
        for (let j = 0; j < other.pair.rank; j++)
          sum += factor * dotColumns(one.pair, i, other.pair, j) * dotRows(one.pair, i, other.pair, j);
      }
    }
  }
  return sum;
}

/** Column i of one's B times column j of the other's. */
function dotColumns(one: LoraPair, i: number, other: LoraPair, j: number): number {
  let sum = 0;
  for (let row = 0; row < one.out; row++) sum += one.b[row * one.rank + i] * other.b[row * other.rank + j];
  return sum;
}

/** Row i of one's A times row j of the other's. */
function dotRows(one: LoraPair, i: number, other: LoraPair, j: number): number {
  let sum = 0;
  for (let k = 0; k < one.in; k++) sum += one.a[i * one.in + k] * other.a[j * one.in + k];
  return sum;
}
