// What the page remembers of a person's choices.

import * as v from "valibot";
import type { Database } from "./database.ts";

const SettingsSchema = v.object({
  language: v.optional(v.picklist(["en", "zh"])),
  /** The recipe being edited, as it stood; read with parseRecipe before use. */
  draft: v.optional(v.unknown()),
});

export type Settings = v.InferOutput<typeof SettingsSchema>;

/** Settings that cannot be read count as not set. */
export async function readSettings(database: Database): Promise<Settings> {
  const records = await database.getAll("settings");
  const result = v.safeParse(SettingsSchema, Object.fromEntries(records.map(({ key, value }) => [key, value])));
  return result.success ? result.output : {};
}

/** Set these; leave the others as they are. */
export async function writeSettings(database: Database, settings: Settings): Promise<void> {
  const transaction = database.transaction("settings", "readwrite");
  const puts = Object.entries(settings).map(([key, value]) => transaction.store.put({ key, value }));
  await Promise.all([...puts, transaction.done]);
}
