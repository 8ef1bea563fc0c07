// The page's colours for what is drawn on a canvas: read from the style sheet, which knows light and dark.

import type { StageResultKind } from "../../protocol/report.ts";

export type ColorName =
  | "ink"
  | "muted"
  | "line"
  | "cut"
  | "heat-low"
  | "heat-high"
  | `stage-${"recover" | "chains" | "control" | "sft"}`;

/** The value of the style sheet's variable now, e.g. "#2f6b4f". */
export const colorOf = (name: ColorName): string =>
  getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();

/** Call `redraw` when light and dark change places. Returns how to stop. */
export function onColorsChange(redraw: () => void): () => void {
  const dark = matchMedia("(prefers-color-scheme: dark)");
  dark.addEventListener("change", redraw);
  return () => dark.removeEventListener("change", redraw);
}

export function stageColor(kind: StageResultKind): ColorName {
  switch (kind) {
    case "chains":
      return "stage-chains";
    case "directControl":
      return "stage-control";
    case "sft":
      return "stage-sft";
    case "recover":
    case "score":
    case "prune":
      return "stage-recover";
  }
}

const channel = (color: string, at: number) => Number.parseInt(color.slice(at, at + 2), 16);

/** Between two "#rrggbb" colours; `share` 0 is the first, 1 the second. */
export function mix(first: string, second: string, share: number): string {
  const parts = [1, 3, 5].map((at) => {
    const value = channel(first, at) + (channel(second, at) - channel(first, at)) * share;
    return Math.round(value).toString(16).padStart(2, "0");
  });
  return `#${parts.join("")}`;
}
