// A training step of a small GPT against jax-js, in one Chromium.

import { chromium, type Page } from "playwright";
import { chromiumArguments, findChromium } from "../../src/cli/chromium.mjs";
import { servePage } from "../servePage.ts";
import type { Backend, Row } from "./bench.ts";
import { type Patience, spreadOf } from "./measure.ts";
import type { ContestRequest, ContestResult } from "./page/contest.ts";
import { compared, type Result } from "./results.ts";

/** Rows and tokens of a batch: a few seconds a step at most. */
const BATCH: Record<Backend, [number, number]> = { wasm: [4, 64], webgpu: [2, 32] };

export const peer: Row = {
  name: "peer",
  says: "a training step of a 5M GPT against jax-js in the same Chromium",
  async *run({ browser, patience, root }) {
    if (!browser) return;
    const served = await servePage(root, "bench");
    const started = await chromium.launch({ executablePath: findChromium() ?? undefined, args: chromiumArguments });
    try {
      for (const backend of ["wasm", "webgpu"] as const) {
        const page = await started.newPage();
        await page.goto(served.url);
        yield await contest(page, backend, patience, started.version());
        await page.close();
      }
    } finally {
      await started.close();
      await served.close();
    }
  },
};

async function contest(page: Page, backend: Backend, patience: Patience, version: string): Promise<Result> {
  const [rows, length] = BATCH[backend];
  const request: ContestRequest = { backend, rows, length, patience };
  const { parameters, device, threads, ours, jax } = await page.evaluate(
    (asked): Promise<ContestResult> => globalThis.contest(asked),
    request,
  );
  const what = `training step, GPT of ${(parameters / 1e6).toFixed(1)}M, full, ${rows} x ${length}`;
  const software = backend === "wasm" || /software/i.test(device);
  const where = `${backend === "wasm" ? `wasm, ${threads} threads at most` : `WebGPU, ${device}`}, Chromium ${version}`;
  const common = { row: "peer", what, where, device: software ? "software" : "gpu" } as const;
  return compared(common, "ms", spreadOf(ours), { name: "jax-js", spread: spreadOf(jax) }, 3);
}
