// Pages of measurements, served as the app is.

import { join } from "node:path";
import { build, preview } from "vite";

/** Build tests/NAME/page and serve it isolated from other origins, without which there are no threads. */
export async function servePage(root: string, name: string): Promise<{ url: string; close: () => Promise<void> }> {
  const outDir = join(root, ".cache", `${name}-page`);
  const shared = {
    configFile: join(root, "vite.config.ts"),
    root: join(root, "tests", name, "page"),
    logLevel: "warn",
  } as const;
  await build({ ...shared, publicDir: false, build: { outDir, emptyOutDir: true } });
  const headers = { "Cross-Origin-Opener-Policy": "same-origin", "Cross-Origin-Embedder-Policy": "require-corp" };
  const server = await preview({ ...shared, build: { outDir }, preview: { port: 0, headers } });
  return { url: server.resolvedUrls!.local[0], close: () => server.close() };
}
