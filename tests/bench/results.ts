// What the bench found: a list of plain results, printed as they come, kept as JSON and as a table between two marks of
// RESULTS.md.

import { exactly, type Spread } from "./measure.ts";

/** Which of RESULTS.md's tables a result belongs to: a real GPU's numbers are kept apart. */
export type Device = "software" | "gpu";

export interface Result {
  /** Name of the row, as --only takes it. */
  row: string;
  /** What was measured, with its sizes. */
  what: string;
  /** "wasm, Node" and the like. */
  where: string;
  device: Device;
  unit: "ms" | "tokens/s" | "GFLOP/s" | "dispatches" | "bytes" | "%" | "";
  /** Null: unmeasured, and `note` says why. */
  ours: Spread | null;
  /** What ours is compared with, if with anything. */
  theirs: { name: string; spread: Spread } | null;
  /** Times faster, or times fewer; null where nothing is compared. */
  ratio: number | null;
  target: string | null;
  reached: boolean | null;
  note?: string;
}

type Common = Pick<Result, "row" | "what" | "where" | "device" | "note">;

/** A comparison that asks for at least `target` times theirs (none: null). */
export function compared(
  common: Common,
  unit: Result["unit"],
  ours: Spread,
  theirs: { name: string; spread: Spread },
  target: number | null,
): Result {
  const moreIsBetter = unit === "tokens/s" || unit === "GFLOP/s";
  const ratio = moreIsBetter ? ours.median / theirs.spread.median : theirs.spread.median / ours.median;
  const judged = target === null ? { target: null, reached: null } : { target: `${target}x`, reached: ratio >= target };
  return { ...common, unit, ours, theirs, ratio, ...judged };
}

/** A number that should reach `least`. */
export function atLeast(common: Common, unit: Result["unit"], ours: Spread, least: number): Result {
  const target = `at least ${format(least)}`;
  return { ...common, unit, ours, theirs: null, ratio: null, target, reached: ours.median >= least };
}

/** A number that should stay at or below `most`. */
export function bounded(common: Common, unit: Result["unit"], ours: Spread, most: number): Result {
  const target = `at most ${format(most)}`;
  return { ...common, unit, ours, theirs: null, ratio: null, target, reached: ours.median <= most };
}

/** A count beside theirs, that should stay at or below `most`. */
export function counted(
  common: Common,
  ours: number,
  theirs: { name: string; count: number },
  most: number | null,
): Result {
  const other = { name: theirs.name, spread: exactly(theirs.count) };
  const judged = most === null ? { target: null, reached: null } : { target: `at most ${most}`, reached: ours <= most };
  return { ...common, unit: "dispatches", ours: exactly(ours), theirs: other, ratio: theirs.count / ours, ...judged };
}

/** A number that is told and not judged. */
export function told(common: Common, unit: Result["unit"], ours: Spread): Result {
  return { ...common, unit, ours, theirs: null, ratio: null, target: null, reached: null };
}

/** What this run could not measure, and why. */
export function unmeasured(common: Omit<Common, "note">, target: string | null, note: string): Result {
  return { ...common, unit: "ms", ours: null, theirs: null, ratio: null, target, reached: null, note };
}

/** One line for the terminal. */
export function line(result: Result): string {
  const { what, where, unit, ours, theirs, ratio, target, reached, note } = result;
  const said = [
    `${what}, ${where}:`,
    ours ? `${withSpread(ours)} ${unit}` : "unmeasured",
    theirs ? `(${theirs.name} ${withSpread(theirs.spread)})` : "",
    ratio === null ? "" : `${format(ratio)}x`,
    target === null ? "" : `[${target}: ${reached === null ? "unmeasured" : reached ? "reached" : "MISSED"}]`,
    note ? `- ${note}` : "",
  ];
  return said.filter((part) => part !== "").join(" ");
}

/** The results of one table as Markdown. */
export function table(results: Result[]): string {
  const head = ["measure", "where", "ours", "compared with", "ratio", "to reach", "reached"];
  const rows = results.map(({ what, where, unit, ours, theirs, ratio, target, reached, note }) => [
    note ? `${what} (${note})` : what,
    where,
    ours ? `${withSpread(ours)} ${unit}` : "unmeasured",
    theirs ? `${theirs.name}: ${withSpread(theirs.spread)}` : "",
    ratio === null ? "" : format(ratio),
    target ?? "",
    reached === null ? "" : reached ? "yes" : "**no**",
  ]);
  return [head, head.map(() => "---"), ...rows].map((cells) => `| ${cells.join(" | ")} |`).join("\n");
}

/** Put `text` between the file's two marks, whatever stood there. Throws if it has no such marks. */
export function between(file: string, text: string): string {
  const [begin, end] = [file.indexOf(BEGIN), file.indexOf(END)];
  if (begin < 0 || end < begin)
    throw new Error(`RESULTS.md should hold the lines "${BEGIN}" and "${END}"; put them back.`);
  return `${file.slice(0, begin + BEGIN.length)}\n\n${text}\n\n${file.slice(end)}`;
}

const BEGIN = "<!-- npm run bench writes from here -->";
const END = "<!-- to here -->";

function withSpread({ median, low, high, count }: Spread): string {
  return count === 1 ? format(median) : `${format(median)} (${format(low)} to ${format(high)})`;
}

/** Three digits that count. */
function format(value: number): string {
  if (value === 0) return "0";
  const digits = Math.max(0, 2 - Math.floor(Math.log10(Math.abs(value))));
  return value.toLocaleString("en-US", { maximumFractionDigits: Math.min(3, digits) });
}
