// TensorFlow.js for tests, bundled once. Its packages are a thousand modules, which every test file would load one by one
// (seconds each), and in which Node would find a second core (a CommonJS one, without gradients).

import { createHash } from "node:crypto";
import { existsSync, readFileSync, renameSync, rmSync } from "node:fs";
import { join, resolve } from "node:path";
import { build } from "vite";

const GRADIENTS = "@tensorflow/tfjs-core/dist/register_all_gradients";
const CHAINED_OPS = "@tensorflow/tfjs-core/dist/public/chained_ops/register_all_chained_ops";

/** What each bundle holds. The core comes with all it can register, so that the order of imports plays no part. */
const ENTRIES: Record<string, string> = {
  core: `export * from "@tensorflow/tfjs-core"; import "${GRADIENTS}"; import "${CHAINED_OPS}";`,
  cpu: `export * from "@tensorflow/tfjs-backend-cpu";`,
  wasm: `export * from "@tensorflow/tfjs-backend-wasm";`,
  webgpu: `export * from "@tensorflow/tfjs-backend-webgpu";`,
};

const PREFIX = "\0tensorflow:";

const BUNDLE_OF: Record<string, string> = {
  "@tensorflow/tfjs-core": "core",
  [GRADIENTS]: "core",
  [CHAINED_OPS]: "core",
  "@tensorflow/tfjs-backend-cpu": "cpu",
  "@tensorflow/tfjs-backend-wasm": "wasm",
  "@tensorflow/tfjs-backend-webgpu": "webgpu",
};

/** Make the bundles unless they are there. Returns what to import in place of each package. */
export async function bundledTensorFlow(place: "node" | "browser"): Promise<{ find: RegExp; replacement: string }[]> {
  const version = createHash("sha256").update(readFileSync("package-lock.json")).update(JSON.stringify(ENTRIES));
  const folder = resolve(".cache", "tensorflow", `${place}-${version.digest("hex").slice(0, 16)}`);
  if (!existsSync(folder)) await bundle(place, folder);
  return Object.entries(BUNDLE_OF).map(([specifier, name]) => ({
    find: new RegExp(`^${specifier}$`),
    replacement: join(folder, `${name}.js`),
  }));
}

async function bundle(place: "node" | "browser", folder: string): Promise<void> {
  const unfinished = `${folder}.${process.pid}`;
  await build({
    configFile: false,
    logLevel: "error",
    publicDir: false,
    plugins: [
      {
        name: "espalier:tensorflow",
        resolveId: (id) => (id.startsWith(PREFIX) ? id : null),
        load: (id) => (id.startsWith(PREFIX) ? ENTRIES[id.slice(PREFIX.length)] : null),
      },
    ],
    // Its wasm loader is CommonJS and asks where it lies.
    define: place === "node" ? { __dirname: "import.meta.dirname" } : {},
    ssr: { noExternal: true, external: ["node-fetch"] },
    build: {
      ssr: place === "node",
      target: "es2022",
      minify: false,
      outDir: unfinished,
      rollupOptions: {
        input: Object.fromEntries(Object.keys(ENTRIES).map((name) => [name, PREFIX + name])),
        output: { entryFileNames: "[name].js" },
        preserveEntrySignatures: "strict",
      },
    },
  });
  try {
    renameSync(unfinished, folder);
  } catch {
    rmSync(unfinished, { recursive: true }); // Another process was faster.
  }
}
