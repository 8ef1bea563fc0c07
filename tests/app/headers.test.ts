import { readFileSync } from "node:fs";
import { expect, it } from "vitest";
import { SECURITY_HEADERS } from "../../src/cli/headers.ts";

it("gives static hosts the headers that our own server sends, on everything", () => {
  const lines = readFileSync("public/_headers", "utf8")
    .split("\n")
    .filter((line) => line !== "" && !line.startsWith("#"));
  expect(lines[0]).toBe("/*");
  const headers = lines.slice(1).map((line) => /^ {2}([\w-]+): (.+)$/.exec(line)?.slice(1));
  expect(Object.fromEntries(headers as [string, string][])).toEqual(SECURITY_HEADERS);
});

it("leaves the page without script or style in its HTML, which the headers forbid", () => {
  const html = readFileSync("index.html", "utf8");
  expect(html.match(/<script(?![^>]*\ssrc=)|<style|\son\w+=|\sstyle=/g)).toBeNull();
  expect(html).not.toMatch(/https?:\/\//);
});
