import { chmodSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { findChromium, findSoftwareGpu } from "../../src/cli/chromium.mjs";
import { checkNode, dependenciesInstalled } from "../../src/cli/setup.mjs";

let folder: string;

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), "espalier-setup-"));
});

afterEach(() => rmSync(folder, { recursive: true }));

/** A new executable file in the folder. */
function executable(name: string): string {
  const path = join(folder, name);
  writeFileSync(path, "#!/bin/sh\n");
  chmodSync(path, 0o755);
  return path;
}

describe("checkNode", () => {
  it.each(["20.19.0", "20.20.2", "22.0.0", "24.1.0"])("accepts Node %s", (version) => {
    expect(() => checkNode(version)).not.toThrow();
  });

  it.each(["18.20.0", "20.18.9"])("refuses Node %s, saying what is wanted and found", (version) => {
    expect(() => checkNode(version)).toThrow(`needs Node 20.19 or newer and found ${version}`);
  });
});

describe("dependenciesInstalled", () => {
  interface Package {
    version: string;
    optional?: boolean;
  }

  function project(wanted: Record<string, Package>, installed: Record<string, Package> | null): boolean {
    const root = { "": { version: "1.0.0" } };
    writeFileSync(join(folder, "package-lock.json"), JSON.stringify({ packages: { ...root, ...wanted } }));
    if (installed) {
      mkdirSync(join(folder, "node_modules"), { recursive: true });
      writeFileSync(join(folder, "node_modules", ".package-lock.json"), JSON.stringify({ packages: installed }));
    }
    return dependenciesInstalled(folder);
  }

  const idb = { "node_modules/idb": { version: "8.0.4" } };
  const native = { "node_modules/x-darwin": { version: "1.0.0", optional: true } };

  it("is false on a fresh clone", () => expect(project(idb, null)).toBe(false));

  it("is true when every package is there in its version", () => expect(project(idb, idb)).toBe(true));

  it("is false when a package is missing", () => expect(project(idb, {})).toBe(false));

  it("is false when a version is another", () => {
    expect(project(idb, { "node_modules/idb": { version: "8.0.3" } })).toBe(false);
  });

  it("does not miss packages for other platforms", () => expect(project({ ...idb, ...native }, idb)).toBe(true));
});

describe("findChromium", () => {
  it("prefers the one that CHROMIUM names", () => {
    executable("chromium");
    const named = executable("my-browser");
    expect(findChromium({ CHROMIUM: named, PATH: folder })).toBe(named);
  });

  it("takes one from PATH", () => {
    const found = executable("google-chrome");
    expect(findChromium({ PATH: folder })).toBe(found);
  });

  it("says so when CHROMIUM names nothing", () => {
    expect(() => findChromium({ CHROMIUM: join(folder, "gone") })).toThrow(/CHROMIUM should name .* does not exist/);
  });

  it("brings a software GPU driver along when it lies beside it", () => {
    const chromium = executable("chromium");
    writeFileSync(join(folder, "vk_swiftshader_icd.json"), "{}");
    expect(findSoftwareGpu({ CHROMIUM: chromium })).toBe(folder);
  });
});
