import { createHash } from "node:crypto";
import { existsSync, mkdirSync, readdirSync, readFileSync, renameSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import type { Plugin } from "vite";
import { defineConfig } from "vite";

/** The kernels compute in place on the heap of TensorFlow.js, which has this maximum. */
const OPTIONS =
  "-O3 --runtime stub --noAssert --use abort= --enable simd --enable threads " +
  "--importMemory --initialMemory 1 --maximumMemory 65536";

/**
 * `import base64 from "./x.ts?assembly"` compiles AssemblyScript to WebAssembly and yields its bytes as base64;
 * "?assembly&relaxed" compiles it for relaxed SIMD.
 *
 * Compiled bytes are kept under .cache by the hash of every source file beside the entry.
 */
function assembly(): Plugin {
  return {
    name: "espalier:assembly",
    enforce: "pre",
    async load(id) {
      const [, entry, relaxed] = /^(.*)\?assembly(&relaxed)?$/.exec(id) ?? [];
      if (!entry) return null;
      const folder = dirname(entry);
      const sources = readdirSync(folder)
        .filter((name) => name.endsWith(".ts"))
        .toSorted()
        .map((name) => join(folder, name));
      for (const source of sources) this.addWatchFile(source);
      const hash = createHash("sha256").update(OPTIONS);
      for (const source of sources) hash.update(readFileSync(source));
      const name = `${hash.digest("hex").slice(0, 16)}${relaxed ? "-relaxed" : ""}.wasm`;
      const cached = join(".cache", "assembly", name);
      if (!existsSync(cached)) {
        const bytes = await compile(entry, relaxed ? ["relaxed-simd"] : []);
        mkdirSync(dirname(cached), { recursive: true });
        writeFileSync(`${cached}.${process.pid}`, bytes);
        renameSync(`${cached}.${process.pid}`, cached); // Whole, should another process look for it.
      }
      return `export default "${readFileSync(cached).toString("base64")}";`;
    },
  };
}

async function compile(entry: string, features: string[]): Promise<Uint8Array> {
  const asc = await import("assemblyscript/asc");
  const output = new Map<string, Uint8Array>();
  let complaints = "";
  const { error } = await asc.main(
    [entry, "--outFile", "out.wasm", ...OPTIONS.split(" "), ...features.flatMap((feature) => ["--enable", feature])],
    {
      stderr: { write: (text: Uint8Array | string) => (complaints += String(text)) },
      writeFile: (name: string, contents: Uint8Array | string) => {
        if (typeof contents !== "string") output.set(name, contents);
      },
    },
  );
  const bytes = output.get("out.wasm");
  if (error || !bytes) throw new Error(`${entry} does not compile:\n${complaints}`);
  return bytes;
}

/** The compiler of the kernels takes most of a build; that is no news each time. */
const rolldownOptions = { checks: { pluginTimings: false } };

export default defineConfig({
  plugins: [assembly()],
  base: "./",
  worker: { format: "es", plugins: () => [assembly()], rolldownOptions },
  build: { target: "es2022", assetsInlineLimit: 0, rolldownOptions },
});
