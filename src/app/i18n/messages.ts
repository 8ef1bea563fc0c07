// What every language module must say: what the English one says. A missing word is a compile error.

import type { en } from "./en.ts";

export type Language = "en" | "zh";
export type Messages = typeof en;
