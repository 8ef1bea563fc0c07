import { describe, expect, it } from "vitest";
import { patternValues, type Targets, targetsOf } from "../../src/formats/peftTargets.ts";

const NAMES = [
  "model.layers.0.self_attn.q_proj",
  "model.layers.1.self_attn.q_proj",
  "model.layers.1.mlp.up_proj",
  "model.layers.11.self_attn.q_proj",
  "model.layers.1.mlp.experts.3.up_proj",
  "lm_head",
];

/** Places in NAMES of the modules that are adapted. */
const chosen = (targets: Targets) => NAMES.flatMap((name, i) => (targetsOf(targets)(name) ? [i] : []));

describe("modules are adapted", () => {
  it.each<[string, Targets, number[]]>([
    ["whose names end so", { modules: ["q_proj"] }, [0, 1, 3]],
    ["only at a dot", { modules: ["_proj", "proj"] }, []],
    ["by longer ends", { modules: ["1.self_attn.q_proj"] }, [1]],
    ["in some layers", { modules: ["q_proj", "up_proj"], layers: [1] }, [1, 2]],
    ["by the last number in a name", { modules: ["up_proj"], layers: [3] }, [4]],
    ["by the number after a list's name", { modules: ["up_proj"], layers: [1], layersPattern: ["layers"] }, [2, 4]],
    ["in no layer of another list", { modules: ["up_proj"], layers: [1], layersPattern: ["h"] }, []],
    ["in all layers, if none is named", { modules: ["q_proj"], layers: [] }, [0, 1, 3]],
    ["in full whatever the layers", { modules: [NAMES[0]], layers: [1] }, [0]],
    ["by a pattern of the whole name", { modules: String.raw`.*\.1\..*\.(q|up)_proj` }, [1, 2, 4]],
    ["not by a pattern of an end", { modules: "q_proj" }, []],
    ["all but the head", { modules: "all-linear" }, [0, 1, 2, 3, 4]],
    ["but not the excluded", { modules: "ALL-LINEAR", exclude: ["q_proj"] }, [2, 4]],
    ["but not the excluded by pattern", { modules: ["q_proj"], exclude: String.raw`.*\.11\..*` }, [0, 1]],
    ["by no name at all", { modules: [] }, []],
  ])("%s", (_, targets, places) => {
    expect(chosen(targets)).toEqual(places);
  });
});

describe("the value of a pattern", () => {
  it.each<[string, Record<string, number>, (number | undefined)[]]>([
    ["is that of a name's end", { q_proj: 2 }, [2, 2, undefined, 2, undefined, undefined]],
    ["is the first that matches", { "1.self_attn.q_proj": 3, q_proj: 2 }, [2, 3, undefined, 2, undefined, undefined]],
    ["may be of a whole name", { lm_head: 5 }, [undefined, undefined, undefined, undefined, undefined, 5]],
    ["counts a dot as any character", { "mlp.up.proj": 4 }, [undefined, undefined, 4, undefined, undefined, undefined]],
    ["is not of a name's middle", { self_attn: 4 }, Array.from(NAMES, () => undefined)],
  ])("%s", (_, patterns, values) => {
    expect(NAMES.map(patternValues(patterns))).toEqual(values);
  });
});
