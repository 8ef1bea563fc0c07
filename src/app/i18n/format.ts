// Numbers and times as the language of the page writes them.

import type { Language } from "./messages.ts";

export interface Formats {
  /** 12,345 */
  whole: (value: number) => string;
  /** With so many decimals, always. */
  decimal: (value: number, decimals: number) => string;
  /** A number of any size, in three digits that count. */
  precise: (value: number) => string;
  /** A share of 1 as per cent. */
  percent: (share: number, decimals?: number) => string;
  /** A change as a share of 1, as per cent with its sign. */
  change: (share: number) => string;
  /** 1.04M */
  short: (value: number) => string;
  bytes: (value: number) => string;
  /** 3:07, or 1:02:05. */
  duration: (seconds: number) => string;
  dateTime: (ms: number) => string;
}

const made = new Map<Language, Formats>();

export function formatsOf(language: Language): Formats {
  const known = made.get(language);
  if (known) return known;
  const formats = make(language === "zh" ? "zh-CN" : "en-GB");
  made.set(language, formats);
  return formats;
}

const two = (value: number) => String(value).padStart(2, "0");

function make(locale: string): Formats {
  const number = (options: Intl.NumberFormatOptions, of = locale) => {
    const format = new Intl.NumberFormat(of, options);
    return (value: number) => format.format(value);
  };
  const fixed = [0, 1, 2, 3].map((digits) => number({ minimumFractionDigits: digits, maximumFractionDigits: digits }));
  const shares = [0, 1].map((digits) =>
    number({ style: "percent", minimumFractionDigits: digits, maximumFractionDigits: digits }),
  );
  const whole = number({ maximumFractionDigits: 0 });
  const precise = number({ maximumSignificantDigits: 3 });
  const scientific = number({ notation: "scientific", maximumSignificantDigits: 3 });
  const date = new Intl.DateTimeFormat(locale, { dateStyle: "medium", timeStyle: "short" });
  return {
    whole,
    decimal: (value, decimals) => fixed[decimals](value),
    precise: (value) =>
      (value !== 0 && (Math.abs(value) < 1e-3 || Math.abs(value) >= 1e6) ? scientific : precise)(value),
    percent: (share, decimals = 0) => shares[decimals](share),
    change: number({ style: "percent", maximumFractionDigits: 0, signDisplay: "exceptZero" }),
    // The field says 1.5B; en-GB would say 1.5bn.
    short: number({ notation: "compact", maximumSignificantDigits: 3 }, locale === "en-GB" ? "en" : locale),
    bytes(value) {
      if (value < 1000) return `${whole(value)} B`;
      if (value < 1e6) return `${fixed[value < 1e4 ? 1 : 0](value / 1e3)} kB`;
      if (value < 1e9) return `${fixed[1](value / 1e6)} MB`;
      return `${fixed[2](value / 1e9)} GB`;
    },
    duration(seconds) {
      const total = Math.round(seconds);
      const [h, m, s] = [Math.floor(total / 3600), Math.floor(total / 60) % 60, total % 60];
      return h > 0 ? `${h}:${two(m)}:${two(s)}` : `${m}:${two(s)}`;
    },
    dateTime: (ms) => date.format(ms),
  };
}
