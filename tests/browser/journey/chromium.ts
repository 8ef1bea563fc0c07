// A Chromium driven from outside, for what only the built page on its own server can show.

import type { Browser } from "playwright";
import { chromium } from "playwright";
import { chromiumArguments, findChromium } from "../../../src/cli/chromium.mjs";

/** Start the Chromium of this machine. Whoever starts it closes it. */
export function startChromium(): Promise<Browser> {
  return chromium.launch({ executablePath: findChromium() ?? undefined, args: chromiumArguments });
}
