import { readFileSync } from "node:fs";
import { expect, it } from "vitest";
import { GET_MODEL_HEADERS, SECURITY_HEADERS } from "../../src/cli/headers.ts";
import { HUB } from "../../src/getModel/hub.ts";

it("gives static hosts the headers that our own server sends, on everything", () => {
  const lines = readFileSync("public/_headers", "utf8")
    .split("\n")
    .filter((line) => line !== "" && !line.startsWith("#"));
  expect(lines[0]).toBe("/*");
  const headers = lines.slice(1).map((line) => /^ {2}([\w-]+): (.+)$/.exec(line)?.slice(1));
  expect(Object.fromEntries(headers as [string, string][])).toEqual(SECURITY_HEADERS);
});

it("gives static hosts the headers of the page that fetches models, for its folder only", () => {
  const [folder, ...lines] = readFileSync("src/getModel/_headers", "utf8")
    .split("\n")
    .filter((line) => line !== "" && !line.startsWith("#"));
  expect(folder).toBe("/get-model/*");
  const taken = lines.map((line) => /^ {2}! ([\w-]+)$/.exec(line)?.[1]).filter((name) => name !== undefined);
  const given = lines.flatMap((line) => /^ {2}([\w-]+): (.+)$/.exec(line)?.slice(1, 3) ?? []);
  const others = Object.entries(GET_MODEL_HEADERS).filter(([name, value]) => SECURITY_HEADERS[name] !== value);
  expect(taken).toEqual(others.map(([name]) => name));
  expect(given).toEqual(others.flat());
});

it("lets the page that fetches models talk to the hub, and the other one to nobody", () => {
  const connect = (headers: typeof SECURITY_HEADERS) =>
    /connect-src ([^;]+)/.exec(headers["Content-Security-Policy"])?.[1];
  expect(connect(SECURITY_HEADERS)).toBe("'self'");
  expect(SECURITY_HEADERS["Connection-Allowlist"]).toBe("(response-origin)");
  expect(connect(GET_MODEL_HEADERS)?.split(" ")).toEqual([HUB, "https://*.hf.co"]);
  const withoutConnect = (headers: typeof SECURITY_HEADERS) =>
    headers["Content-Security-Policy"].replace(/connect-src [^;]+/, "");
  expect(withoutConnect(GET_MODEL_HEADERS)).toBe(withoutConnect(SECURITY_HEADERS));
});

it.each(["index.html", "src/getModel/index.html"])(
  "leaves %s without script or style in its HTML, which the headers forbid",
  (file) => {
    const html = readFileSync(file, "utf8");
    expect(html.match(/<script(?![^>]*\ssrc=)|<style|\son\w+=|\sstyle=/g)).toBeNull();
    expect(html).not.toMatch(/https?:\/\//);
  },
);
