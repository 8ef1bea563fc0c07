// A visit to the built page on the server that serves it, and what must not happen during one.

import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";
import type { Page } from "playwright";
import { ensurePage, root } from "../../../src/cli/setup.mjs";
import { serveFolder } from "../../../src/cli/staticServer.ts";
import { startChromium } from "./chromium.ts";

export interface Visit {
  page: Page;
  url: string;
  /** Everything that must not happen: requests to others, errors, violations of the page's policy. */
  trouble: string[];
  end(): Promise<void>;
}

/** Build the page if need be, serve it, and open a window on nothing yet. */
export async function beginVisit(): Promise<Visit> {
  await ensurePage();
  const { server, url } = await serveFolder(join(root, "dist"), { port: 0, host: "127.0.0.1" });
  const browser = await startChromium();
  const context = await browser.newContext({ viewport: { width: 1440, height: 1000 }, locale: "en-GB" });
  const trouble: string[] = [];
  context.on("request", (request) => {
    const { origin, protocol, search } = new URL(request.url());
    const ours = `${origin}/` === url || protocol === "blob:" || protocol === "data:";
    if (!ours || request.method() !== "GET" || search !== "") trouble.push(`${request.method()} ${request.url()}`);
  });
  context.on("requestfailed", (request) => trouble.push(`failed: ${request.url()}`));
  context.on("console", (message) => {
    if (message.type() === "error") trouble.push(message.text());
  });
  context.on("weberror", (error) => trouble.push(error.error().message));
  await context.addInitScript(() => {
    document.addEventListener("securitypolicyviolation", ({ violatedDirective, blockedURI }) =>
      console.error(`policy: ${violatedDirective} ${blockedURI}`),
    );
  });
  context.setDefaultTimeout(20_000);
  const page = await context.newPage();
  const end = async (): Promise<void> => {
    await browser.close();
    server.close();
  };
  return { page, url, trouble, end };
}

/** Faults that axe-core finds on the page as it is. */
export async function accessibilityFaults(page: Page): Promise<string[]> {
  const source = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
  await page.evaluate(source);
  return page.evaluate(async () => {
    const { violations } = await (globalThis as unknown as { axe: typeof import("axe-core") }).axe.run();
    return violations.map(({ id, nodes }) => `${id}: ${nodes.map(({ html }) => html).join(" | ")}`);
  });
}
