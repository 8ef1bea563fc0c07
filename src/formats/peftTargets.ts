// Which modules an adapter is on, and with what rank and alpha: the rules by which PEFT matches names with names and
// patterns (its check_target_module_exists and get_pattern_key).

import { pythonPattern } from "./pythonPattern.ts";

export interface Targets {
  /**
   * Names of modules, or what their names end with ("q_proj", "self_attn.q_proj"). A text instead of a list is a pattern
   * of whole names, and "all-linear" every linear map but the output head.
   */
  modules: string[] | string;
  /** Numbers of layers that names are looked for in; all, if not given. Names written in full are not asked. */
  layers?: number[];
  /** What the list of layers is called; anything, if not given. */
  layersPattern?: string[];
  /** As `modules`: never adapted. */
  exclude?: string[] | string;
}

const ALL_LINEAR = "all-linear";

/** A function that says whether a module is adapted. Throws a sentence for a pattern that cannot be read. */
export function targetsOf({ modules, layers, layersPattern, exclude = [] }: Targets): (module: string) => boolean {
  const excluded = typeof exclude === "string" ? pythonPattern(exclude) : endsWithOneOf(exclude);
  if (typeof modules === "string" && modules.toLowerCase() === ALL_LINEAR)
    return (module) => !excluded(module) && !/(^|\.)lm_head$/.test(module);
  if (typeof modules === "string") {
    const matches = pythonPattern(modules);
    return (module) => !excluded(module) && matches(module);
  }
  const full = new Set(modules);
  const ends = endsWithOneOf(modules);
  const inLayers = layers?.length ? inOneOf(layers, layersPattern) : () => true;
  return (module) => !excluded(module) && (full.has(module) || (ends(module) && inLayers(module)));
}

function endsWithOneOf(names: string[]): (module: string) => boolean {
  return (module) => names.some((name) => module === name || module.endsWith(`.${name}`));
}

/** Whether a name stands in one of these layers: of several numbers in it the last one counts. */
function inOneOf(layers: number[], lists: string[] = []): (module: string) => boolean {
  return (module) => {
    const parts = module.split(".");
    const layerOf = (list?: string): string | undefined =>
      parts.findLast((part, i) => {
        const inside = i >= 2 && i < parts.length - 1;
        return inside && /^\d+$/.test(part) && (list === undefined || parts[i - 1] === list);
      });
    const layer = lists.length === 0 ? layerOf() : lists.map(layerOf).find((found) => found !== undefined);
    return layer !== undefined && layers.includes(Number(layer));
  };
}

/** A function from a module to the value of the first pattern that its name, or the end of it, matches. */
export function patternValues(patterns: Record<string, number>): (module: string) => number | undefined {
  const compiled = Object.entries(patterns).map(([key, value]) => [pythonPattern(`(.*\\.)?(${key})`), value] as const);
  return (module) => compiled.find(([matches]) => matches(module))?.[1];
}
