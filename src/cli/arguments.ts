// Command-line arguments: read by Node's own parser, refused in one sentence.

import { resolve } from "node:path";
import type { ParseArgsConfig } from "node:util";
import { parseArgs } from "node:util";

/** What the person asked for cannot be done as it was asked. Ends the program with exit code 2. */
export class UsageError extends Error {
  override name = "UsageError";
}

/** Node's `parseArgs`, its complaints as usage errors. */
export function readArguments<T extends ParseArgsConfig>(config: T): ReturnType<typeof parseArgs<T>> {
  try {
    return parseArgs(config);
  } catch (error) {
    // "Unknown option '--foo'. To specify a positional …": the first sentence is what matters.
    const [sentence] = (error as Error).message.split(/\.\s/, 1);
    throw new UsageError(`${sentence.replace(/\.$/, "")}. See --help.`);
  }
}

/** A whole number given as text for option `name`. */
export function wholeNumber(name: string, text: string, least: number, most: number): number {
  const value = Number(text);
  if (/^\d+$/.test(text) && value >= least && value <= most) return value;
  throw new UsageError(`--${name} wants a whole number from ${least} to ${most} and got "${text}".`);
}

/** One of `choices`, given as text for option `name`. */
export function oneOf<T extends string>(name: string, text: string, choices: readonly T[]): T {
  const choice = choices.find((each) => each === text);
  if (choice) return choice;
  throw new UsageError(`--${name} wants one of ${choices.join(", ")} and got "${text}".`);
}

/** A path as the person means it: npm runs scripts in the repository's folder, and paths are meant from where they are. */
export function fromCaller(path: string): string {
  return resolve(process.env.INIT_CWD ?? ".", path);
}

/** Run a program's main function and turn how it ends into an exit code: its own, 2 for usage errors, 1 for others. */
export async function endWith(main: () => Promise<number>): Promise<void> {
  try {
    process.exitCode = await main();
  } catch (error) {
    process.stderr.write(`${error instanceof Error ? error.message : String(error)}\n`);
    process.exitCode = error instanceof UsageError ? 2 : 1;
  }
}
