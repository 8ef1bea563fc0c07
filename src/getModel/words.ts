// The words and numbers of the page's language.

import { en, type Messages } from "./en.ts";
import type { Language, State } from "./state.ts";
import { zh } from "./zh.ts";

export interface Words {
  t: Messages;
  /** 3.55 GB */
  bytes: (value: number) => string;
  /** 42% */
  percent: (share: number) => string;
}

const made: Record<Language, Words> = { en: make(en, "en-GB"), zh: make(zh, "zh-CN") };

export const wordsOf = ({ language }: State): Words => made[language.value];

function make(t: Messages, locale: string): Words {
  const decimals = [0, 1, 2].map(
    (digits) => new Intl.NumberFormat(locale, { minimumFractionDigits: digits, maximumFractionDigits: digits }),
  );
  const share = new Intl.NumberFormat(locale, { style: "percent", maximumFractionDigits: 0, roundingMode: "floor" });
  return {
    t,
    bytes(value) {
      if (value < 1000) return `${decimals[0].format(value)} B`;
      if (value < 1e6) return `${decimals[1].format(value / 1e3)} kB`;
      return value < 1e9 ? `${decimals[1].format(value / 1e6)} MB` : `${decimals[2].format(value / 1e9)} GB`;
    },
    percent: (value) => share.format(value),
  };
}
