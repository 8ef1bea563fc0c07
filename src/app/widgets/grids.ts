// Scores of the parts of a model as grids: one row per layer, one column per part.

import type { LayerPlan, LayerScores, Plan, Scores } from "../../protocol/report.ts";

export type PartKind = "heads" | "experts" | "channels" | "expertChannels";

export interface Grid {
  kind: PartKind;
  /** [layer][part]; a layer without such parts has an empty row. */
  scores: number[][];
  /** [layer][part]; null before pruning. */
  kept: boolean[][] | null;
}

const KINDS: PartKind[] = ["heads", "experts", "channels", "expertChannels"];

/** One grid for each kind of part that the model has. */
export function grids(scores: Scores, plan: Plan | null): Grid[] {
  return KINDS.map((kind) => ({
    kind,
    scores: scores.layers.map((layer) => partScores(layer, kind)),
    kept: plan && scores.layers.map((layer, index) => keptParts(layer, plan.layers[index], kind)),
  })).filter((grid) => grid.scores.some((row) => row.length > 0));
}

const partScores = (layer: LayerScores, kind: PartKind): number[] =>
  kind === "expertChannels" ? layer.expertChannels.flat() : layer[kind];

function keptParts(layer: LayerScores, plan: LayerPlan, kind: PartKind): boolean[] {
  if (kind !== "expertChannels") {
    const kept = new Set(plan[kind]);
    return layer[kind].map((_, index) => kept.has(index));
  }
  return layer.expertChannels.flatMap((channels, expert) => {
    const kept = new Set(plan.expertChannels[plan.experts.indexOf(expert)]);
    return channels.map((_, index) => kept.has(index));
  });
}

/**
 * Where each score stands between the least and the greatest of its grid, 0 to 1, on a logarithmic scale: gradients of
 * parts that matter and of parts that do not differ by orders of magnitude. At most four of them are shown.
 */
export function heat(grid: Grid): number[][] {
  const all = grid.scores.flat();
  const most = Math.max(...all);
  const floor = Math.max(most * 1e-4, Math.min(...all.filter((score) => score > 0), most));
  const range = Math.log(most / floor);
  return grid.scores.map((row) => row.map((score) => (score > floor ? Math.log(score / floor) / range : 0)));
}
