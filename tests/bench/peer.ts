// A training step of a small GPT against jax-js, in one Chromium.

import { join } from "node:path";
import { chromium, type Page } from "playwright";
import { build, preview } from "vite";
import { chromiumArguments, findChromium } from "../../src/cli/chromium.mjs";
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
    const served = await servePage(root);
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

/** Build the page and serve it isolated from other origins, without which there are no threads. */
async function servePage(root: string): Promise<{ url: string; close: () => Promise<void> }> {
  const outDir = join(root, ".cache", "bench-page");
  const shared = {
    configFile: join(root, "vite.config.ts"),
    root: join(root, "tests", "bench", "page"),
    logLevel: "warn",
  } as const;
  await build({ ...shared, publicDir: false, build: { outDir, emptyOutDir: true } });
  const headers = { "Cross-Origin-Opener-Policy": "same-origin", "Cross-Origin-Embedder-Policy": "require-corp" };
  const server = await preview({ ...shared, build: { outDir }, preview: { port: 0, headers } });
  return { url: server.resolvedUrls!.local[0], close: () => server.close() };
}
